"""The configuration is checked as a whole: every mistake at once, each with its key, and never a secret shown."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dropsign import config
from dropsign.errors import ConfigurationError

MINIMAL = '[outbox]\npath = "outbox"\n[service]\nurl = "https://signing.example.com"\n'


def load(directory: Path, text: str, **environment: str) -> config.Configuration:
    path = directory / "config.toml"
    path.write_text(text, "utf-8")
    return config.load(path, environment)


def mistakes(directory: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, text, **environment)
    assert all("\n" not in mistake for mistake in caught.value.mistakes)
    return [mistake.replace(f"{directory}/", "") for mistake in caught.value.mistakes]


def test_minimal(tmp_path: Path) -> None:
    """Two keys are enough; the rest is as the contract has it."""
    loaded = load(tmp_path, MINIMAL)
    assert loaded.outbox.settle_seconds == 0.5
    assert loaded.outbox.settle_after_close_seconds == 0.05
    assert loaded.outbox.rescan_seconds == 300
    assert loaded.service.sign_path == "/api/v1/sign_file"
    assert (loaded.service.concurrency, loaded.service.attempts) == (32, 5)
    assert loaded.journal.path == Path("/var/lib/dropsign/journal.sqlite3")
    assert loaded.http.socket == Path("/run/dropsign/control.sock")
    assert loaded.daemon.grace_seconds == 20


def test_paths(tmp_path: Path) -> None:
    """Paths are relative to the file, not to where the program was started; "" is not set."""
    text = (
        MINIMAL.replace('"outbox"', '"../there/outbox"') + '[tls]\nauthority = "ca.pem"\ncrl = ""\nprivate_key = "/k"\n'
    )
    (tmp_path / "etc").mkdir()
    loaded = load(tmp_path / "etc", text)
    assert loaded.outbox.path == tmp_path / "there/outbox"
    assert loaded.tls.authority == tmp_path / "etc/ca.pem"
    assert loaded.tls.private_key == Path("/k")
    assert loaded.tls.crl is None


def test_relative_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration named by a relative path gives absolute paths all the same."""
    load(tmp_path, MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert config.load(Path("config.toml"), {}).outbox.path == tmp_path / "outbox"


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Unknown keys and sections, wrong types and impossible values: each has its line, in one go."""
    text = """
    [outbox]
    path = 7
    recursive = "yes"
    settle_seconds = -1
    rescan_seconds = 0
    sign_mode = "rw"
    watcher = "fanotify"
    colour = "red"
    [service]
    url = "http://signing.example.com"
    sign_path = "no-slash"
    concurrency = 0
    attempts = 1.5
    [http]
    listen = "9466"
    [cluster]
    servers = ["nats://one"]
    [verify]
    scheme = "rot13"
    [nonsense]
    """
    found = mistakes(tmp_path, text)
    keys = [mistake.removeprefix("config.toml: ").partition(":")[0] for mistake in found]
    assert sorted(keys) == [
        "cluster.servers",
        "http.listen",
        "nonsense",
        "outbox.colour",
        "outbox.path",
        "outbox.recursive",
        "outbox.rescan_seconds",
        "outbox.settle_seconds",
        "outbox.sign_mode",
        "outbox.watcher",
        "service.attempts",
        "service.concurrency",
        "service.sign_path",
        "service.url",
        "verify.scheme",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "config.toml: outbox: must be set"),
        ('[outbox]\n[service]\nurl = "https://x"', "config.toml: outbox.path: must be set"),
        ("[outbox", "config.toml: is not TOML: "),
        (MINIMAL + "colour = 1", "config.toml: service.colour: there is no such key"),
        (MINIMAL + "concurrency = true", "config.toml: service.concurrency: must be a valid integer"),
        (MINIMAL + '[log]\nlevel = "loud"', "config.toml: log.level: must be 'debug', 'info', 'warning' or 'error'"),
        (MINIMAL + "timeout_seconds = inf", "config.toml: service.timeout_seconds: must be a finite number"),
        (MINIMAL + "timeout_seconds = nan", "config.toml: service.timeout_seconds: must be"),
        (MINIMAL.replace("https", "ftp"), "config.toml: service.url: must be an https:// address"),
        (MINIMAL.replace("signing.", "user:pass@"), "config.toml: service.url: must hold no user"),
        (MINIMAL.replace(".com", ".com:99999"), "config.toml: service.url: has a port that is none"),
        (MINIMAL.replace('"outbox"', r'"a\u0000b"'), "config.toml: outbox.path: a path cannot hold a NUL byte"),
        (MINIMAL.replace('"outbox"', '""'), "config.toml: outbox.path: must be"),
        ("outbox = 1\nservice = 2", "config.toml: outbox: must be"),
    ],
)
def test_mistakes(text: str, says: str, tmp_path: Path) -> None:
    """Each mistake is said in an operator's words, with the file and the key."""
    found = mistakes(tmp_path, text)
    assert any(mistake.startswith(says) for mistake in found), found


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("DROPSIGN_OUTBOX__RECURSIVE", "false", False),
        ("DROPSIGN_OUTBOX__SETTLE_SECONDS", "2.5", 2.5),
        ("DROPSIGN_OUTBOX__EXCLUDE", '["*.a", "b,c"]', ["*.a", "b,c"]),
        ("DROPSIGN_OUTBOX__EXCLUDE", "*.a, *.b", ["*.a", "*.b"]),
        ("DROPSIGN_OUTBOX__EXCLUDE", "", []),
        ("DROPSIGN_OUTBOX__PATH", "/srv/out", Path("/srv/out")),
        ("DROPSIGN_SERVICE__URL", "https://other.example.com", "https://other.example.com"),
        ("DROPSIGN_SERVICE__CONCURRENCY", "7", 7),
        ("DROPSIGN_TLS__CERTIFICATE", "", None),
        ("DROPSIGN_HTTP__LISTEN", "127.0.0.1:9466", "127.0.0.1:9466"),
    ],
)
def test_environment(variable: str, text: str, value: Any, tmp_path: Path) -> None:
    """Every key can be overridden by an environment variable, read as the key's type."""
    loaded = load(tmp_path, MINIMAL, **{variable: text})
    section, key = variable.removeprefix("DROPSIGN_").lower().split("__")
    assert getattr(getattr(loaded, section), key) == value


