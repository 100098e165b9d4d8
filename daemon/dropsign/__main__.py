"""The entry point: runs the command line and turns every error into one line and an exit code."""

import sys

from dropsign.cli import run


def main() -> None:
    """Run dropsign as a command."""
    sys.exit(run())


if __name__ == "__main__":
    main()
