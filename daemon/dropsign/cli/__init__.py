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
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except ConfigurationError as error:
        for mistake in error.mistakes:
            console.complain(mistake)
        return error.exit_code
    except DropsignError as error:
        console.complain(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - what is no mistake on the command line is raised again
        return console.usage_error(error)
    return result if isinstance(result, int) else ExitCode.DONE
