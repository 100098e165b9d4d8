"""A throw-away certificate authority in a directory: certificates and keys for demos, rehearsals and tests."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dropsign import keys
from dropsign.errors import CredentialsError

DAYS = 30.0
"""How long certificates hold, unless said otherwise."""

_SLACK = timedelta(minutes=5)
"""Certificates hold from a little earlier than now, for clocks that are behind."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate (with its chain below the authority) and its private key."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair to sign files with."""

    private_key: Path
    public_key: Path


class Authority:
    """A certificate authority; what it has already issued under a name is replaced when issued again.

    Attributes:
        directory: where all its files are.
        certificate: its own, which whoever trusts it needs.
    """

    def __init__(self, directory: Path, name: str = "dropsign throw-away authority") -> None:
        """Take up the authority in a directory, or found one there.

        Args:
            directory: made if it is not there.
            name: common name of a new authority.

        Raises:
            CredentialsError: the directory or what is in it cannot be used.
        """
        self.directory = directory
        self.certificate = directory / "authority.pem"
        self._key_file = directory / "authority.key.pem"
        self._chain: list[x509.Certificate] = []
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not self._key_file.exists():
                self._found(name)
            self._key = _load_key(self._key_file)
            self._own = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except OSError as error:
            msg = f"{error.filename or directory}: cannot be used for an authority: {error.strerror}"
            raise CredentialsError(msg) from None
        except ValueError:
            msg = f"{self.certificate}: is damaged; remove {directory}, and a new authority is made"
            raise CredentialsError(msg) from None

    def _found(self, name: str) -> None:
        key = keys.generate()
        subject = _name(name)
        certificate = _build(key.public_key(), subject, _period(3650), authority=True)
        _write(self.certificate, _pem(certificate.sign(key, hashes.SHA256())), 0o644)
        _write(self._key_file, keys.private_pem(key))

    def issue(
        self,
        name: str,
        *,
        server: bool = False,
        days: float = DAYS,
        starts_in_days: float = 0,
        key_password: bytes | None = None,
    ) -> Issued:
        """Issue a certificate with a new key.

        Args:
            name: common name, and the stem of the files.
            server: for a server on this machine, instead of for a client.
            days: how long it holds; negative for one that has expired.
            starts_in_days: when it begins to hold.
            key_password: encrypts the private key.
        """
        key = keys.generate()
        issued = self._files(name)
        _write(issued.private_key, keys.private_pem(key, key_password))
        certificate = self._certify(key.public_key(), _name(name), _period(days, starts_in_days), server=server)
        _write(issued.certificate, certificate, 0o644)
        return issued

    def issued(self, name: str, *, server: bool = False) -> Issued:
        """Return what was issued under a name, if it holds for another day; else issue it."""
        issued = self._files(name)
        try:
            certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
            usable = issued.private_key.exists()
        except (OSError, ValueError):
            return self.issue(name, server=server)
        if usable and certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=1):
            return issued
        return self.issue(name, server=server)

    def answer(self, request: Path, *, days: float = DAYS) -> Path:
        """Answer a certificate signing request (see `dropsign keygen`) with a client certificate beside it."""
        asked = x509.load_pem_x509_csr(request.read_bytes())
        public_key = asked.public_key()
        if not asked.is_signature_valid or not isinstance(public_key, ec.EllipticCurvePublicKey):
            msg = f"{request}: is no valid request for an elliptic-curve key"
            raise CredentialsError(msg)
        certificate = request.with_suffix(".pem")
        _write(certificate, self._certify(public_key, asked.subject, _period(days)), 0o644)
        return certificate

    def intermediate(self, name: str) -> "Authority":
        """Make an authority below this one; what it issues comes with the chain up to here, this one left out."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        key = keys.generate()
        builder = _build(key.public_key(), _name(name), _period(DAYS), authority=True, issuer=self._own)
        below = builder.sign(self._key, hashes.SHA256())
        _write(directory / "authority.pem", _pem(below), 0o644)
        _write(directory / "authority.key.pem", keys.private_pem(key))
        made = Authority(directory)
        made._chain = [below, *self._chain]
        return made

    def signing_key(self, name: str = "signing") -> SigningKey:
        """Return the key pair of a name for signing files, made if it is not there."""
        pair = SigningKey(self.directory / f"{name}.key.pem", self.directory / f"{name}.pub.pem")
        if not pair.private_key.exists():
            _write(pair.private_key, keys.private_pem(keys.generate()))
        _write(pair.public_key, keys.public_pem(_load_key(pair.private_key)), 0o644)
        return pair

    def _files(self, name: str) -> Issued:
        return Issued(self.directory / f"{name}.pem", self.directory / f"{name}.key.pem")

    def _certify(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        holds: tuple[datetime, datetime],
        *,
        server: bool = False,
    ) -> bytes:
        builder = _build(public_key, subject, holds, authority=False, issuer=self._own)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if server:
            addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
            names = x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return b"".join(map(_pem, [certificate, *self._chain]))


def _build(
    public_key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    holds: tuple[datetime, datetime],
    *,
    authority: bool,
    issuer: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    """Begin a certificate; one without an issuer is its own."""
    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    issuer_key = issuer.public_key() if issuer is not None else public_key
    if not isinstance(issuer_key, ec.EllipticCurvePublicKey):
        msg = "the authority's key is not the one it was founded with"
        raise CredentialsError(msg)
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(public_key)
        .not_valid_before(holds[0])
        .not_valid_after(holds[1])
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _period(days: float, starts_in_days: float = 0) -> tuple[datetime, datetime]:
    """Return from when to when a certificate holds; one of negative days has held, and ended so long ago."""
    starts = datetime.now(UTC) + timedelta(days=starts_in_days)
    ends = starts + timedelta(days=days)
    return min(starts, ends) - _SLACK, ends


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.unlink(missing_ok=True)
    keys.write_new(path, content, mode)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        msg = "not an elliptic-curve key"
        raise ValueError(msg)  # noqa: TRY004 - as cryptography does for a file that does not fit
    return key
