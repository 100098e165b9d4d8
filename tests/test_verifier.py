"""verifier.py tells signatures that fit from all others, for each scheme, by public key and by certificate."""

import base64
import hashlib
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

from dropsign.errors import CredentialsError
from dropsign.verifier import SCHEMES, Verifier

CONTENT = bytes(range(256)) * 1000


class Party(NamedTuple):
    """Who signs by one scheme: a private key, and what others have of it."""

    scheme: str
    key: Any
    sign: Callable[[bytes], bytes]
    public_key: Path
    certificate: Path


def party(scheme: str, key: Any, directory: Path) -> Party:
    sha256 = hashes.SHA256()
    sign = {
        "ecdsa-sha256": lambda content: key.sign(content, ec.ECDSA(sha256)),
        "rsa-pss-sha256": lambda content: key.sign(content, padding.PSS(padding.MGF1(sha256), 32), sha256),
        "rsa-pkcs1v15-sha256": lambda content: key.sign(content, padding.PKCS1v15(), sha256),
        "ed25519": key.sign,
    }[scheme]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, scheme)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .sign(key, None if scheme == "ed25519" else sha256)
        .public_bytes(serialization.Encoding.PEM)
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made = Party(scheme, key, sign, directory / f"{scheme}.pub.pem", directory / f"{scheme}.cert.pem")
    made.public_key.write_bytes(public)
    made.certificate.write_bytes(certificate)
    (directory / f"{scheme}.key.pem").write_bytes(private)
    return made


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Party]:
    directory = tmp_path_factory.mktemp("parties")
    rsa_key = rsa.generate_private_key(65537, 2048)
    keys = {
        "ecdsa-sha256": ec.generate_private_key(ec.SECP256R1()),
        "rsa-pss-sha256": rsa_key,
        "rsa-pkcs1v15-sha256": rsa_key,
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }
    return {scheme: party(scheme, key, directory) for scheme, key in keys.items()}


@pytest.fixture(params=SCHEMES)
def signer(request: pytest.FixtureRequest, parties: dict[str, Party]) -> Party:
    return parties[request.param]


@pytest.fixture(params=["public_key", "certificate"])
def verifier(request: pytest.FixtureRequest, signer: Party) -> Verifier:
    return Verifier.load(getattr(signer, request.param), signer.scheme)


def test_what_fits(verifier: Verifier, signer: Party) -> None:
    """A signature verifies against the content it was made for, in a file, in memory, and by digest."""
    text = base64.b64encode(signer.sign(CONTENT))
    assert verifier.verify_content(text, CONTENT)
    assert verifier.needs_content == (signer.scheme == "ed25519")
    if not verifier.needs_content:
        assert verifier.verify_digest(text, hashlib.sha256(CONTENT).digest())


def test_what_does_not_fit(verifier: Verifier, signer: Party) -> None:
    """Other content, another signature, and damage in either do not verify."""
    text = base64.b64encode(signer.sign(CONTENT))
    assert not verifier.verify_content(text, CONTENT + b"x")
    assert not verifier.verify_content(text, CONTENT[:-1])
    assert not verifier.verify_content(text, b"")
    assert not verifier.verify_content(base64.b64encode(signer.sign(b"other")), CONTENT)
    damaged = bytearray(base64.b64decode(text))
    damaged[-1] ^= 1
    assert not verifier.verify_content(base64.b64encode(damaged), CONTENT)


