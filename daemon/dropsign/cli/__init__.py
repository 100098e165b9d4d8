"""The command line: verbs, options, exit codes (contract, section 4). Each verb imports what it needs when it runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dropsign.cli import completion, console, verbs
from dropsign.cli.completion import Shell
from dropsign.errors import ConfigurationError, DropsignError, ExitCode

app = typer.Typer(
    name="dropsign",
    help="Signs files as they are dropped into a folder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from dropsign import __version__

        console.out.print(f"dropsign {__version__}", highlight=False)
        raise typer.Exit


def _completion(shell: Shell | None) -> None:
    if shell is not None:
        console.out.print(completion.script(shell), markup=False, end="")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration file; else $DROPSIGN_CONFIG, else /etc/dropsign/config.toml."),
    ] = None,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    show_completion: Annotated[  # noqa: ARG001 - as version
        Shell | None,
        typer.Option(callback=_completion, is_eager=True, help="Print the completion script for a shell, and exit."),
    ] = None,
) -> None:
    context.obj = config


for _verb in verbs.ALL:
    app.command(name=_verb.__name__.removesuffix("_"))(_verb)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: without the program's name; the process's own by default.
    """
    completion.prepare(os.environ)
    try:
        result = app(arguments, prog_name="dropsign", standalone_mode=False)
    except typer.Exit as done:
        return done.exit_code
    except SystemExit as done:  # what makes shell completion ends so
        return done.code if isinstance(done.code, int) else ExitCode.DONE
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - what is nobody's mistake is raised again
        return _explain(error)
    return result if isinstance(result, int) else ExitCode.DONE


def _explain(error: Exception) -> int:
    """Say what went wrong, one line for each mistake; return the exit code.

    Raises:
        Exception: the error itself, if it is a defect of the program.
    """
    if isinstance(error, DropsignError):
        for line in error.mistakes if isinstance(error, ConfigurationError) else [str(error)]:
            console.complain(line)
        return error.exit_code
    if isinstance(error, OSError):
        name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        console.complain(f"{name}{error.strerror or error}")
        return ExitCode.USAGE
    return console.usage_error(error)
