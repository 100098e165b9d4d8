"""`dropsign bundle`: the same files give the same bytes, the usual tools open them, and what is not signed stops it."""

import base64
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from dropsign import cli
from dropsign.bundle import ChangedError, Survey, write
from dropsign.filters import Filters
from dropsign.verifier import Verifier
from tests.support.names import HOSTILE
from tests.support.sandbox import Sandbox

KEY = ec.generate_private_key(ec.SECP256R1())


class Done(NamedTuple):
    """What a command line came to, run in this process."""

    returncode: int
    stdout: str
    stderr: str


def dropsign(*arguments: str | Path) -> Done:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = cli.run([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), err.getvalue())


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip


def sign(content: bytes) -> bytes:
    return base64.b64encode(KEY.sign(content, ec.ECDSA(hashes.SHA256())))


def fill(directory: Path, contents: dict[bytes, tuple[bytes, bytes]]) -> None:
    """Write files and signatures, in an order and with times and modes of chance."""
    names = list(contents)
    random.shuffle(names)
    for name in names:
        path = os.path.join(os.fsencode(directory), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        for part, text in zip((path, path + b".sign"), contents[name], strict=True):
            with open(part, "wb") as file:
                file.write(text)
            os.utime(part, (random.randrange(2**31), random.randrange(2**31)))
            os.chmod(part, random.choice([0o600, 0o644, 0o755]))


def delivery(names: Iterable[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
    contents = {}
    for index, name in enumerate(names):
        for place in (name, b"sub/dir.d/" + name):
            content = hashlib.sha256(place).digest() * (index * 331)
            contents[place] = (content, sign(content))
    return contents


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a public key and, in `files`, one signed file."""
    (tmp_path / "key.pem").write_bytes(pem(KEY))
    (tmp_path / "files").mkdir()
    fill(tmp_path / "files", {b"good": (b"content", sign(b"content"))})
    return tmp_path


def bundle(place: Path, out: Path, *arguments: str | Path, directory: str = "files") -> Done:
    return dropsign("bundle", place / directory, "-o", out, "--key", place / "key.pem", *arguments)


def untar(archive: Path, directory: Path) -> None:
    subprocess.run(["tar", "-xzf", archive, "-C", directory], check=True)


def unzip(archive: Path, directory: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        assert packed.testzip() is None
        packed.extractall(directory)


@pytest.mark.parametrize(("suffix", "unpack"), [(".tar.gz", untar), (".zip", unzip)])
def test_same_files_same_bytes(place: Path, suffix: str, unpack: Callable[[Path, Path], None]) -> None:
    """Times, modes and order do not count; unpacked elsewhere, sha256sum and verify are content."""
    names = [name for name in HOSTILE if suffix == ".tar.gz" or b"utf-8" not in name]
    contents = delivery([*names, b"empty", b"d" * 120 + b"/" + b"e" * 200])
    archives = []
    for number in range(2):
        directory = place / f"copy{number}"
        fill(directory, contents)
        (directory / ".hidden").write_text("left out")
        (directory / "gone.sign").write_text("whose file was picked up")
        archives.append(place / f"out{number}{suffix}")
        done = bundle(place, archives[-1], directory=directory.name)
        assert done.returncode == 0, done
        assert f"{len(contents)} files with their signatures" in done.stdout
        assert "1 left out" in done.stdout
    first, second = (archive.read_bytes() for archive in archives)
    assert first == second

    unpacked = place / "unpacked"
    unpacked.mkdir()
    unpack(archives[0], unpacked)
    assert {file.stat().st_mode & 0o777 for file in unpacked.iterdir() if file.is_file()} == {0o644}
    listed = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=unpacked, capture_output=True, check=False
    )
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert listed.stdout.count(b": OK\n") == 2 * len(contents)
    for name, (content, text) in contents.items():
        path = os.path.join(os.fsencode(unpacked), name)
        assert Path(os.fsdecode(path)).read_bytes() == content
        assert Path(os.fsdecode(path + b".sign")).read_bytes() == text
    verified = dropsign("verify", "--key", place / "key.pem", unpacked)
    assert verified == (0, f"{len(contents)} ok\n", "")
    (unpacked / "empty").unlink()
    assert dropsign("verify", "--key", place / "key.pem", unpacked).stdout.startswith("missing")


def test_refusals_are_all_named(place: Path) -> None:
    """Whatever is unsigned, stale, wrong or no file is named; no bundle comes, and an earlier one stays."""
    out, files = place / "out.tar.gz", place / "files"
    out.write_text("earlier")
    fill(files, {b"sub/wrong": (b"content", sign(b"other")), b"stale": (b"content", sign(b"before"))})
    for older, newer in (("stale.sign", "stale"), ("sub/wrong", "sub/wrong.sign")):
        os.utime(files / older, (1, 1))
        os.utime(files / newer)
    (files / "unsigned").write_text("x")
    (files / "link").symlink_to("good")
    os.mkfifo(files / "fifo")
    (files / "SHA256SUMS").write_text("of somebody else")
    done = bundle(place, out)
    assert done.returncode == 1
    assert sorted(line.split("  (")[0].replace(str(files), "") for line in done.stdout.splitlines()) == [
        "stale      /stale",
        "unreadable /SHA256SUMS",
        "unreadable /fifo",
        "unreadable /link",
        "unsigned   /unsigned",
        "wrong      /sub/wrong",
    ]
    assert "6 of the files" in done.stderr
    assert out.read_text() == "earlier"
    assert sorted(path.name for path in place.iterdir()) == ["files", "key.pem", "out.tar.gz"]


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
@pytest.mark.parametrize(
    "change", [b"CONTENT", b"content and more", b"con", None], ids=["other", "longer", "shorter", "gone"]
)
def test_a_file_that_changes_while_it_is_packed(place: Path, suffix: str, change: bytes | None) -> None:
    """What is packed is what was verified, or nothing is there."""
    out, file = place / f"out{suffix}", place / "files/good"
    verifier = Verifier.load(place / "key.pem", "ecdsa-sha256")
    survey = Survey(place / "files", out, verifier, Filters(["**"], []))
    assert not list(survey.flaws(None, recursive=True))
    before = file.stat()
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ChangedError, match="good: c"):
        write(place / "files", out, survey.members)
    assert sorted(path.name for path in place.iterdir()) == ["files", "key.pem"]


def test_out_in_the_directory_itself(place: Path) -> None:
    """A bundle made in the directory that it packs is no part of the next one."""
    out = place / "files/all.zip"
    assert bundle(place, out).returncode == 0
    first = out.read_bytes()
    assert bundle(place, out).returncode == 0
    assert out.read_bytes() == first
    assert zipfile.ZipFile(out).namelist() == ["SHA256SUMS", "good", "good.sign"]


def test_ed25519(place: Path) -> None:
    """A scheme that signs the content itself works as well, by the option."""
    key = ed25519.Ed25519PrivateKey.generate()
    (place / "key.pem").write_bytes(pem(key))
    fill(place / "files", {b"good": (b"content", base64.b64encode(key.sign(b"content")))})
    assert bundle(place, place / "out.tgz", "--scheme", "ed25519").returncode == 0
    fill(place / "files", {b"good": (b"contend", base64.b64encode(key.sign(b"content")))})
    assert bundle(place, place / "out.tgz", "--scheme", "ed25519").returncode == 1


def test_without_a_key_the_journal_decides(box: Sandbox, tmp_path: Path) -> None:
    """Beside the running daemon, the digests that it recorded tell what matches; outside its outbox they cannot."""
    box.configure("outbox", exclude=["*.log"])
    box.start_daemon()
    out = tmp_path / "out.tar.gz"
    paths = [box.drop(b"release/" + name, b"content of " + name) for name in HOSTILE]
    box.drop("release/build.log")
    box.drop("elsewhere")
    box.wait_signed(*paths, box.outbox / "elsewhere")
    box.wait_idle()
    done = dropsign("--config", box.config, "bundle", box.outbox / "release", "-o", out)
    assert done.returncode == 0, done
    assert f"{len(paths)} files" in done.stdout
    assert "1 left out" in done.stdout
    assert box.stop_daemon() == 0
    paths[0].write_bytes(b"changed")
    box.sign_of(paths[1]).write_bytes(box.sign_of(paths[2]).read_bytes())
    out.unlink()
    done = dropsign("--config", box.config, "bundle", box.outbox / "release", "-o", out)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)
    assert not out.exists()
    shutil.copytree(box.outbox, tmp_path / "copy")
    done = dropsign("--config", box.config, "bundle", tmp_path / "copy", "-o", out)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "give --key FILE" in done.stderr


def test_memory_does_not_grow_with_the_files(place: Path) -> None:
    """A large file is streamed, by a process that may not have memory for it."""
    size = 128 * 1024 * 1024
    with open(place / "files/large", "wb") as file:
        file.truncate(size)
    digest = hashlib.sha256()
    for _ in range(128):
        digest.update(bytes(size // 128))
    text = KEY.sign(digest.digest(), ec.ECDSA(Prehashed(hashes.SHA256())))
    (place / "files/large.sign").write_bytes(base64.b64encode(text))
    # Not ru_maxrss, which a process inherits from the one that started it.
    script = (
        "import re, sys; from dropsign.cli import run; code = run(sys.argv[1:]);"
        " print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]); sys.exit(code)"
    )
    for suffix in (".tar.gz", ".zip"):
        command = [sys.executable, "-c", script, "bundle", "files", "-o", f"out{suffix}", "--key", "key.pem"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) < 100 * 1024, "KiB"


def test_mistakes(place: Path) -> None:
    """A mistake on the command line gets one line and exit 2, and nothing is made."""
    for directory, out, says in (
        ("files", "out.rar", "must end in .tar.gz or .zip"),
        ("nowhere", "out.zip", "is no directory"),
        ("files/good", "out.zip", "is no directory"),
        ("files", "no/such/out.zip", "cannot be written"),
    ):
        done = bundle(place, place / out, directory=directory)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
        assert says in done.stderr
    (place / "void").mkdir()
    done = bundle(place, place / "out.zip", directory="void")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "nothing in" in done.stderr
    fill(place / "files", {b"\xff": (b"", sign(b""))})
    done = bundle(place, place / "out.zip")
    assert done.returncode == 1
    assert "make a .tar.gz" in done.stdout
    assert sorted(path.name for path in place.iterdir()) == ["files", "key.pem", "void"]
