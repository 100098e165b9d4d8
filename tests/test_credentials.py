"""credentials.py: good files load, each bad one gives its one clear line, and no secret is ever in a message."""

import os
import pty
import select
import ssl
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dropsign import config, credentials
from dropsign.credentials import Credentials
from dropsign.embedded.authority import Authority
from dropsign.errors import CredentialsError

SECRET = "the-very-secret-secret"
PASSWORD = "the-very-secret-password"


class Site:
    """A configuration whose files are all in order, to be spoiled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory / "authority")
        self.client = self.authority.issue("client")
        self.secret = self.write("secret", SECRET)
        self.service: dict[str, Any] = {
            "url": "https://localhost:1",
            "app_key": "key",
            "app_secret_file": str(self.secret),
        }
        self.tls: dict[str, Any] = {
            "certificate": str(self.client.certificate),
            "private_key": str(self.client.private_key),
            "authority": str(self.authority.certificate),
        }

    def write(self, name: str, content: str | bytes, mode: int = 0o600) -> Path:
        path = self.directory / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    def load(self, **environment: str) -> Credentials:
        tables = {"outbox": {"path": "/"}, "service": dict(self.service), "tls": dict(self.tls)}
        configuration = config.parse(tables, environment, base=self.directory, source="test")
        return credentials.load(configuration, environment)

    def mistakes(self, **environment: str) -> tuple[str, ...]:
        with pytest.raises(CredentialsError) as caught:
            self.load(**environment)
        shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
        assert SECRET not in shown
        assert PASSWORD not in shown
        assert "BEGIN" not in shown
        assert not any("\n" in mistake for mistake in caught.value.mistakes)
        return caught.value.mistakes


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_good_files_load(site: Site) -> None:
    """With all in order there is a context that demands a trusted server, the application, and the dates of expiry."""
    loaded = site.load()
    assert loaded.context.verify_mode is ssl.CERT_REQUIRED
    assert loaded.context.check_hostname
    assert loaded.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(loaded.context.get_ca_certs()) == 1  # the given authority alone, none of the system's
    assert (loaded.application.key, loaded.application.secret) == ("key", SECRET)
    assert SECRET not in repr(loaded)
    days = (loaded.certificates["client"] - datetime.now(UTC)) / timedelta(days=1)
    assert 29 < days < 31
    assert loaded.certificates["authority"] > loaded.certificates["client"]


def test_secret_ends_before_the_line_does(site: Site) -> None:
    """The newline that an editor leaves does not belong to the secret; blanks do."""
    site.write("secret", f" {SECRET} \r\n")
    assert site.load().application.secret == f" {SECRET} "


def test_minimum_version(site: Site) -> None:
    """tls.minimum_version = 1.3 is what the context demands."""
    site.tls["minimum_version"] = "1.3"
    assert site.load().context.minimum_version is ssl.TLSVersion.TLSv1_3


FILES = [
    ("tls", "certificate", "client_certificate"),
    ("tls", "private_key", "client_key"),
    ("tls", "authority", "authority"),
    ("service", "app_secret_file", "app_secret"),
]


@pytest.mark.parametrize(("section", "key", "credential"), FILES)
def test_key_that_is_not_set(site: Site, section: str, key: str, credential: str) -> None:
    """A key that is missing is named, with the systemd credential that could stand for it."""
    del getattr(site, section)[key]
    (mistake,) = site.mistakes()
    assert mistake.startswith(f"{section}.{key}: must be set to the file with ")
    assert mistake.endswith(f"(or give systemd credential {credential})")


@pytest.mark.parametrize(("section", "key", "credential"), FILES)
def test_file_that_is_not_there(site: Site, section: str, key: str, credential: str) -> None:
    """A file that does not exist is named with its key."""
    del credential
    getattr(site, section)[key] = "nowhere.pem"
    assert site.mistakes() == (
        f"{section}.{key}: {site.directory}/nowhere.pem cannot be read: No such file or directory",
    )


@pytest.mark.parametrize(("section", "key", "credential"), FILES)
def test_file_that_is_a_directory(site: Site, section: str, key: str, credential: str) -> None:
    """A directory in place of a file is named with its key."""
    del credential
    getattr(site, section)[key] = str(site.directory)
    assert site.mistakes() == (f"{section}.{key}: {site.directory} cannot be read: Is a directory",)


def test_files_that_are_not_pem(site: Site) -> None:
    """Whichever file is no PEM, that one alone is blamed."""
    rubbish = str(site.write("rubbish", b"\x30\x82\xff not PEM"))
    good = dict(site.tls)
    for key, expected in {
        "certificate": "holds no PEM certificate",
        "authority": "holds no PEM certificate",
        "private_key": "is no usable PEM private key",
    }.items():
        site.tls = {**good, key: rubbish}
        (mistake,) = site.mistakes()
        assert mistake.startswith(f"tls.{key}: {rubbish} {expected}")


def test_certificate_and_key_exchanged(site: Site) -> None:
    """A key where the certificate should be, and the other way round, is said of the certificate."""
    site.tls["certificate"], site.tls["private_key"] = site.tls["private_key"], site.tls["certificate"]
    os.chmod(site.client.certificate, 0o600)
    (mistake,) = site.mistakes()
    assert mistake == f"tls.certificate: {site.client.private_key} holds no PEM certificate"


def test_key_of_another_certificate(site: Site) -> None:
    """A key that does not belong to the certificate is named, with what to look for."""
    site.tls["private_key"] = str(site.authority.issue("other").private_key)
    (mistake,) = site.mistakes()
    assert "does not belong to the certificate" in mistake
    assert mistake.startswith(f"tls.private_key: {site.tls['private_key']} ")


@pytest.mark.parametrize(
    ("days", "starts_in_days", "expected"), [(-3, 0, " expired on "), (30, 2, " is not valid before ")]
)
def test_dates(site: Site, days: float, starts_in_days: float, expected: str) -> None:
    """A certificate that has expired, or does not hold yet, is refused with the date and what to do."""
    issued = site.authority.issue("dated", days=days, starts_in_days=starts_in_days)
    site.tls |= {"certificate": str(issued.certificate), "private_key": str(issued.private_key)}
    (mistake,) = site.mistakes()
    assert mistake.startswith(f"tls.certificate: {issued.certificate}{expected}")
    then = datetime.now(UTC) + timedelta(days=min(days, 0) + starts_in_days)
    slack = timedelta(minutes=6)  # certificates hold from a little earlier, and a minute may pass in here
    assert any(f"{moment:%Y-%m-%d}" in mistake for moment in (then, then - slack))


def test_authority_that_has_expired(site: Site) -> None:
    """The authority's own end is looked at as well."""
    site.tls["authority"] = str(site.authority.issue("old", days=-1).certificate)
    (mistake,) = site.mistakes()
    assert mistake.startswith(f"tls.authority: {site.tls['authority']} expired on ")


