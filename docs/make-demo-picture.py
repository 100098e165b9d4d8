"""Runs the demo for real and keeps what it printed as demo.svg, beside this file."""  # noqa: INP001 - a script

import io
import re
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from dropsign import cli
from dropsign.cli import console

WIDTH = 112
COMMAND = "dropsign demo"

# Without fonts from elsewhere: a picture asks nobody.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> int:
    """Make the picture; return the demo's exit code."""
    # Coloured, but no terminal: a picture does not move.
    console.out = Console(
        file=io.StringIO(), record=True, width=WIDTH, color_system="truecolor", force_terminal=False, highlight=False
    )
    console.out.print(f"[bold]$ {COMMAND}[/]")
    code = cli.run(COMMAND.split()[1:])
    picture = Path(__file__).with_name("demo.svg")
    console.out.save_svg(str(picture), title=COMMAND, code_format=FORMAT, unique_id="demo")
    return code


if __name__ == "__main__":
    sys.exit(main())
