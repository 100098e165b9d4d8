"""Whether a signature fits some content, by a public key or certificate in a PEM file."""

import binascii
import errno
import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pybase64
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from dropsign.errors import CredentialsError
from dropsign.model import Signature
from dropsign.regular import open_regular

_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_KINDS: Final[dict[str, type[_Key]]] = {
    "ecdsa-sha256": ec.EllipticCurvePublicKey,
    "rsa-pss-sha256": rsa.RSAPublicKey,
    "rsa-pkcs1v15-sha256": rsa.RSAPublicKey,
    "ed25519": ed25519.Ed25519PublicKey,
}
SCHEMES: Final = tuple(_KINDS)
"""The names of all schemes, as in `verify.scheme`."""

CONTENT_MOST: Final = 1024**3
"""Bytes of the largest file that `Verifier.verify_file` reads into memory, for a scheme that needs the content."""

_PREHASHED: Final = utils.Prehashed(hashes.SHA256())
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)

_BEGIN: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


class Verifier:
    """Checks signatures of one scheme with one public key.

    Attributes:
        needs_content: the scheme signs the content itself, not its SHA-256, so a digest is not enough.
    """

    def __init__(self, key: _Key, scheme: str) -> None:
        self._key = key
        self._scheme = scheme
        self.needs_content = isinstance(key, ed25519.Ed25519PublicKey)

    @classmethod
    def load(cls, path: Path, scheme: str) -> "Verifier":
        """Read a public key or a certificate.

        Args:
            path: a PEM file; of several certificates the first counts.
            scheme: one of `SCHEMES`.

        Raises:
            CredentialsError: there is none, or its kind does not fit the scheme.
        """
        if scheme not in _KINDS:
            msg = f"verify.scheme: {scheme!r} is unknown; it is one of {', '.join(SCHEMES)}"
            raise CredentialsError(msg)
        try:
            with open_regular(path) as file:
                pem = file.read()
        except OSError as error:
            msg = f"verify.key: {path} cannot be read: {error.strerror}"
            raise CredentialsError(msg) from None
        key = _parse(pem, path)
        if not isinstance(key, _KINDS[scheme]):
            fitting = [name for name, kind in _KINDS.items() if isinstance(key, kind)]
            remedy = f"set verify.scheme (--scheme) to {' or '.join(fitting)}" if fitting else "give another key"
            msg = f"verify.key: {path} holds a key of a kind that does not fit {scheme}; {remedy}"
            raise CredentialsError(msg)
        return cls(key, scheme)

    def verify_digest(self, signature_text: bytes, sha256: bytes) -> bool:
        """Tell whether a signature fits the content with this digest.

        Args:
            signature_text: what is in FILE.sign.
            sha256: of the content.

        Raises:
            TypeError: the scheme needs the content itself.
        """
        signature = _decode(signature_text)
        if signature is None:
            return False
        try:
            match self._key:
                case ec.EllipticCurvePublicKey():
                    self._key.verify(signature, sha256, ec.ECDSA(_PREHASHED))
                case rsa.RSAPublicKey():
                    scheme = _PSS if self._scheme == "rsa-pss-sha256" else padding.PKCS1v15()
                    self._key.verify(signature, sha256, scheme, _PREHASHED)
                case _:
                    msg = "ed25519 signs the content, not its digest"
                    raise TypeError(msg)
        except InvalidSignature:
            return False
        return True

    def verify_content(self, signature_text: bytes, content: bytes | memoryview) -> bool:
        """Tell whether a signature fits some content."""
        if not isinstance(self._key, ed25519.Ed25519PublicKey):
            return self.verify_digest(signature_text, hashlib.sha256(content).digest())
        signature = _decode(signature_text)
        if signature is None:
            return False
        try:
            self._key.verify(signature, content)
        except InvalidSignature:
            return False
        return True

    def expect(self, paths: Sequence[bytes]) -> None:
        """See verifying.Proof: a key needs to look nothing up."""

    def fits(self, path: bytes, file: io.BufferedIOBase, signature: Signature) -> bool:  # noqa: ARG002
        """See verifying.Proof."""
        if self.needs_content:
            return self.verify_file(file, signature.text)
        return self.verify_digest(signature.text, signature.sha256)

    def verify_file(self, file: io.BufferedIOBase, signature_text: bytes) -> bool:
        """Tell whether a signature fits an open file, with memory that does not grow with it where it needs not.

        Raises:
            OSError: it cannot be read, or is too large for a scheme that needs the content: above `CONTENT_MOST`.
        """
        if not self.needs_content:
            return self.verify_digest(signature_text, hashlib.file_digest(file, "sha256").digest())
        # Not mapped into memory: whoever makes the file shorter meanwhile would end the process (SIGBUS).
        size = file.seek(0, io.SEEK_END)
        if size > CONTENT_MOST:
            raise OSError(errno.EFBIG, f"ed25519 needs a file in one piece, of at most {CONTENT_MOST // 1024**2} MiB")
        file.seek(0)
        return self.verify_content(signature_text, file.read(size))


def _decode(text: bytes) -> bytes | None:
    try:
        return pybase64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None


def _parse(pem: bytes, path: Path) -> object:
    """Return the public key in a PEM text.

    Raises:
        CredentialsError: there is none.
    """
    label = _BEGIN.search(pem)
    try:
        match label[1] if label else None:
            case b"CERTIFICATE":
                return x509.load_pem_x509_certificates(pem)[0].public_key()
            case b"PUBLIC KEY" | b"RSA PUBLIC KEY":
                return serialization.load_pem_public_key(pem)
            case None:
                problem = "is not PEM"
            case other if other.endswith(b"PRIVATE KEY"):
                problem = "holds a private key, which does not belong here"
            case _:
                problem = "holds PEM of another kind"
    except (ValueError, UnsupportedAlgorithm) as error:
        problem = f"is damaged or of an unknown kind ({error})"
    msg = f"verify.key: {path} {problem}; give the service's public key or certificate as PEM"
    raise CredentialsError(msg)
