"""A directory with all that an embedded service and its client need: made on first use, found again later."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from dropsign import keys
from dropsign.embedded.authority import Authority, Issued
from dropsign.embedded.service import ServerTls
from dropsign.errors import CredentialsError
from dropsign.esauth import Application

_CONFIGURATION = """\
# For trying things out: everything here is throw-away.

[outbox]
path = "outbox"

[service]
url = "{url}"
app_key = "{app_key}"
app_secret_file = "{app_secret}"

[tls]
certificate = "{certificate}"
private_key = "{private_key}"
authority = "{authority}"

[verify]
key = "{public_key}"

[journal]
path = "journal.sqlite3"

[http]
socket = "control.sock"
"""


@dataclass(frozen=True, slots=True)
class ServiceFiles:
    """What a service runs with: the paths of its files, and the key of the application that it knows."""

    certificate: Path
    private_key: Path
    authority: Path
    signing_key: Path
    app_key: str
    app_secret_file: Path

    @property
    def tls(self) -> ServerTls:
        """Its side of mutual TLS."""
        return ServerTls(self.certificate, self.private_key, self.authority)

    def application(self) -> Application:
        """Read the secret of the application.

        Raises:
            CredentialsError: there is none.
        """
        try:
            secret = self.app_secret_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{self.app_secret_file} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}"
            raise CredentialsError(msg) from None
        if not secret:
            msg = f"{self.app_secret_file} is empty; put the application's secret there"
            raise CredentialsError(msg)
        return Application(self.app_key, secret)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What lies in such a directory.

    Attributes:
        directory: itself.
        authority: issued both certificates.
        server: the service's.
        client: the client's.
        signing_key: private key to sign files with.
        public_key: to verify with.
        app_key: the application key.
        app_secret: file with its secret.
    """

    directory: Path
    authority: Path
    server: Issued
    client: Issued
    signing_key: Path
    public_key: Path
    app_key: str
    app_secret: Path

    @classmethod
    def at(cls, directory: Path) -> "Workshop":
        """Make or find one.

        Raises:
            CredentialsError: the directory cannot be used.
        """
        authority = Authority(directory)
        pair = authority.signing_key()
        app_secret = directory / "app_secret"
        if not app_secret.exists():
            keys.write_new(app_secret, secrets.token_hex(32).encode() + b"\n")
        return cls(
            directory,
            authority.certificate,
            authority.issued("server", server=True),
            authority.issued("client"),
            pair.private_key,
            pair.public_key,
            "dropsign-demo",
            app_secret,
        )

    def files(self) -> ServiceFiles:
        """Return the service's part."""
        server = self.server
        return ServiceFiles(
            server.certificate, server.private_key, self.authority, self.signing_key, self.app_key, self.app_secret
        )

    def configure(self, url: str) -> Path:
        """Return the config.toml of a client of the service at an address, made (with its outbox) if not there.

        Raises:
            CredentialsError: it cannot be written.
        """
        path = self.directory / "config.toml"
        if not path.exists():
            (self.directory / "outbox").mkdir(exist_ok=True)
            keys.write_new(path, self.configuration(url).encode(), 0o644)
        return path

    def configuration(self, url: str) -> str:
        """Return the text of such a config.toml."""
        return _CONFIGURATION.format(
            url=url,
            app_key=self.app_key,
            app_secret=self.app_secret.name,
            certificate=self.client.certificate.name,
            private_key=self.client.private_key.name,
            authority=self.authority.name,
            public_key=self.public_key.name,
        )