def encrypt(site: Site) -> None:
    issued = site.authority.issue("locked", key_password=PASSWORD.encode())
    site.tls |= {"certificate": str(issued.certificate), "private_key": str(issued.private_key)}


def test_encrypted_key(site: Site) -> None:
    """An encrypted key opens with its password, also one that ends in a newline."""
    encrypt(site)
    site.tls["private_key_password_file"] = str(site.write("password", PASSWORD + "\n"))
    assert site.load().application.key == "key"


def test_encrypted_key_without_password(site: Site) -> None:
    """Without a password file the message says which key to set; nobody is asked at a terminal."""
    encrypt(site)
    (mistake,) = site.mistakes()
    assert mistake.endswith("is encrypted; set tls.private_key_password_file")


def test_nobody_is_asked_for_a_password(site: Site) -> None:
    """At a terminal, too, an encrypted key without its password is a mistake and not a question."""
    encrypt(site)
    script = """
import sys
from pathlib import Path
from dropsign import config, credentials
from dropsign.errors import CredentialsError
names = dict(zip(("certificate", "private_key", "authority"), sys.argv[2:]))
service = {"url": "https://localhost:1", "app_key": "key", "app_secret_file": sys.argv[1]}
tables = {"outbox": {"path": "/"}, "service": service, "tls": names}
try:
    credentials.load(config.parse(tables, {}, base=Path("/"), source="test"), {})
except CredentialsError as error:
    print("refused:", error)
"""
    pid, terminal = pty.fork()
    if pid == 0:
        arguments = [str(site.secret), *(site.tls[key] for key in ("certificate", "private_key", "authority"))]
        os.execv(sys.executable, [sys.executable, "-c", script, *arguments])
    shown = b""
    with suppress(OSError):  # how the end of a terminal shows
        while select.select([terminal], [], [], 20)[0] and (piece := os.read(terminal, 4096)):
            shown += piece
    os.close(terminal)  # who still asks gets SIGHUP
    os.waitpid(pid, 0)
    assert b"refused: tls.private_key: " in shown
    assert b"Enter" not in shown


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        ("not the password", 0o600, "tls.private_key_password_file: its password does not open "),
        ("", 0o600, "tls.private_key_password_file: {path} is empty"),
        (b"\xff\xfe", 0o600, "tls.private_key_password_file: {path} is not text"),
        (PASSWORD, 0o644, "tls.private_key_password_file: {path} can be read by everyone; chmod 600 {path}"),
        (None, 0, "tls.private_key_password_file: {path} cannot be read: No such file or directory"),
    ],
)
def test_password_file_that_does_not_do(site: Site, content: str | bytes | None, mode: int, expected: str) -> None:
    """Whatever is wrong with the password's file is one line, and not a second one about the key."""
    encrypt(site)
    path = site.directory / "password"
    if content is not None:
        site.write("password", content, mode)
    site.tls["private_key_password_file"] = str(path)
    (mistake,) = site.mistakes()
    assert mistake.startswith(expected.format(path=path))


