"""Key pairs and certificate requests: how a client begins to have a certificate (protocol.md, last section)."""

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dropsign.errors import CredentialsError

_CN_MAX = 64
"""Characters in a common name (X.520, ub-common-name)."""


def generate() -> ec.EllipticCurvePrivateKey:
    """Make a private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """Return a private key as PKCS#8 PEM, encrypted if there is a password."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public half of a key as PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def common_name(subject: str) -> str:
    """Return the common name of a subject that is given as `some-name` or, as for openssl, `/CN=some-name`.

    Raises:
        CredentialsError: it is empty, too long, or holds more than a common name.
    """
    name = subject.removeprefix("/CN=")
    if name.startswith("/") or (name is not subject and "/" in name):
        msg = f"subject: {subject!r} has parts other than CN; give a plain name, or /CN=some-name"
        raise CredentialsError(msg)
    if not 0 < len(name) <= _CN_MAX or not name.isprintable():
        msg = f"subject: {subject!r} is no common name; it takes 1 to {_CN_MAX} printable characters"
        raise CredentialsError(msg)
    return name


def request_pem(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """Return a certificate signing request for a common name, signed with its key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that must not exist yet, on disk when this returns; a key once lost is lost.

    Raises:
        CredentialsError: there is one already, or it cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        msg = f"{path} exists and is never overwritten; move it away, or write somewhere else"
        raise CredentialsError(msg) from None
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}"
        raise CredentialsError(msg) from None
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, which has no path
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
    except OSError as error:
        path.unlink(missing_ok=True)
        msg = f"{path} cannot be written: {error.strerror}"
        raise CredentialsError(msg) from None


def write_pair(directory: Path, name: str) -> tuple[Path, Path]:
    """Write a new private key and the request for its certificate; both or none.

    Args:
        directory: made, for this user alone, if it is not there.
        name: the common name.

    Returns:
        Where the key and the request are.

    Raises:
        CredentialsError: one of them is there already, or cannot be written.
    """
    private_key, request = directory / "private.key.pem", directory / "client.csr"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{directory} cannot be made a directory: {error.strerror}"
        raise CredentialsError(msg) from None
    key = generate()
    write_new(private_key, private_pem(key))
    try:
        write_new(request, request_pem(key, name), 0o644)
    except CredentialsError:
        # Nobody has seen this key yet; left behind, it would only stand in the way of the next try.
        private_key.unlink()
        raise
    return private_key, request