def test_environment_makes_up_for_the_file(tmp_path: Path) -> None:
    """What must be set may be set by the environment alone; an override also replaces what would be a mistake."""
    environment = {"DROPSIGN_OUTBOX__PATH": "o", "DROPSIGN_SERVICE__URL": "https://x", "DROPSIGN_CONFIG": "elsewhere"}
    assert load(tmp_path, "[service]\nurl = 1", **environment).outbox.path == tmp_path / "o"


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("DROPSIGN_SERVICE__COLOUR", "red", "$DROPSIGN_SERVICE__COLOUR: there is no key service.colour"),
        ("DROPSIGN_NONSENSE__KEY", "x", "$DROPSIGN_NONSENSE__KEY: there is no key nonsense.key"),
        ("DROPSIGN_SERVICE__CONCURRENCY", "many", "$DROPSIGN_SERVICE__CONCURRENCY: service.concurrency: must be"),
        ("DROPSIGN_OUTBOX__RECURSIVE", "maybe", "$DROPSIGN_OUTBOX__RECURSIVE: outbox.recursive: must be"),
        ("DROPSIGN_SERVICE__URL", "http://x", "$DROPSIGN_SERVICE__URL: service.url: must be an https://"),
    ],
)
def test_environment_mistakes(variable: str, text: str, says: str, tmp_path: Path) -> None:
    """A mistake in the environment is told with the variable, not with the file that has no part in it."""
    (found,) = mistakes(tmp_path, MINIMAL, **{variable: text})
    assert found.startswith(says)


def test_secrets(tmp_path: Path) -> None:
    """A secret in the file is refused without being repeated; from the environment it is taken, and never shown."""
    (found,) = mistakes(tmp_path, MINIMAL + 'app_secret = "hush"\n')
    assert found == "config.toml: service.app_secret: a secret does not belong here; use service.app_secret_file"
    loaded = load(tmp_path, MINIMAL, DROPSIGN_SERVICE__APP_SECRET="hush")
    assert loaded.service.app_secret is not None
    assert loaded.service.app_secret.get_secret_value() == "hush"
    assert "hush" not in repr(loaded)
    assert "hush" not in loaded.model_dump_json()


