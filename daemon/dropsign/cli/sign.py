"""`dropsign sign`: signs files and directories once."""

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from dropsign.cli import console
from dropsign.errors import ExitCode

if TYPE_CHECKING:
    from rich.progress import Progress


class _Show:
    """Implements oneshot.Listener: a progress bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._bar: Progress | None = None
        if console.err.is_terminal:
            from rich import progress

            columns = (
                progress.SpinnerColumn(),
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
            )
            self._bar = progress.Progress(*columns, console=console.err, transient=True)
            self._task = self._bar.add_task("signing", total=0)
            self._total = 0

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def found(self, number: int) -> None:
        if self._bar is not None:
            self._total += number
            self._bar.update(self._task, total=self._total)

    def finished(self, path: Path, outcome: str, detail: str | None) -> None:
        self.outcomes[outcome] += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        if detail is not None:
            console.complain(f"{os.fsdecode(path)}: {outcome}: {detail}")
        elif self._bar is None and outcome != "unchanged":
            console.out.print(f"{outcome} {console.name(path)}", markup=False)

    def waiting(self, reason: str | None) -> None:
        if self._bar is not None:
            text = "signing" if reason is None else f"waiting: {console.printable(reason)}"
            self._bar.update(self._task, description=text.replace("[", r"\["))
        elif reason is not None:
            console.complain(f"waiting for the service: {reason}")


def sign(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files and directories to sign in place.")],
    force: Annotated[bool, typer.Option("--force", help="Sign again what is signed already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be signed.")] = False,
) -> int:
    """Sign files and directories once, in place."""
    import asyncio

    from dropsign import config
    from dropsign.oneshot import OneShot, plan, select

    configuration = config.load(config.find(context.obj, os.environ), os.environ)
    selections = select(paths, configuration)
    if dry_run:
        for path in plan(selections, configuration, force=force):
            console.out.print(console.name(path), markup=False)
        return ExitCode.DONE
    started = time.monotonic()
    with _Show() as show:
        asyncio.run(OneShot(configuration, os.environ, show, force=force).run(selections))
    seconds = time.monotonic() - started
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(show.outcomes.items())) or "nothing to sign"
    console.out.print(f"{counts} in {seconds:.1f} s")
    sys.stdout.flush()
    return ExitCode.SOME_FAILED if show.outcomes["failed"] + show.outcomes["refused"] else ExitCode.DONE
