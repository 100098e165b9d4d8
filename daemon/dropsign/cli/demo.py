"""The verb `demo`: the main job in a throw-away directory, shown as it happens."""

import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.markup import escape

from dropsign.cli import console
from dropsign.errors import ExitCode, OutboxError

if TYPE_CHECKING:
    from dropsign.embedded.demo import Outcome, Step
    from dropsign.embedded.demo_patience import Patience
    from dropsign.embedded.demo_site import Site

SECONDS = 120.0
"""The demo gives up after this time."""

_MIB = 1024 * 1024


def demo(
    files: Annotated[int, typer.Option(metavar="N", min=1, help="How many files are dropped.")] = 40,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C, to play with.")] = False,
) -> int:
    """Sign a few dozen files in a throw-away directory, and verify every signature."""
    from dropsign.embedded.demo import Demo
    from dropsign.embedded.demo_child import ChildDiedError
    from dropsign.embedded.demo_patience import Patience
    from dropsign.embedded.demo_site import Site

    patience = Patience(SECONDS)
    with _interrupting(patience), _directory(keep=keep) as directory, Site(directory) as site:
        try:
            with _Show() as show:
                outcome = Demo(site, patience, show, files).run()
        except ChildDiedError as error:
            for line in error.tail:
                console.err.print(f"  {escape(console.printable(line))}")
            raise
        _summarize(outcome, show.steps)
        if keep:
            _invite(site)
            patience.rest_for_ever()
    return ExitCode.SOME_FAILED if outcome.problems else ExitCode.DONE


@contextmanager
def _interrupting(patience: "Patience") -> Iterator[None]:
    """Take signals for a wish to end in order, even while everything is put away."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda *_: patience.interrupt()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _directory(*, keep: bool) -> Iterator[Path]:
    """Give a directory for this user alone, and remove it afterwards unless it is to be kept."""
    directory = Path(tempfile.mkdtemp(prefix="dropsign-demo-"))
    try:
        yield directory
    except OSError as error:
        msg = f"{directory}: {error.strerror}; set TMPDIR to a directory that has more room"
        raise OutboxError(msg) from None
    finally:
        if keep:
            console.out.print(f"Left for you to look at: {_quoted(directory)}", markup=False)
        else:
            shutil.rmtree(directory)


class _Show:
    """Implements demo.Audience: a line a step; on a terminal, how far the present one is as well."""

    def __init__(self) -> None:
        from rich import progress

        self.steps: list[Step] = []
        self._progress = progress.Progress(
            progress.SpinnerColumn("line"),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[count]}"),
            progress.TimeElapsedColumn(),
            console=console.out,
            transient=True,
            disable=not console.out.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begins(self, step: str) -> None:
        self._task = self._progress.add_task(step, total=None, count="")

    def advances(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total, count=f"{done} of {total}")

    def ended(self, step: "Step") -> None:
        self._progress.remove_task(self._task)
        self.steps.append(step)
        seconds = f"[cyan]{step.seconds:7.3f} s[/]"
        console.out.print(f"[green]ok[/]  {step.name:<26}{seconds}  [dim]{escape(console.printable(step.detail))}[/]")


def _summarize(outcome: "Outcome", steps: "list[Step]") -> None:
    """Print what it came to; each problem on a line."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(min_width=26)
    table.add_column(justify="right", style="cyan")
    for step in steps:
        table.add_row(step.name, f"{step.seconds:.3f} s")
    table.add_row("[bold]total[/]", f"[bold]{sum(step.seconds for step in steps):.3f} s[/]")
    table.add_row()
    table.add_row("files", f"{outcome.files}")
    table.add_row("bytes", f"{outcome.size:,}")
    table.add_row("requests", f"{outcome.requests}")
    console.out.print()
    console.out.print(table)
    console.out.print()
    for problem in outcome.problems:
        console.complain(f"{console.name(problem.name)} {problem.what}")
    mib = outcome.size / _MIB
    if not outcome.problems:
        console.out.print(f"[bold green]All {outcome.files} files ({mib:.1f} MiB) are signed and verified.[/]")


def _invite(site: "Site") -> None:
    """Print where everything is, and what to try."""
    from dropsign.embedded.demo_site import STATUS_PAGE

    service, daemon = site.children
    config, outbox = _quoted(site.config), _quoted(site.outbox)
    dropped = _quoted(site.outbox / site.config.name)
    program = _program()

    def run(arguments: Sequence[str]) -> str:
        return shlex.join([*program, *arguments])

    places = {
        "outbox": outbox,
        "configuration": config,
        "status page": f"http://{site.listen}{STATUS_PAGE}",
        "daemon's log": _quoted(daemon.log),
        "public key": _quoted(site.public_key),
    }
    try_next = {
        "drop a file, and see its signature": f"cp {config} {outbox}/ && sleep 1 && cat {dropped}.sign",
        "change it, and see another one": f"echo '# changed' >> {dropped} && sleep 1 && cat {dropped}.sign",
        "verify all signatures": run(["verify", "--key", str(site.public_key), str(site.outbox)]),
        "ask the daemon how things are": run(["--config", str(site.config), "status"]),
        "stop the service: the gate closes, files wait": f"kill {service.pid}",
        "start it again (in another terminal): the gate opens": run(service.arguments),
        "kill the daemon, as a crash would": f"kill -9 {daemon.pid}",
        "start it again (in another terminal): it goes on where it was": run(daemon.arguments),
    }
    console.out.print("\n[bold]Everything goes on running until Ctrl-C.[/]\n")
    for name, place in places.items():
        console.out.print(f"{name:<14}  {escape(place)}")
    console.out.print("\n[bold]What to try:[/]")
    for what, command in try_next.items():
        console.out.print(f"\n[dim]# {what}[/]\n{escape(command)}")
    console.out.print()


def _program() -> list[str]:
    """Return how this program was called, for a shell in another directory."""
    called = shutil.which(sys.argv[0])
    if called is None or Path(called).name != "dropsign":
        return [sys.executable, "-m", "dropsign"]
    found = shutil.which("dropsign")
    return ["dropsign"] if found is not None and Path(found).samefile(called) else [str(Path(called).absolute())]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
