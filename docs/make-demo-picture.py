"""Runs the demo for real and keeps what it printed as demo.svg, beside this file."""  # noqa: INP001 - a script

import io
import sys
from pathlib import Path

from rich.console import Console

from dropsign import cli
from dropsign.cli import console

WIDTH = 112
COMMAND = "dropsign demo"


def main() -> int:
    """Make the picture; return the demo's exit code."""
    # Coloured, but no terminal: a picture does not move.
    console.out = Console(
        file=io.StringIO(), record=True, width=WIDTH, color_system="truecolor", force_terminal=False, highlight=False
    )
    console.out.print(f"[bold]$ {COMMAND}[/]")
    code = cli.run(COMMAND.split()[1:])
    console.out.save_svg(str(Path(__file__).with_name("demo.svg")), title=COMMAND)
    return code


if __name__ == "__main__":
    sys.exit(main())