@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_files(verifier: Verifier, signer: Party, content: bytes, tmp_path: Path) -> None:
    """An open file verifies like its content, an empty one too."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert verifier.verify_file(file, base64.b64encode(signer.sign(content)))
    with path.open("rb") as file:
        assert not verifier.verify_file(file, base64.b64encode(signer.sign(content + b"x")))


@pytest.mark.parametrize("text", [b"", b"====", b"no base64!", b"\xff\xfe", b"QUJD", b"MEUCIQ", b"A" * 10_000])
def test_garbage(verifier: Verifier, text: bytes) -> None:
    """What is no signature at all is simply none, and raises nothing."""
    assert not verifier.verify_content(text, CONTENT)


def test_newline_after_signature(verifier: Verifier, signer: Party) -> None:
    """A signature that an earlier script wrote with a newline at its end still counts."""
    assert verifier.verify_content(base64.b64encode(signer.sign(CONTENT)) + b"\n", CONTENT)


def test_digest_is_not_enough_for_ed25519(parties: dict[str, Party]) -> None:
    """Asking an Ed25519 verifier about a digest is a programmer's mistake, and never a yes."""
    signer = parties["ed25519"]
    verifier = Verifier.load(signer.public_key, "ed25519")
    with pytest.raises(TypeError):
        verifier.verify_digest(base64.b64encode(signer.sign(CONTENT)), hashlib.sha256(CONTENT).digest())


def test_rsa_schemes_differ(parties: dict[str, Party]) -> None:
    """The same key, but padding of the other scheme: does not verify."""
    pss, pkcs = parties["rsa-pss-sha256"], parties["rsa-pkcs1v15-sha256"]
    assert not Verifier.load(pss.public_key, pss.scheme).verify_content(base64.b64encode(pkcs.sign(CONTENT)), CONTENT)
    assert not Verifier.load(pkcs.public_key, pkcs.scheme).verify_content(base64.b64encode(pss.sign(CONTENT)), CONTENT)


@pytest.mark.openssl
@pytest.mark.parametrize(
    ("scheme", "arguments"),
    [
        ("ecdsa-sha256", ["dgst", "-sha256", "-sign"]),
        ("rsa-pkcs1v15-sha256", ["dgst", "-sha256", "-sign"]),
        ("rsa-pss-sha256", ["dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sign"]),
        ("ed25519", ["pkeyutl", "-sign", "-rawin", "-inkey"]),
    ],
)
def test_openssl_signs(scheme: str, arguments: list[str], parties: dict[str, Party], tmp_path: Path) -> None:
    """What the openssl command line signed verifies."""
    signer = parties[scheme]
    private = signer.public_key.with_name(f"{scheme}.key.pem")
    (tmp_path / "content").write_bytes(CONTENT)
    source = ["-in", str(tmp_path / "content")] if scheme == "ed25519" else [str(tmp_path / "content")]
    signed = subprocess.run(["openssl", *arguments, private, *source], capture_output=True, check=True).stdout
    assert Verifier.load(signer.public_key, scheme).verify_content(base64.b64encode(signed), CONTENT)


@pytest.mark.parametrize(
    ("file", "scheme", "problem"),
    [
        ("missing.pem", "ecdsa-sha256", r"missing\.pem cannot be read: No such file"),
        ("text", "ecdsa-sha256", r"text is not PEM; give the service's public key or certificate"),
        ("damaged", "ecdsa-sha256", r"damaged is damaged or of an unknown kind"),
        ("ecdsa-sha256.key.pem", "ecdsa-sha256", r"holds a private key, which does not belong here"),
        ("ecdsa-sha256.pub.pem", "rsa-pss-sha256", r"does not fit rsa-pss-sha256; .* to ecdsa-sha256$"),
        ("rsa-pss-sha256.cert.pem", "ecdsa-sha256", r"to rsa-pss-sha256 or rsa-pkcs1v15-sha256$"),
        ("ed25519.pub.pem", "ecdsa-sha256", r"to ed25519$"),
        ("ecdsa-sha256.pub.pem", "rot13", r"'rot13' is unknown"),
    ],
)
def test_keys_that_cannot_be_used(file: str, scheme: str, problem: str, parties: dict[str, Party]) -> None:
    """Each mistake with the key gets one clear line with the remedy."""
    directory = parties["ed25519"].public_key.parent
    (directory / "text").write_text("hello")
    (directory / "damaged").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(CredentialsError, match=problem) as caught:
        Verifier.load(directory / file, scheme)
    assert "\n" not in str(caught.value)