def test_values_are_not_repeated(tmp_path: Path) -> None:
    """A value in the wrong place might be a secret: no message repeats it."""
    found = mistakes(tmp_path, MINIMAL + 'concurrency = "hush"\nsecret = "hush"\n', DROPSIGN_LOG__LEVEL="hush")
    assert len(found) == 3
    assert not any("hush" in mistake for mistake in found)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: None, "there is no such file; give one with --config"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"\xff"), "cannot be read: "),
    ],
)
def test_files_that_cannot_be_read(make: Any, says: str, tmp_path: Path) -> None:
    """A file that is missing, a directory or no text is told in one line."""
    make(tmp_path / "config.toml")
    with pytest.raises(ConfigurationError, match=says) as caught:
        config.load(tmp_path / "config.toml", {})
    assert str(caught.value).startswith(str(tmp_path / "config.toml"))


def test_where_it_is_looked_for() -> None:
    """--config goes before $DROPSIGN_CONFIG, which goes before /etc/dropsign/config.toml."""
    assert config.find(Path("given"), {"DROPSIGN_CONFIG": "other"}) == Path("given")
    assert config.find(None, {"DROPSIGN_CONFIG": "other"}) == Path("other")
    assert config.find(None, {"DROPSIGN_CONFIG": ""}) == Path("/etc/dropsign/config.toml")
    assert config.find(None, {}) == Path("/etc/dropsign/config.toml")


def test_command_line(tmp_path: Path) -> None:
    """On the command line all mistakes come at once, a line each, and the exit code is 2."""
    path = tmp_path / "config.toml"
    path.write_text(MINIMAL + "colour = 1\nconcurrency = 0\n")
    command = [sys.executable, "-m", "dropsign", "--config", str(path), "verify", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"dropsign: {path}: service.") for line in lines)


def test_what_python_itself_would_not_read(tmp_path: Path) -> None:
    """A number of thousands of digits, or brackets within brackets without end, is a mistake like any other."""
    for value in ("1" * 5000, "[" * 20_000 + "]" * 20_000):
        (mistake,) = mistakes(tmp_path, f"{MINIMAL}[journal]\nkeep_days = {value}\n")
        assert mistake.startswith("config.toml: holds a number with too many digits")
    for value in ("1" * 5000, "[" * 100_000, '["a"', "[[]]"):
        for key in ("SERVICE__ATTEMPTS", "OUTBOX__SETTLE_SECONDS", "HTTP__LISTEN"):
            (mistake,) = mistakes(tmp_path, MINIMAL, **{f"DROPSIGN_{key}": value})
            assert mistake.startswith(f"$DROPSIGN_{key}: ")
            assert len(mistake) < 200
    (mistake,) = mistakes(tmp_path, MINIMAL, DROPSIGN_OUTBOX__INCLUDE="[" * 100_000)
    assert mistake.startswith("$DROPSIGN_OUTBOX__INCLUDE: outbox.include: must be a valid list")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("outbox.max_file_mib", "1e308"), ("outbox.settle_seconds", "1e300"), ("daemon.grace_seconds", "1e308"),
        ("service.timeout_seconds", "1e20"), ("journal.keep_days", "9223372036854775807"),
        ("service.memory_mib", "9223372036854775807"), ("tls.authority", '"~no-such-user/ca.pem"'),
    ],
)  # fmt: skip
def test_values_beyond_all_bounds(tmp_path: Path, key: str, value: str) -> None:
    """What no sum could be made with is refused by name."""
    section, _, name = key.partition(".")
    text = f"{name} = {value}\n"
    text = (
        MINIMAL.replace(f"[{section}]\n", f"[{section}]\n{text}")
        if section in MINIMAL
        else f"{MINIMAL}[{section}]\n{text}"
    )
    (mistake,) = mistakes(tmp_path, text)
    assert mistake.startswith(f"config.toml: {key}: ")