def test_certificate_may_be_read_by_all_and_a_key_may_not(site: Site) -> None:
    """A key or secret that everyone can read is an error with its remedy; certificates are public."""
    for path in (site.client.certificate, site.authority.certificate):
        path.chmod(0o644)
    site.load()
    site.client.private_key.chmod(0o604)
    site.secret.chmod(0o644)
    key, secret = site.mistakes()
    assert (
        key
        == f"tls.private_key: {site.client.private_key} can be read by everyone; chmod 600 {site.client.private_key}"
    )
    assert secret == f"service.app_secret_file: {site.secret} can be read by everyone; chmod 600 {site.secret}"


def test_own_group_may_read_a_secret_and_another_may_not(site: Site) -> None:
    """A key that its group can read is fine for the daemon's own group only."""
    site.client.private_key.chmod(0o640)
    os.chown(site.client.private_key, -1, os.getegid())
    site.load()
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file to another group")
    os.chown(site.client.private_key, -1, 54321)
    (mistake,) = site.mistakes()
    assert "can be read by a group that is not this user's; chmod 600" in mistake


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\x00\xfe", "is not text")]
)
def test_secret_that_is_none(site: Site, content: bytes, expected: str) -> None:
    """An empty or binary secret is named by its file."""
    site.write("secret", content)
    assert site.mistakes() == (f"service.app_secret_file: {site.secret} {expected}",)


def test_application_key(site: Site) -> None:
    """The application key may stand in a file of its own, which need not be secret; it must fit into a header."""
    del site.service["app_key"]
    assert site.mistakes()[0].startswith("service.app_key: must be set to the file with the application key")
    site.service["app_key_file"] = str(site.write("app_key", "from-file\n", 0o644))
    assert site.load().application.key == "from-file"
    site.write("app_key", "schlüssel")
    assert site.mistakes() == ("service.app_key: must be printable ASCII, as it goes into an HTTP header",)


def test_secret_from_the_environment(site: Site) -> None:
    """DROPSIGN_SERVICE__APP_SECRET stands for the file, and is as little shown."""
    del site.service["app_secret_file"]
    loaded = site.load(DROPSIGN_SERVICE__APP_SECRET=SECRET)
    assert loaded.application.secret == SECRET
    assert SECRET not in repr(loaded)
    site.tls["certificate"] = "nowhere.pem"
    assert len(site.mistakes(DROPSIGN_SERVICE__APP_SECRET=SECRET)) == 1


