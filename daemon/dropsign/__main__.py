"""The entry point: runs the command line and turns every error into one line and an exit code."""

import sys

from dropsign.cli import run, streams


def main() -> None:
    """Run dropsign as a command."""
    streams.secure()
    sys.exit(streams.conclude(run()))


if __name__ == "__main__":
    main()
