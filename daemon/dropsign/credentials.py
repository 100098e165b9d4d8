"""Keys, certificates and secrets: from files to a TLS context and an application, checked before use.

A key that is not set is taken from systemd's credentials directory under its fixed name (contract, section 5).
"""

import os
import ssl
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from dropsign.config import Configuration, Tls
from dropsign.errors import CredentialsError
from dropsign.esauth import Application
from dropsign.regular import open_regular
from dropsign.validity import Validity

_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


Stamp = tuple[tuple[int, int, int], ...]
"""For each file, what is another once it is another file."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves who we are, and whom we trust.

    Attributes:
        context: for the session of mutual TLS.
        application: who asks.
        certificates: when each certificate ends: `client` and `authority`.
        files: everything that was read, and is worth watching for changes.
        stamp: tells one state of the files from another.
        serial: number of our certificate, in hexadecimal as openssl shows it.
        validities: when the certificates hold.
    """

    context: ssl.SSLContext
    application: Application
    certificates: Mapping[str, datetime]
    files: tuple[Path, ...]
    stamp: Stamp
    serial: str = ""
    validities: tuple[Validity, ...] = ()

    def require(self, now: float) -> None:
        """Let nothing be asked while they do not hold, whatever an old connection would still bear.

        Raises:
            SigningError: at this time (seconds since the epoch) they do not.
        """
        for validity in self.validities:
            if (objection := validity.objection(now)) is not None:
                raise objection

    def changed_on_disk(self) -> Stamp | None:
        """Return the stamp of the files as they are, if it is not that of what was read."""
        try:
            stamp = tuple(_stamp(file.stat()) for file in self.files)
        except OSError:  # in the middle of being replaced
            return None
        return stamp if stamp != self.stamp else None


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


class _Finder:
    """Finds the file for each key, and remembers everything that is wrong."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        directory = environment.get("CREDENTIALS_DIRECTORY")
        self._directory = Path(directory) if directory else None
        self.mistakes: list[str] = []
        self.files: list[Path] = []
        self.stamp: list[tuple[int, int, int]] = []

    def find(self, key: str, given: Path | None, credential: str, what: str) -> Path | None:
        path = given
        if path is None and self._directory is not None and (self._directory / credential).exists():
            path = self._directory / credential
        if path is None:
            self.mistakes.append(
                f"{key}: must be set to the file with {what} (or give systemd credential {credential})"
            )
            return None
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
        except OSError as error:
            self.mistakes.append(f"{key}: {path} cannot be read: {error.strerror}")
            return None
        self.files.append(path)
        # Taken before the file is read: what is replaced meanwhile shows as changed.
        self.stamp.append(_stamp(status))
        return path

    def secret(self, key: str, given: Path | None, credential: str, what: str) -> Path | None:
        """Find a file that only this user, or this user's own group, may read."""
        path = self.find(key, given, credential, what)
        # systemd keeps its directory to this user, and shows the right that it gives as one of root's group.
        if path is not None and given is not None and (mistake := too_open(path)) is not None:
            self.mistakes.append(f"{key}: {mistake}")
        return path

    def text(self, key: str, path: Path | None) -> str:
        if path is None:
            return ""
        try:
            text = path.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            self.mistakes.append(f"{key}: {path} is not text")
            return ""
        if not text:
            self.mistakes.append(f"{key}: {path} is empty")
        return text


def too_open(path: Path) -> str | None:
    """Say what is wrong with a secret file's permissions, if anything is."""
    status = path.stat()
    if status.st_mode & stat.S_IROTH:
        return f"{path} can be read by everyone; chmod 600 {path}"
    if status.st_mode & stat.S_IRGRP and status.st_gid not in {os.getegid(), *os.getgroups()}:
        return f"{path} can be read by a group that is not this user's; chmod 600 {path}"
    return None


def load(configuration: Configuration, environment: Mapping[str, str], *, untimely: bool = False) -> Credentials:
    """Read and check all credentials.

    Args:
        configuration: names the files.
        environment: for `$CREDENTIALS_DIRECTORY`.
        untimely: certificates that have expired, or do not hold yet, will do; `Credentials.require` objects.

    Raises:
        CredentialsError: with every mistake found.
    """
    finder = _Finder(environment)
    try:
        return _load(configuration, finder, untimely=untimely)
    except OSError as error:  # a file vanished while it was read
        msg = f"{error.filename}: cannot be read: {error.strerror}"
        raise CredentialsError(msg) from None


