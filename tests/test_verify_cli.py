"""`dropsign verify` tells for every file whether its FILE.sign fits, whatever its name, and names what does not."""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

KEY = ec.generate_private_key(ec.SECP256R1())
HOSTILE = [
    b"plain",
    b"with space",
    b"-dash",
    b"new\nline",
    b"quote\"'",
    b"\xff\xfe not utf-8",
    "emoji \U0001f4a9".encode(),
    b"tab\tand\x1b[31mescape",
    b"x.sign.txt",
    b"[red]markup",
]


def verify(
    directory: Path, *arguments: str | bytes | Path, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    base = {name: value for name, value in os.environ.items() if not name.startswith("DROPSIGN_")}
    return subprocess.run(
        [sys.executable, "-m", "dropsign", "verify", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env=base | (environment or {}),
    )


def verdicts(directory: Path, *arguments: str | bytes | Path) -> dict[bytes, str]:
    done = verify(directory, "--json", "--key", directory / "key.pem", *arguments)
    assert not done.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    found = {os.fsencode(line["path"]): line["verdict"] for line in lines}
    assert len(found) == len(lines)
    assert done.returncode == (0 if set(found.values()) <= {"ok"} else 1)
    return found


def write(directory: Path, name: bytes, content: bytes = b"content", *, signed: bytes | None = b"content") -> bytes:
    """Write a file and a signature for what is said to be signed."""
    path = os.fsencode(directory) + b"/" + name
    Path(os.fsdecode(path)).write_bytes(content)
    if signed is not None:
        text = base64.b64encode(KEY.sign(signed, ec.ECDSA(hashes.SHA256())))
        Path(os.fsdecode(path + b".sign")).write_bytes(text)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a public key and, in `files`, nothing yet."""
    (tmp_path / "key.pem").write_bytes(
        KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "files").mkdir()
    return tmp_path


def test_all_well(place: Path) -> None:
    """Files of any name, nested or not, verify; exit 0, and one line of summary."""
    (place / "files/sub/sub").mkdir(parents=True)
    for directory in "files", "files/sub/sub":
        for name in HOSTILE:
            write(place / directory, name)
    found = verdicts(place, "files")
    assert set(found) == {directory + b"/" + name for directory in (b"files", b"files/sub/sub") for name in HOSTILE}
    assert set(found.values()) == {"ok"}
    assert verify(place, "--key", "key.pem", "files").stdout == "20 ok\n"


def test_what_is_wrong(place: Path) -> None:
    """Each thing that can be wrong has its own word, and each file is named."""
    files = place / "files"
    write(files, b"good")
    write(files, b"unsigned", signed=None)
    write(files, b"wrong", signed=b"other")
    stale = write(files, b"stale", signed=b"before")
    os.utime(stale + b".sign", (1, 1))
    os.mkfifo(files / "fifo-sign.sign")
    write(files, b"fifo-sign", signed=None)
    write(files, b"empty-sign")
    (files / "empty-sign.sign").write_bytes(b"")
    assert verdicts(place, "files", "nowhere") == {
        b"files/good": "ok",
        b"files/unsigned": "unsigned",
        b"files/wrong": "wrong",
        b"files/stale": "stale",
        b"files/fifo-sign": "unreadable",
        b"files/empty-sign": "wrong",
        b"nowhere": "missing",
    }


def test_names_stay_on_their_line(place: Path) -> None:
    """Each file that is wrong is named on one line that is safe for a terminal, and in JSON on one of ASCII."""
    for name in HOSTILE:
        write(place / "files", name, signed=None)
    done = verify(place, "--key", "key.pem", "files")
    assert done.returncode == 1
    *lines, summary, end = done.stdout.split("\n")
    assert len(lines) == len(HOSTILE)
    assert all(line.startswith("unsigned   files/") and line.isprintable() for line in lines)
    assert (summary, end) == (f"{len(HOSTILE)} unsigned", "")
    assert "dropsign explain FILE tells why" in done.stderr
    as_json = verify(place, "--key", "key.pem", "--json", "files").stdout
    assert as_json.count("\n") == len(HOSTILE)
    assert as_json.isascii()


def test_an_old_signature_that_fits(place: Path) -> None:
    """A touched file whose content is what was signed is fine: the times alone prove nothing."""
    path = write(place / "files", b"touched")
    os.utime(path + b".sign", (1, 1))
    assert verdicts(place, "files") == {b"files/touched": "ok"}


def test_what_is_no_drop(place: Path) -> None:
    """Directories are walked as an outbox is: links, special files, hidden and unfinished files are passed over."""
    files = place / "files"
    write(files, b"file")
    for name in (b".hidden", b"file.part", b"file.sign-error", b".dropsign-0123456789ab-1.tmp"):
        write(files, name, signed=None)
    (files / "link").symlink_to("unsigned")
    (files / "directory-link").symlink_to("/etc")
    (files / "orphan.sign").write_bytes(b"x")
    (files / ".git").mkdir()
    write(files / ".git", b"inside", signed=None)
    os.mkfifo(files / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(files / "socket"))
        assert verdicts(place, "files") == {b"files/file": "ok"}


def test_named_files(place: Path) -> None:
    """A file given itself is checked in any case; FILE.sign stands for FILE; links and special files are not read."""
    files = place / "files"
    write(files, b".hidden")
    write(files, b"signed")
    (files / "link").symlink_to("signed")
    (files / "orphan.sign").write_bytes(b"x")
    os.mkfifo(files / "fifo")
    given = ["files/.hidden", "files/signed.sign", "files/link", "files/orphan.sign", "files/fifo"]
    assert verdicts(place, *given) == {
        b"files/.hidden": "ok",
        b"files/signed": "ok",
        b"files/link": "unreadable",
        b"files/orphan": "missing",
        b"files/fifo": "unreadable",
    }


@pytest.mark.may_be_skipped
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(place: Path) -> None:
    """What may not be read is named, and the rest is verified."""
    write(place / "files", b"good")
    secret = write(place / "files", b"secret")
    Path(os.fsdecode(secret)).chmod(0)
    assert verdicts(place, "files") == {b"files/good": "ok", b"files/secret": "unreadable"}


def test_deep_trees(place: Path) -> None:
    """A tree deeper than Python's stack is walked."""
    depth, directory = 1200, os.open(place / "files", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=directory))
    os.close(directory)
    try:
        assert verdicts(place, "files") == {b"files/" + b"d/" * depth + b"file": "unsigned"}
    finally:  # too deep for pytest to clear away
        subprocess.run(["rm", "-r", place / "files"], check=True)


def test_nothing(place: Path) -> None:
    """An empty directory is no failure, and said to be empty."""
    done = verify(place, "--key", "key.pem", "files")
    assert (done.returncode, done.stdout) == (0, "there is nothing to verify\n")


def test_large_files_stream(place: Path) -> None:
    """A file larger than the memory that the process may have is verified."""
    with (place / "files/large").open("w+b") as file:
        file.truncate(1 << 30)
        digest = hashlib.file_digest(file, "sha256").digest()
    signature = KEY.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    (place / "files/large.sign").write_bytes(base64.b64encode(signature))
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({200 << 20}, {200 << 20}));"
    limit += "from dropsign.cli import run; raise SystemExit(run())"
    done = subprocess.run(
        [sys.executable, "-c", limit, "verify", "--key", "key.pem", "files"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 ok\n", "")


def test_other_schemes(place: Path) -> None:
    """--scheme says how signatures were made."""
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (place / "ed.pem").write_bytes(public)
    (place / "files/a").write_bytes(b"a")
    (place / "files/a.sign").write_bytes(base64.b64encode(key.sign(b"a")))
    done = verify(place, "--key", "ed.pem", "--scheme", "ed25519", "files")
    assert (done.returncode, done.stdout) == (0, "1 ok\n")


CONFIGURATION = """
[outbox]
path = "files"
recursive = {recursive}
exclude = ["/sub/skipped"]
[service]
url = "https://localhost"
[verify]
key = "{key}"
"""


def test_configuration(place: Path) -> None:
    """Key and filters come from a configuration; patterns are relative to the outbox wherever the walk begins."""
    (place / "config.toml").write_text(CONFIGURATION.format(recursive="true", key="key.pem"))
    (place / "files/sub").mkdir()
    write(place / "files/sub", b"skipped", signed=None)
    write(place / "files/sub", b"file.part")
    for start in "files", "files/sub":
        done = verify(place, start, environment={"DROPSIGN_CONFIG": "config.toml"})
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 ok\n", "")
    (place / "config.toml").write_text(CONFIGURATION.format(recursive="false", key="key.pem"))
    done = verify(place, "files", environment={"DROPSIGN_CONFIG": "config.toml"})
    assert done.stdout == "there is nothing to verify\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["files"], "there is no key to verify with; give --key FILE, or set verify.key"),
        (["files", "--key", "none.pem"], "none.pem cannot be read: No such file"),
        (["files", "--key", "key.pem", "--scheme", "ed25519"], "does not fit ed25519; set verify.scheme (--scheme) to"),
        (["files", "--key", "files"], "files cannot be read: Is a directory"),
    ],
)
def test_mistakes(place: Path, arguments: list[str], says: str) -> None:
    """Each mistake gets one line with its remedy, and exit 2."""
    done = verify(place, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_such_configuration(place: Path) -> None:
    """A configuration that was asked for must be there."""
    done = verify(place, "files", "--key", "key.pem", environment={"DROPSIGN_CONFIG": "none.toml"})
    assert done.returncode == 2
    assert "none.toml: there is no such file" in done.stderr


def test_usage(place: Path) -> None:
    """No path, or a scheme that is none: usage, exit 2."""
    assert verify(place).returncode == 2
    assert verify(place, "files", "--key", "key.pem", "--scheme", "rot13").returncode == 2
