"""The configuration: what every key means, and how TOML and environment become one checked value.

All mistakes are reported at once, each with its key (contract, section 5). Paths are relative to the file.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails

from dropsign.errors import ConfigurationError
from dropsign.regular import open_regular

DEFAULT_PATH = Path("/etc/dropsign/config.toml")
ENVIRONMENT_PREFIX = "DROPSIGN_"

# Beyond these bounds, sums with them fit nowhere.
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Mebibytes = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


def _resolve(value: Any, info: ValidationInfo) -> Any:
    """Make a path of a string, relative to the configuration file; `""` stays 'not set'."""
    if not isinstance(value, str):
        return value
    if not value:
        return None
    if "\0" in value:
        msg = "a path cannot hold a NUL byte"
        raise ValueError(msg)
    base: Path = (info.context or {}).get("base", Path())
    try:
        return Path(os.path.normpath(base / Path(value).expanduser()))
    except RuntimeError:
        msg = "begins with the home directory of a user that is not known"
        raise ValueError(msg) from None


OptionalPath = Annotated[Path | None, BeforeValidator(_resolve)]
RequiredPath = Annotated[Path, BeforeValidator(_resolve)]


def _mode(value: str) -> str:
    try:
        bits = int(value, 8)
    except ValueError:
        bits = -1
    if not 0o400 <= bits <= 0o777:  # noqa: PLR2004 - the message says it
        msg = 'must be octal digits between "0400" and "0777", such as "0644"'
        raise ValueError(msg)
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname:
        msg = "must be an https:// address with a host name; mutual TLS needs it"
        raise ValueError(msg)
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        msg = "has a host name that is none"
        raise ValueError(msg) from None
    if parts.query or parts.fragment or parts.username or parts.password:
        msg = "must hold no user, query or fragment"
        raise ValueError(msg)
    try:
        _ = parts.port
    except ValueError as error:
        msg = f"has a port that is none: {error}"
        raise ValueError(msg) from None
    return value.rstrip("/")


def _sign_path(value: str) -> str:
    if not value.startswith("/") or any(c in value for c in "?# \r\n"):
        msg = "must begin with / and hold no query, fragment or space"
        raise ValueError(msg)
    return value


def _listen(value: str) -> str:
    if value:
        host, _, port = value.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:  # noqa: PLR2004 - TCP's own
            msg = 'must be "" or HOST:PORT, such as "127.0.0.1:9466"'
            raise ValueError(msg)
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


class Outbox(_Section):
    """What is watched and what counts as a drop."""

    path: RequiredPath
    recursive: bool = True
    include: list[str] = ["**"]
    exclude: list[str] = [".*", "*.tmp", "*.part", "*.partial", "*.crdownload", "*.filepart", "*.swp", "*~"]
    settle_seconds: Seconds = 0.5
    settle_after_close_seconds: Seconds = 0.05
    unsettled_warning_seconds: PositiveSeconds = 300
    rescan_seconds: PositiveSeconds = 300
    watcher: Literal["inotify", "poll"] = "inotify"
    poll_seconds: PositiveSeconds = 5
    max_file_mib: Mebibytes = 0
    sign_mode: Annotated[str, AfterValidator(_mode)] = "0644"
    republish_missing: bool = True
    error_files: bool = False


class Service(_Section):
    """The signing service, and who we are to it."""

    url: Annotated[str, AfterValidator(_url)]
    sign_path: Annotated[str, AfterValidator(_sign_path)] = "/api/v1/sign_file"
    app_key: str = ""
    app_key_file: OptionalPath = None
    app_secret: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """From the environment alone (DROPSIGN_SERVICE__APP_SECRET), never from the file."""
    app_secret_file: OptionalPath = None
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    connect_timeout_seconds: PositiveSeconds = 10
    timeout_seconds: PositiveSeconds = 60
    attempts: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    memory_mib: Annotated[int, Field(ge=1, le=1_000_000)] = 64


class Tls(_Section):
    """The three PEM files of mutual TLS."""

    certificate: OptionalPath = None
    private_key: OptionalPath = None
    private_key_password_file: OptionalPath = None
    authority: OptionalPath = None
    crl: OptionalPath = None
    minimum_version: Literal["1.2", "1.3"] = "1.2"


class Verify(_Section):
    """With which key signatures are checked before they are published."""

    key: OptionalPath = None
    scheme: Literal["ecdsa-sha256", "rsa-pss-sha256", "rsa-pkcs1v15-sha256", "ed25519"] = "ecdsa-sha256"


class Journal(_Section):
    """Where state is kept."""

    path: RequiredPath = Path("/var/lib/dropsign/journal.sqlite3")
    keep_days: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class Log(_Section):
    """How the program speaks."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    file: OptionalPath = None


class Http(_Section):
    """Where the program answers questions."""

    listen: Annotated[str, AfterValidator(_listen)] = ""
    socket: OptionalPath = Path("/run/dropsign/control.sock")


class Cluster(_Section):
    """Many machines on one outbox."""

    servers: Annotated[list[str], Field(max_length=0)] = []
    name: str = "dropsign"
    credentials_file: OptionalPath = None
    tls_authority: OptionalPath = None


class Daemon(_Section):
    """How the process behaves."""

    grace_seconds: Seconds = 20


