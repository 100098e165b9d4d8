"""The verb `service`: the embedded signing service, for development and rehearsals."""

import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dropsign.cli import console
from dropsign.errors import ConfigurationError, ExitCode

if TYPE_CHECKING:
    import asyncio

    from dropsign.embedded.workshop import Workshop

_MIB = 1024 * 1024
_PORT_MAX = 65535


def service(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Where its files are; what is not there is made: authority, keys."),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0 takes a free one.")] = "127.0.0.1:8443",
    fail: Annotated[str, typer.Option(metavar="FAULTS", help="How to fail, such as 503:20%,hang:5%,badsig:1%.")] = "",
    delay: Annotated[str, typer.Option(metavar="TIME", help="How long to think, such as 20ms or 1.5s.")] = "0",
    max_in_flight: Annotated[int, typer.Option(metavar="N", min=0, help="429 above N requests at a time.")] = 0,
    max_mib: Annotated[float, typer.Option(metavar="MIB", min=0, help="413 for files above this size.")] = 0,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Append one JSON line a request.")] = None,
    faults_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read again when it changes: lines 'fail FAULTS', 'delay TIME'.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="Server certificate.")] = None,
    private_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
    authority: Annotated[Path | None, typer.Option(metavar="FILE", help="Whose clients are let in.")] = None,
    signing_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Private key to sign files with.")] = None,
    app_key: Annotated[str | None, typer.Option(metavar="KEY", help="Application key.")] = None,
    app_secret_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with its secret.")] = None,
) -> int:
    """Run the embedded signing service, for development and rehearsals."""
    import asyncio

    from dropsign.embedded.faults import Faults, parse_delay
    from dropsign.embedded.service import SigningService
    from dropsign.embedded.workshop import ServiceFiles, Workshop

    host, port = _address(listen)
    faults, delay_seconds = Faults.parse(fail), parse_delay(delay)
    given = {
        "certificate": certificate,
        "private_key": private_key,
        "authority": authority,
        "signing_key": signing_key,
        "app_key": app_key,
        "app_secret_file": app_secret_file,
    }
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    workshop = Workshop.at(directory.absolute()) if directory is not None else None
    if workshop is not None:
        files = replace(workshop.files(), **own)
    elif own.keys() == given.keys():
        files = ServiceFiles(**own)
    else:
        options = ", ".join("--" + name.replace("_", "-") for name in given if name not in own)
        msg = f"give --dir DIR, where all that is needed is made; or your own files for {options} as well"
        raise ConfigurationError(msg)

    async def serve() -> int:
        signing = SigningService(
            tls=files.tls,
            signing_key_path=files.signing_key,
            application=files.application(),
            faults=faults,
            delay_seconds=delay_seconds,
            max_bytes=round(max_mib * _MIB),
            max_in_flight=max_in_flight,
            log_path=log,
            faults_file=faults_file,
        )
        told = _signals()
        bound = await signing.start(host, port)
        _announce(f"https://{_reachable(host)}:{bound}", workshop)
        number = await told
        await signing.stop()
        _say(", ".join(f"{count} {result}" for result, count in sorted(signing.counts.items())) or "no requests")
        return ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.DONE

    return asyncio.run(serve())


def _signals() -> "asyncio.Future[int]":
    """Return what becomes the number of the first signal that ends the service."""
    import asyncio

    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()

    def tell(number: int) -> None:
        if not told.done():
            told.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number)
    return told


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > _PORT_MAX:
        msg = f"--listen: {text!r} is not HOST:PORT, such as 127.0.0.1:8443"
        raise ConfigurationError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _reachable(host: str) -> str:
    """Return the name to reach a listening address by: one that the certificate is for."""
    return f"[{host}]" if ":" in host else "localhost" if host in {"127.0.0.1", "0.0.0.0"} else host  # noqa: S104


def _announce(url: str, workshop: "Workshop | None") -> None:
    """Say that the service is ready, and what a client needs for it."""
    _say(f"ready: the signing service listens at {url}")
    if workshop is None:
        return
    existed = (workshop.directory / "config.toml").exists()
    configuration = workshop.configure(url)
    _say(f"  client certificate  {console.name(workshop.client.certificate)}")
    _say(f"  its private key     {console.name(workshop.client.private_key)}")
    _say(f"  authority           {console.name(workshop.authority)}")
    _say(f"  application         {workshop.app_key}, its secret in {console.name(workshop.app_secret)}")
    _say(f"  verify with         {console.name(workshop.public_key)}")
    _say(f"  configuration       {console.name(configuration)}{_kept(configuration, url) if existed else ''}")
    _say(f"\nTry: dropsign --config {shlex.quote(console.name(configuration))} run")


def _kept(configuration: Path, url: str) -> str:
    return "" if f'"{url}"' in configuration.read_text("utf-8", "replace") else f"  (kept as it was: not for {url})"


def _say(line: str) -> None:
    console.out.print(line, markup=False)
