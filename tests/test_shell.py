"""What a shell has of the program: completion in bash, zsh and fish, and the man page."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.sandbox import SLOWNESS, dropsign

PROJECT = Path(__file__).parents[1]

WORDS = {"st": "status", "status --j": "--json", "explain /etc/hostn": "/etc/hostname"}
"""What is typed after the program's name, and what completes it."""


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The completion script for a shell, under the name by which zsh would find it, and the program in the PATH."""
    made = dropsign("--show-completion", request.param)
    assert made.returncode == 0
    program = tmp_path / "bin" / "dropsign"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dropsign "$@"\n')
    program.chmod(0o755)
    path = tmp_path / "_dropsign"
    path.write_text(made.stdout)
    return path


def environment(script: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{script.parent}/bin:{os.environ['PATH']}", "HOME": str(script.parent)}


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash(script: Path) -> None:
    """Verbs and options are completed; where neither fits, `-o default` has bash complete file names."""
    for typed, completed in list(WORDS.items())[:2]:
        words = ["dropsign", *typed.split()]
        command = (
            f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1};"
            ' _dropsign_completion dropsign; echo "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=True, env=environment(script)
        )
        assert done.stdout.split() == [completed]
    assert "-o default" in script.read_text()


@pytest.mark.fish
@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish(script: Path) -> None:
    """Verbs, options and file names are completed."""
    for typed, completed in WORDS.items():
        command = f"source {script}; complete -C 'dropsign {typed}'"
        done = subprocess.run(
            ["fish", "-c", command], capture_output=True, text=True, check=True, env=environment(script)
        )
        assert completed in done.stdout.split()


@pytest.mark.zsh
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh(script: Path) -> None:
    """The script, put into $fpath, completes from the first time on; a person's keys are typed into a terminal."""
    start = f"fpath=({script.parent} $fpath); autoload -Uz compinit; compinit -u -D; PS1='%%'; echo re''ady\n"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**environment(script), "TERM": "dumb"})
    try:
        type_in(terminal, start, "ready")
        for typed, completed in WORDS.items():
            type_in(terminal, f"dropsign {typed}\t", f"dropsign {typed.rpartition(' ')[0]}".rstrip() + f" {completed}")
            os.write(terminal, b"\x15")  # the line is emptied
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def type_in(terminal: int, keys: str, expected: str) -> None:
    os.write(terminal, keys.encode())
    read(terminal, expected, b"")


def read(terminal: int, expected: str, seen: bytes) -> None:
    """Read what the terminal shows until it shows what is expected."""
    end = time.monotonic() + 30 * SLOWNESS
    while expected not in re.sub(r"\s+|\x1b\[[0-9;?]*[a-zA-Z]", " ", seen.decode(errors="replace")):
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{expected!r} was not shown, but {seen!r}"
        seen += os.read(terminal, 4096)


def test_unknown_shell() -> None:
    """A shell that is not one of the three is a mistake on the command line."""
    done = dropsign("--show-completion", "tcsh")
    assert (done.returncode, "zsh" in done.stderr) == (2, True)


def test_man_page_is_the_one_of_this_program(tmp_path: Path) -> None:
    """docs/dropsign.1 says what --help says; docs/make-man-page.py makes it anew."""
    made = tmp_path / "make-man-page.py"
    made.write_text((PROJECT / "docs" / "make-man-page.py").read_text("utf-8"), "utf-8")
    subprocess.run([sys.executable, made], check=True)
    assert (PROJECT / "docs" / "dropsign.1").read_text("utf-8") == (tmp_path / "dropsign.1").read_text("utf-8")


@pytest.mark.mandoc
def test_man_page_is_one() -> None:
    """A man page's own formatter finds no error in it, and shows every verb."""
    done = subprocess.run(
        ["mandoc", "-T", "utf8", "-W", "error", PROJECT / "docs" / "dropsign.1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    plain = re.sub(".\b", "", done.stdout)
    assert all(f"   {verb} " in plain for verb in ("run", "sign", "verify", "status", "explain", "retry", "check"))
