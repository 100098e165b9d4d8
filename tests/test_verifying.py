"""Each scheme, from end to end: the daemon publishes and keeps only what verifies, and openssl alone agrees with us."""

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from dropsign import cli
from tests.support.sandbox import Sandbox, wait_until

DOCUMENT = Path(__file__).parent.parent / "docs" / "verifying.md"

SHA256 = hashes.SHA256()


class Scheme(NamedTuple):
    """How keys are made, and how they sign."""

    name: str
    key: Callable[[], Any]
    sign: Callable[[Any, bytes], bytes]


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


SCHEMES = [
    Scheme(
        "ecdsa-sha256",
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda key, content: key.sign(content, ec.ECDSA(SHA256)),
    ),
    Scheme(
        "rsa-pss-sha256",
        rsa_key,
        lambda key, content: key.sign(content, padding.PSS(padding.MGF1(SHA256), padding.PSS.MAX_LENGTH), SHA256),
    ),
    Scheme("rsa-pkcs1v15-sha256", rsa_key, lambda key, content: key.sign(content, padding.PKCS1v15(), SHA256)),
    Scheme("ed25519", ed25519.Ed25519PrivateKey.generate, lambda key, content: key.sign(content)),
]


@pytest.fixture(params=SCHEMES, ids=lambda scheme: scheme.name)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    found: Scheme = request.param
    return found


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def certificate_pem(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signing")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def documented(heading: str) -> list[str]:
    """Return the commands in a section of the document."""
    section = DOCUMENT.read_text("utf-8").split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    return [line.strip() for line in section.splitlines() if line.startswith("    ")]


@pytest.mark.openssl
def test_documented_commands(scheme: Scheme, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands in docs/verifying.md accept what fits and nothing else, by certificate too; so does `verify`."""
    key = scheme.key()
    (tmp_path / "signing.cert.pem").write_bytes(certificate_pem(key))
    content = bytes(range(256)) * 999
    file = tmp_path / "report.pdf"
    sign = base64.b64encode(scheme.sign(key, content))
    commands = documented("## Without dropsign")[:1] + documented(f"### {scheme.name}")
    assert len(commands) == 3
    for text, fits in ((content, True), (content[:-1] + b"x", False)):
        file.write_bytes(text)
        (tmp_path / "report.pdf.sign").write_bytes(sign)
        done = subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode == 0) is fits, done
        for given in ("signing.cert.pem", "signing.pub.pem"):
            arguments = ["--key", str(tmp_path / given), "--scheme", scheme.name, "--json", str(file)]
            assert cli.run(["verify", *arguments]) == (0 if fits else 1)
            verdict = json.loads(capsys.readouterr().out)["verdict"]
            assert (verdict == "ok") is fits, verdict


def test_daemon_publishes_and_keeps_only_what_verifies(scheme: Scheme, box: Sandbox) -> None:
    """With a key set, a signature by another never appears, and of those made before only the good are kept."""
    key = scheme.key()
    (box.directory / "signing.pub.pem").write_bytes(public_pem(key))
    box.configure("verify", key=str(box.directory / "signing.pub.pem"), scheme=scheme.name)
    good, bad, large = box.drop("good", b"content"), box.drop("bad", b"content"), box.drop("large", bytes(300_000))
    for path in (good, large):
        box.sign_of(path).write_bytes(base64.b64encode(scheme.sign(key, path.read_bytes())))
    box.sign_of(bad).write_bytes(base64.b64encode(scheme.sign(key, b"other")))
    kept = {path: box.sign_of(path).read_bytes() for path in (good, large)}
    box.start_daemon()
    new = box.drop("new")
    wait_until(lambda: {event["path"] for event in box.events("file.adopted")} == {"good", "large"}, 30, "adoption")

    def rejected() -> bool:
        return {"bad", "new"} <= {e["path"] for e in box.events("file.deferred") if e["reason"] == "bad_signature"}

    wait_until(rejected, 30, "the rejection of what does not verify")
    assert not box.sign_of(bad).exists()
    assert not box.sign_of(new).exists()
    assert {path: box.sign_of(path).read_bytes() for path in kept} == kept
    assert not box.events("file.signed")


def test_ed25519_keeps_to_its_memory(box: Sandbox) -> None:
    """A file that is verified as a whole is charged to memory_mib; a larger one fails for that, and nobody is asked."""
    key = ed25519.Ed25519PrivateKey.generate()
    public = box.directory / "signing.pub.pem"
    public.write_bytes(public_pem(key))
    box.configure("verify", key=str(public), scheme="ed25519")
    box.configure("service", memory_mib=1, attempts=1000)
    streamed = [box.drop(f"streamed{number}", b"%d" % number + bytes(300_000)) for number in range(6)]
    fits, too_large = box.drop("fits", bytes(1024**2)), box.drop("too large", bytes(1024**2 + 1))
    box.sign_of(fits).write_bytes(base64.b64encode(key.sign(bytes(1024**2))))
    box.start_daemon()
    wait_until(lambda: box.events("file.failed"), 30, "the failure")
    (failed,) = box.events("file.failed")
    assert (failed["path"], failed["reason"]) == (too_large.name, "unverifiable")
    assert "service.memory_mib" in failed["error"]

    def refused() -> set[str]:
        return {event["path"] for event in box.events("file.deferred") if event["reason"] == "bad_signature"}

    wait_until(lambda: refused() >= {path.name for path in streamed}, 30, "what does not verify")
    wait_until(lambda: [event["path"] for event in box.events("file.adopted")] == ["fits"], 30, "what verifies")
    assert hashlib.sha256(too_large.read_bytes()).hexdigest() not in box.times_signed()
    assert not box.events("daemon.defect")


def test_ed25519_verifies_up_to_a_gibibyte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A larger file is not read at all, and its verdict says why."""
    public, file = tmp_path / "signing.pub.pem", tmp_path / "file"
    public.write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate()))
    file.touch()
    os.truncate(file, 1024**3 + 1)
    (tmp_path / "file.sign").write_bytes(base64.b64encode(bytes(64)))
    assert cli.run(["verify", "--key", str(public), "--scheme", "ed25519", "--json", str(file)]) == 1
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["verdict"] == "unreadable"
    assert "1024 MiB" in verdict["detail"]
