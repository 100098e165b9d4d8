"""Which relative paths are drops by their name: git's pattern rules, on bytes (contract, section 1)."""

import os
import re
from collections.abc import Callable, Sequence

from pathspec import GitIgnoreSpec

from dropsign.errors import ConfigurationError
from dropsign.model import ERROR_SUFFIX, SIGN_SUFFIX

TEMPORARY = re.compile(rb"\.dropsign-(?P<instance>[0-9a-f]{12})-[0-9a-f]+\.tmp\Z")
"""The daemon's own temporary names, reserved in every outbox."""

_EVERYTHING = ["**"]


def is_ours(name: bytes) -> bool:
    """Tell whether a file name is one that only dropsign writes."""
    return name.endswith((SIGN_SUFFIX, ERROR_SUFFIX)) or (
        name.startswith(b".dropsign-") and TEMPORARY.match(name) is not None
    )


class Filters:
    """The include and exclude patterns, compiled once."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str], *, recursive: bool = True) -> None:
        self.recursive = recursive
        self._included = None if list(include) == _EVERYTHING else _compile("include", include)
        self._excluded = _compile("exclude", exclude) if exclude else None
        self._negates = any(pattern.startswith("!") for pattern in exclude)
        self._exclude = list(exclude)

    def accepts(self, path: bytes) -> bool:
        """Tell whether a relative path may be a drop."""
        if is_ours(path[path.rfind(b"/") + 1 :]) or (b"/" in path and not self.recursive):
            return False
        text = os.fsdecode(path)
        if self._excludes(text):
            return False
        return self._included is None or self._included(text)

    def _excludes(self, path: str) -> bool:
        """Tell whether a path is excluded, itself or by a directory on the way: as for git, no `!` brings that back."""
        if self._excluded is None:
            return False
        # Without `!`, the patterns of a directory match all that is below it.
        ends = [index + 1 for index, letter in enumerate(path) if letter == "/"] if self._negates else []
        return any(map(self._excluded, [path, *(path[:end] for end in ends)]))

    def why_not(self, path: bytes) -> str | None:
        """Say, for people, why a relative path is no drop by its name; None if it may be one."""
        if is_ours(path[path.rfind(b"/") + 1 :]):
            return "is a name that only dropsign writes"
        if self.accepts(path):
            return None
        if not self._excludes(os.fsdecode(path)):
            return "is not named by outbox.include"
        alone = [pattern for pattern in self._exclude if not Filters(_EVERYTHING, [pattern]).accepts(path)]
        return f"is excluded by outbox.exclude: {', '.join(map(repr, alone))}" if alone else "is excluded"

    def enters(self, directory: bytes) -> bool:
        """Tell whether a directory may hold drops; one that is excluded as a whole need not be read."""
        return self.recursive and not self._excludes(os.fsdecode(directory) + "/")


def _compile(key: str, patterns: Sequence[str]) -> Callable[[str], bool]:
    """Make one test of all patterns.

    pathspec writes each pattern's regular expression; they are compiled again here so that `.` and `$` take a
    newline in a file name for the ordinary byte that it is, and as one alternation where no pattern negates.

    Raises:
        ConfigurationError: a pattern is none.
    """
    try:
        rules = [
            (pattern.include, pattern.regex.pattern.replace("(?P<ps_d>/)", "/").replace("|$)", r"|\Z)"))
            for pattern in GitIgnoreSpec.from_lines(patterns).patterns
            if pattern.include is not None and pattern.regex is not None
        ]
    except (ValueError, re.error) as error:
        msg = f"outbox.{key}: is not a list of patterns as in .gitignore: {error}"
        raise ConfigurationError(msg) from None
    if all(include for include, _ in rules):
        search = re.compile("|".join(f"(?:{rule})" for _, rule in rules) or r"(?!)", re.DOTALL).match
        return lambda text: search(text) is not None
    tests = [(include, re.compile(rule, re.DOTALL).match) for include, rule in reversed(rules)]

    def last_match_wins(text: str) -> bool:
        return next((include for include, match in tests if match(text)), False)

    return last_match_wins