def test_empty_secret_from_the_environment_is_none(site: Site) -> None:
    """An empty variable, as a unit file with a typo gives it, is a mistake and not a secret."""
    del site.service["app_secret_file"]
    (mistake,) = site.mistakes(DROPSIGN_SERVICE__APP_SECRET="")
    assert "app_secret" in mistake.lower()


def test_systemd_credentials(site: Site) -> None:
    """Keys that are not set come from $CREDENTIALS_DIRECTORY; those that are set win."""
    directory = site.directory / "credentials"
    directory.mkdir()
    for name, source in {
        "client_certificate": site.client.certificate,
        "client_key": site.client.private_key,
        "authority": site.authority.certificate,
    }.items():
        (directory / name).write_bytes(source.read_bytes())
        (directory / name).chmod(0o400)
    (directory / "app_secret").write_text("from systemd")
    (directory / "app_secret").chmod(0o400)
    (directory / "app_key").write_text("key from systemd")
    site.tls.clear()
    site.service = {"url": "https://localhost:1"}
    loaded = site.load(CREDENTIALS_DIRECTORY=str(directory))
    assert (loaded.application.key, loaded.application.secret) == ("key from systemd", "from systemd")
    assert set(loaded.files) == {directory / name for name in os.listdir(directory)}
    site.service["app_secret_file"] = str(site.secret)
    assert site.load(CREDENTIALS_DIRECTORY=str(directory)).application.secret == SECRET
    assert len(site.mistakes()) == 4


def test_systemd_credentials_of_roots_group(site: Site) -> None:
    """To an unprivileged service systemd gives its right by an access list, which looks like root's group's."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file to another group")
    directory = site.directory / "credentials"
    directory.mkdir()
    (directory / "app_secret").write_text(SECRET)
    os.chown(directory / "app_secret", 0, 54321)
    (directory / "app_secret").chmod(0o440)
    del site.service["app_secret_file"]
    assert site.load(CREDENTIALS_DIRECTORY=str(directory)).application.secret == SECRET


def test_all_mistakes_at_once(site: Site) -> None:
    """An operator sees everything that is wrong in one go, each with its own line."""
    expired = site.authority.issue("dated", days=-3)
    site.tls |= {
        "certificate": str(expired.certificate),
        "private_key": str(expired.private_key),
        "authority": "no.pem",
    }
    expired.private_key.chmod(0o644)
    site.write("secret", "")
    site.service["app_key"] = "schlüssel"
    keys = [mistake.partition(":")[0] for mistake in site.mistakes()]
    assert sorted(keys) == [
        "service.app_key",
        "service.app_secret_file",
        "tls.authority",
        "tls.certificate",
        "tls.private_key",
    ]


def test_expired_and_mismatched_are_both_said(site: Site) -> None:
    """That a certificate has expired does not hide that the key is not its own."""
    expired = site.authority.issue("dated", days=-3)
    site.tls["certificate"] = str(expired.certificate)
    first, second = site.mistakes()
    assert "expired on" in first
    assert "does not belong" in second


@pytest.mark.parametrize("change", ["content", "replaced", "time"])
def test_change_on_disk_is_seen(site: Site, change: str) -> None:
    """Files that were renewed are noticed, however that was done; a file that is missing for a moment is no change."""
    loaded = site.load()
    assert not loaded.changed_on_disk()
    match change:
        case "content":
            site.write("secret", "another secret altogether")
        case "replaced":
            site.write("new", SECRET).replace(site.secret)
        case _:
            os.utime(site.secret, ns=(0, 0))
    assert loaded.changed_on_disk()
    site.secret.unlink()
    assert not loaded.changed_on_disk()


def test_revocation_list(site: Site) -> None:
    """tls.crl that is none is named; the certificates themselves are not blamed."""
    site.tls["crl"] = str(site.write("crl", "nothing"))
    (mistake,) = site.mistakes()
    assert mistake.startswith(f"tls.authority: {site.authority.certificate} (or tls.crl) cannot be used")
