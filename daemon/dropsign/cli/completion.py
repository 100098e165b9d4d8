"""Shell completion: the script that a shell loads, for bash, zsh and fish."""

from collections.abc import Mapping
from typing import Final, Literal

Shell = Literal["bash", "zsh", "fish"]

_PROGRAM: Final = "dropsign"

_VARIABLE: Final = "_DROPSIGN_COMPLETE"
"""In which the shell asks for words (click's convention)."""

_AUTOLOADED: Final = """
# As a file `_dropsign` in $fpath, this is called to complete the first time it is loaded.
if [[ "${funcstack[1]}" = "_dropsign" ]]; then
  _dropsign_completion "$@"
fi
"""


def script(shell: Shell) -> str:
    """Return the script for one shell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    text = get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell)
    return f"{text}\n{_AUTOLOADED if shell == 'zsh' else ''}"


def prepare(environment: Mapping[str, str]) -> None:
    """Have typer answer a shell that asks for words; costs nothing where none does."""
    if _VARIABLE in environment:
        # What typer calls itself when it adds its own options for this, which tell bash from zsh by guessing.
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