def _load(configuration: Configuration, finder: _Finder, *, untimely: bool) -> Credentials:
    tls = configuration.tls
    certificate = finder.find("tls.certificate", tls.certificate, "client_certificate", "the client certificate")
    private_key = finder.secret("tls.private_key", tls.private_key, "client_key", "its private key")
    authority = finder.find("tls.authority", tls.authority, "authority", "the service's certificate authority")
    application = _application(configuration, finder)
    found: dict[str, x509.Certificate] = {}
    validities = []
    if authority is not None and (trusted := _certificates("tls.authority", authority, finder.mistakes)):
        # One that holds is enough: the next authority may well stand beside the last.
        found["authority"] = max(trusted, key=lambda certificate: certificate.not_valid_after_utc)
        validities.append(Validity.of("tls.authority", authority, trusted, "tls"))
    if certificate is not None and (chain := _certificates("tls.certificate", certificate, finder.mistakes)):
        found["client"] = chain[0]
        validities.append(Validity.of("tls.certificate", certificate, chain[:1], "credentials"))
    if not untimely:
        finder.mistakes += [str(objection) for each in validities if (objection := each.objection(time.time()))]
    context = None
    if certificate is not None and private_key is not None and authority is not None and len(found) == 2:  # noqa: PLR2004
        context = _context(tls, certificate, private_key, authority, finder)
    if finder.mistakes or context is None:
        raise CredentialsError(*finder.mistakes)
    ends = {name: first.not_valid_after_utc for name, first in found.items()}
    files, stamp = tuple(finder.files), tuple(finder.stamp)
    return Credentials(context, application, ends, files, stamp, _serial(found["client"]), tuple(validities))


def _application(configuration: Configuration, finder: _Finder) -> Application:
    service = configuration.service
    key = service.app_key or finder.text(
        "service.app_key_file",
        finder.find("service.app_key", service.app_key_file, "app_key", "the application key"),
    )
    if not (key.isascii() and key.isprintable()) and key:
        finder.mistakes.append("service.app_key: must be printable ASCII, as it goes into an HTTP header")
    if service.app_secret is not None:
        given = service.app_secret.get_secret_value()
        if not given:
            finder.mistakes.append("service.app_secret: $DROPSIGN_SERVICE__APP_SECRET is empty")
        return Application(key, given)
    name = "service.app_secret_file"
    secret = finder.secret(name, service.app_secret_file, "app_secret", "the application secret")
    return Application(key, finder.text(name, secret))


def _certificates(key: str, path: Path, mistakes: list[str]) -> list[x509.Certificate]:
    """Return the certificates of a file."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (ValueError, OSError):
        mistakes.append(f"{key}: {path} holds no PEM certificate")
        return []


def _serial(certificate: x509.Certificate) -> str:
    digits = f"{certificate.serial_number:X}"
    return digits.zfill(len(digits) + len(digits) % 2)


def _context(tls: Tls, certificate: Path, private_key: Path, authority: Path, finder: _Finder) -> ssl.SSLContext | None:
    """Make a context that trusts one authority only, checks the host name, and shows our certificate."""
    password = None
    if tls.private_key_password_file is not None:
        name = "tls.private_key_password_file"
        before = len(finder.mistakes)
        password = finder.text(name, finder.secret(name, tls.private_key_password_file, "", "the key's password"))
        if len(finder.mistakes) > before and not password:
            return None  # what is wrong with it is said, and without it the key cannot be judged
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _MINIMUM[tls.minimum_version]
    mistakes = finder.mistakes
    try:
        context.load_verify_locations(cafile=authority)
        if tls.crl is not None:
            if (crl := finder.find("tls.crl", tls.crl, "", "revoked certificates")) is None:
                return None
            context.load_verify_locations(cafile=crl)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    except (ssl.SSLError, OSError) as error:
        mistakes.append(f"tls.authority: {authority} (or tls.crl) cannot be used: {error.strerror or error}")
        return None
    try:
        # An empty password instead of none, so that OpenSSL never asks at a terminal.
        context.load_cert_chain(certificate, private_key, password if password is not None else "")
    except (ssl.SSLError, OSError) as error:
        mistakes.append(_explain_pair(error, certificate, private_key, encrypted=password is not None))
        return None
    except ValueError as error:  # the key is encrypted, and its password is longer than OpenSSL allows
        mistakes.append(f"tls.private_key_password_file: {error}")
        return None
    return context


def _explain_pair(error: OSError, certificate: Path, private_key: Path, *, encrypted: bool) -> str:
    reason = getattr(error, "reason", None) or ""
    if "MISMATCH" in reason:
        return (
            f"tls.private_key: {private_key} does not belong to the certificate {certificate}; "
            "use the key that its request was made with"
        )
    try:
        protected = b"ENCRYPTED" in private_key.read_bytes()
    except OSError:
        protected = False
    if protected and encrypted:
        return f"tls.private_key_password_file: its password does not open {private_key}"
    if protected:
        return f"tls.private_key: {private_key} is encrypted; set tls.private_key_password_file"
    return f"tls.private_key: {private_key} is no usable PEM private key for {certificate}: {reason or error}"
