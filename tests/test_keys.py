"""keys.py does what the three openssl commands of protocol.md do, and never loses a key."""

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dropsign import keys
from dropsign.errors import CredentialsError


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def structure(path: Path) -> list[tuple[str, str]]:
    """What openssl sees of a file: for each element its depth, and its type with the value of names and objects."""
    elements = []
    for line in openssl("asn1parse", "-in", path).splitlines():
        depth = line.partition("d=")[2].partition(" ")[0].strip()
        kind = line.partition("prim:")[2] or line.partition("cons:")[2]
        elements.append((depth, " ".join(kind.split()) if "[HEX DUMP]" not in kind else kind.split()[0]))
    return elements


@pytest.mark.openssl
def test_request_is_accepted(tmp_path: Path) -> None:
    """`openssl req -verify` accepts the request, and sees the subject, curve and digest wanted."""
    _, request = keys.write_pair(tmp_path, "some-name")
    said = openssl("req", "-verify", "-noout", "-text", "-in", request)
    assert "verify OK" in said
    assert "Subject: CN = some-name" in said
    assert "NIST CURVE: P-256" in said
    assert "ecdsa-with-SHA256" in said


@pytest.mark.openssl
def test_equivalent_to_the_commands(tmp_path: Path) -> None:
    """Key and request have the very structure of what the three commands in protocol.md write."""
    theirs, request = tmp_path / "private.key.pem", tmp_path / "client.csr"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-out", tmp_path / "private.key")
    openssl(
        "pkcs8",
        "-topk8",
        "-inform",
        "PEM",
        "-in",
        tmp_path / "private.key",
        "-outform",
        "pem",
        "-nocrypt",
        "-out",
        theirs,
    )
    openssl("req", "-new", "-out", request, "-key", theirs, "-subj", "/CN=some-name")

    our_key, our_request = keys.write_pair(tmp_path / "ours", keys.common_name("/CN=some-name"))

    assert our_key.read_text().splitlines()[0] == theirs.read_text().splitlines()[0] == "-----BEGIN PRIVATE KEY-----"
    assert our_request.read_text().splitlines()[0] == request.read_text().splitlines()[0]
    for ours, other in ((our_key, theirs), (our_request, request)):
        assert structure(ours) == structure(other)
    one, two = (x509.load_pem_x509_csr(path.read_bytes()) for path in (our_request, request))
    assert one.subject.public_bytes() == two.subject.public_bytes()
    assert one.signature_algorithm_oid == two.signature_algorithm_oid
    assert list(one.attributes) == list(two.attributes) == []


def test_key_fits_request(tmp_path: Path) -> None:
    """The request is for the key beside it, which is on P-256 and not encrypted."""
    private_key, request = keys.write_pair(tmp_path, "some-name")
    key = serialization.load_pem_private_key(private_key.read_bytes(), None)
    asked = x509.load_pem_x509_csr(request.read_bytes()).public_key()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == asked


def test_only_the_owner_reads_the_key(tmp_path: Path) -> None:
    """The private key is 0600, in a directory made 0700."""
    private_key, _ = keys.write_pair(tmp_path / "new", "some-name")
    assert stat.S_IMODE(private_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(private_key.parent.stat().st_mode) == 0o700


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """A second run leaves the first one's key and request as they are, and says what to do."""
    written = keys.write_pair(tmp_path, "some-name")
    before = [path.read_bytes() for path in written]
    with pytest.raises(CredentialsError, match=r"private\.key\.pem exists and is never overwritten; move it away"):
        keys.write_pair(tmp_path, "other-name")
    assert [path.read_bytes() for path in written] == before


def test_both_or_none(tmp_path: Path) -> None:
    """Where the request cannot be written no key is left behind, to stand in the way of the next try."""
    (tmp_path / "client.csr").write_text("mine")
    with pytest.raises(CredentialsError, match=r"client\.csr exists"):
        keys.write_pair(tmp_path, "some-name")
    assert [path.name for path in tmp_path.iterdir()] == ["client.csr"]
    assert (tmp_path / "client.csr").read_text() == "mine"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A dangling symbolic link under the key's name leads the key nowhere."""
    (tmp_path / "private.key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CredentialsError, match="exists"):
        keys.write_pair(tmp_path, "some-name")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("subject", ["", "/CN=", "/C=AT/CN=x", "/CN=x/O=y", "x" * 65, "a\nb"])
def test_no_common_name(subject: str) -> None:
    """What is no common name is refused in one line."""
    with pytest.raises(CredentialsError, match=r"^subject: [^\n]*$"):
        keys.common_name(subject)


@pytest.mark.parametrize("name", ["some-name", "Prüfstelle Süd", "host.example.com/unit", "x" * 64])
def test_common_names(name: str, tmp_path: Path) -> None:
    """A name comes out in the request as it was given."""
    _, request = keys.write_pair(tmp_path, keys.common_name(name))
    (attribute,) = x509.load_pem_x509_csr(request.read_bytes()).subject
    assert attribute.value == name


def test_encrypted() -> None:
    """With a password, the key is unreadable without it."""
    pem = keys.private_pem(keys.generate(), b"open sesame")
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(TypeError):
        serialization.load_pem_private_key(pem, None)
    serialization.load_pem_private_key(pem, b"open sesame")
