"""What may be asked of the API: query strings and bodies, checked, so that a mistake is named and never guessed at."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from dropsign.errors import DropsignError
from dropsign.model import State

FILES_MOST: Final = 1000
"""Files listed in one answer."""

_FILES_USUALLY: Final = 100


class QuestionError(DropsignError):
    """A question that cannot be answered; says what is wrong with it."""


def nothing(query: Iterable[tuple[str, str]]) -> None:
    """Check the query string of a question that takes none.

    Raises:
        QuestionError: there is one.
    """
    _once(query, set())


def files(query: Iterable[tuple[str, str]]) -> tuple[State, int]:
    """Return the state to list, and how many files at most.

    Raises:
        QuestionError: unknown or missing state, wrong limit, unknown parameter.
    """
    given = _once(query, {"state", "limit"})
    try:
        state = State(given.get("state", ""))
    except ValueError:
        msg = f"state must be one of {', '.join(State)}"
        raise QuestionError(msg) from None
    limit = given.get("limit", str(_FILES_USUALLY))
    if not (limit.isascii() and limit.isdigit()):
        msg = f"limit must be a whole number; more than {FILES_MOST} files are not listed at a time"
        raise QuestionError(msg)
    return state, min(int(limit[:9]), FILES_MOST)


class Retry(NamedTuple):
    """What is to be taken up.

    Attributes:
        paths: these.
        below: what failed in these directories, at any depth; b"" is the outbox.
        force: sign the paths again, whatever is known.
    """

    paths: list[bytes]
    below: list[bytes]
    force: bool


def retry(body: bytes) -> Retry:
    """Return what is to be taken up.

    Raises:
        QuestionError: not such an object.
    """
    given = _object(body, {"paths", "below", "all", "force"})
    everything, force = _flag(given, "all"), _flag(given, "force")
    if ("paths" in given) + ("below" in given) + everything != 1:
        msg = 'one of "paths", "below" and "all" must be given'
        raise QuestionError(msg)
    if "paths" in given:
        return Retry(_paths(given), [], force)
    if force:
        msg = '"force" goes with "paths" alone'
        raise QuestionError(msg)
    return Retry([], [b""] if everything else _paths(given, "below"), force)


def rescan(body: bytes) -> None:
    """Check the body of a question that takes none, or an empty object.

    Raises:
        QuestionError: there is something in it.
    """
    _object(body, set())


def lookup(body: bytes) -> list[bytes]:
    """Return the paths to look up.

    Raises:
        QuestionError: not such an object.
    """
    return _paths(_object(body, {"paths"}))


def _once(query: Iterable[tuple[str, str]], known: set[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for key, value in query:
        if key not in known or key in given:
            problem = "given twice" if key in given else f"unknown; known here: {', '.join(sorted(known)) or 'none'}"
            msg = f"parameter {key[:50]!r} is {problem}"
            raise QuestionError(msg)
        given[key] = value
    return given


def _object(body: bytes, known: set[str]) -> dict[str, Any]:
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        msg = "the body is not JSON"
        raise QuestionError(msg) from None
    if not isinstance(given, dict):
        msg = "the body is not a JSON object"
        raise QuestionError(msg)
    if unknown := sorted(given.keys() - known):
        msg = f"key {unknown[0][:50]!r} is unknown; known here: {', '.join(sorted(known)) or 'none'}"
        raise QuestionError(msg)
    return given


def _flag(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        msg = f'"{key}" must be true or false'
        raise QuestionError(msg)
    return value


def _paths(given: Mapping[str, Any], key: str = "paths") -> list[bytes]:
    paths = given.get(key)
    if not isinstance(paths, list) or not all(isinstance(path, str) and "\0" not in path for path in paths):
        msg = f'"{key}" must be a list of paths relative to the outbox'
        raise QuestionError(msg)
    try:
        encoded = [os.fsencode(path) for path in paths]
    except UnicodeEncodeError:
        msg = "a path is not text"
        raise QuestionError(msg) from None
    names = [path.split(b"/") for path in encoded if path or key == "paths"]
    if any({b"", b".", b".."}.intersection(parts) for parts in names):
        msg = "a path must lead down from the outbox, by names alone"
        raise QuestionError(msg)
    return encoded