class Configuration(_Section):
    """The whole of config.toml."""

    outbox: Outbox
    service: Service
    tls: Tls = Tls()
    verify: Verify = Verify()
    journal: Journal = Journal()
    log: Log = Log()
    http: Http = Http()
    cluster: Cluster = Cluster()
    daemon: Daemon = Daemon()


_SECTIONS: dict[str, type[BaseModel]] = {
    "outbox": Outbox,
    "service": Service,
    "tls": Tls,
    "verify": Verify,
    "journal": Journal,
    "log": Log,
    "http": Http,
    "cluster": Cluster,
    "daemon": Daemon,
}


def find(path: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the configuration file to use: the one given, `$DROPSIGN_CONFIG`, or the default."""
    if path is not None:
        return path
    return Path(environment[f"{ENVIRONMENT_PREFIX}CONFIG"] if environment.get("DROPSIGN_CONFIG") else DEFAULT_PATH)


def load(path: Path, environment: Mapping[str, str]) -> Configuration:
    """Read and check the configuration.

    Args:
        path: a TOML file.
        environment: where `DROPSIGN_SECTION__KEY` overrides are looked up.

    Raises:
        ConfigurationError: with every mistake found.
    """
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
    except FileNotFoundError:
        msg = f"{path}: there is no such file; give one with --config, or copy config.toml.example there"
        raise ConfigurationError(msg) from None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigurationError(msg) from None
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"{path}: is not TOML: {error}"
        raise ConfigurationError(msg) from None
    except (ValueError, RecursionError):  # Python's own limits
        msg = f"{path}: holds a number with too many digits, or too many brackets within each other"
        raise ConfigurationError(msg) from None
    return parse(tables, environment, base=path.absolute().parent, source=str(path))


def parse(tables: dict[str, Any], environment: Mapping[str, str], *, base: Path, source: str) -> Configuration:
    """Check tables as TOML gives them, with the environment's overrides.

    Args:
        tables: section -> key -> value.
        environment: where overrides are looked up.
        base: what relative paths are relative to.
        source: names the tables in messages.

    Raises:
        ConfigurationError: with every mistake found.
    """
    mistakes: list[str] = []
    if isinstance(tables.get("service"), dict) and "app_secret" in tables["service"]:
        del tables["service"]["app_secret"]
        mistakes.append(f"{source}: service.app_secret: a secret does not belong here; use service.app_secret_file")
    overridden = _override(tables, environment, mistakes)
    configuration = None
    try:
        configuration = Configuration.model_validate(tables, context={"base": base})
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False, include_context=False):
            key = ".".join(str(part) for part in detail["loc"])
            where = overridden.get(".".join(str(part) for part in detail["loc"][:2]), source)
            mistakes.append(f"{where}: {key}: {_explain(detail)}")
    if mistakes or configuration is None:
        raise ConfigurationError(*mistakes)
    return _without_our_own(configuration)


def _without_our_own(configuration: Configuration) -> Configuration:
    """Exclude the journal and the log from what is signed, should somebody have put them into the outbox."""
    outbox = configuration.outbox
    root = Path(os.path.realpath(outbox.path))
    ours = [Path(os.path.realpath(path)) for path in (configuration.journal.path, configuration.log.file) if path]
    inside = [
        re.sub(r"([\\*?\[\]! ])", r"\\\1", str(path.relative_to(root))) for path in ours if path.is_relative_to(root)
    ]
    if not inside:
        return configuration
    exclude = [*outbox.exclude, *(f"/{name}*" for name in inside)]
    return configuration.model_copy(update={"outbox": outbox.model_copy(update={"exclude": exclude})})


def _override(tables: dict[str, Any], environment: Mapping[str, str], mistakes: list[str]) -> dict[str, str]:
    """Put the environment's overrides into the tables; return which key came from which variable."""
    overridden = {}
    for variable, text in sorted(environment.items()):
        section, separator, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not variable.startswith(ENVIRONMENT_PREFIX) or not separator:
            continue
        fields = _SECTIONS[section].model_fields if section in _SECTIONS else {}
        if key not in fields:
            mistakes.append(f"${variable}: there is no key {section}.{key}")
            continue
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = _from_text(text, fields[key].annotation)
            overridden[f"{section}.{key}"] = f"${variable}"
    return overridden


def _from_text(text: str, annotation: Any) -> Any:
    """Read an environment variable as its key's type; what does not fit is left for the model to refuse."""
    if get_origin(annotation) is list:
        try:
            return json.loads(text)
        except RecursionError:
            return text
        except ValueError:
            return [part.strip() for part in text.split(",") if part.strip()]
    if annotation in {bool, int, float}:
        try:
            return TypeAdapter(annotation).validate_strings(text)
        except ValidationError:
            return text
    return SecretStr(text) if SecretStr in get_args(annotation) else text


def _explain(detail: ErrorDetails) -> str:
    """Say a mistake in an operator's words, and never the value: it might be a secret."""
    match detail["type"]:
        case "extra_forbidden":
            return "there is no such key"
        case "missing":
            return "must be set"
        case "path_type" | "is_instance_of":
            return "must be a path"
        case "too_long" if detail["loc"][0] == "cluster":
            return "many machines are not supported by this version; leave it empty"
        case _:
            message = detail["msg"].removeprefix("Value error, ")
            return message.replace("Input should be", "must be", 1)
