"""Waits until files are signed and their signatures match, for release scripts."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dropsign import manifest
from dropsign.config import Configuration
from dropsign.errors import ConfigurationError, JournalError, UnreachableError
from dropsign.filters import Filters
from dropsign.inquiry import Inquiry
from dropsign.matching import Records
from dropsign.model import SIGN_SUFFIX, Fingerprint
from dropsign.verifier import Verifier
from dropsign.verifying import Finding, Verdict, Verification


@dataclass
class Round:
    """How it stands after one look at all files.

    Attributes:
        matching: how many are signed and match.
        waiting: what is not, with what is missing.
        given_up: what will not be signed unless somebody does something, with the reason.
    """

    matching: int = 0
    waiting: dict[bytes, str] = field(default_factory=dict)
    given_up: dict[bytes, str] = field(default_factory=dict)


class Waiting:
    """Looks at the files again and again; what matched and has not changed since is not read again."""

    def __init__(self, paths: Sequence[bytes], verification: Verification, records: Records, *, has_key: bool) -> None:
        """Prepare (see `prepare`).

        Args:
            paths: files, which may come yet, and directories.
            verification: tells whether a signature matches.
            records: of the outbox.
            has_key: signatures are verified with a key, and what is recorded tells no more than what failed.
        """
        self._paths = paths
        self._verification = verification
        self._records = records
        self._has_key = has_key
        self._matched: dict[bytes, tuple[Fingerprint, Fingerprint]] = {}
        self._seen: set[bytes] = set()

    def look(self) -> Round:
        """Look once at every file.

        Raises:
            UnreachableError: as for Records.expect, if there is no key.
            JournalError: the same.
        """
        result = Round()
        open_questions: list[bytes] = []
        for found in self._verification.walk(self._paths):
            if isinstance(found, Verdict):
                result.given_up[found.path] = found.detail
            elif self._matched.get(found) == _both(found) is not None:
                result.matching += 1
            else:
                open_questions.append(found)
        try:
            self._records.expect(open_questions)
        except (UnreachableError, JournalError):
            if not self._has_key:
                raise
        for path in open_questions:
            self._ask(path, result)
        return result

    def _ask(self, path: bytes, result: Round) -> None:
        before = _both(path)
        verdict = self._verification.file(path)
        if verdict.finding is Finding.OK and before is not None and _both(path) == before:
            self._matched[path] = before
            result.matching += 1
            return
        self._matched.pop(path, None)
        if verdict.finding is Finding.MISSING and path in self._seen:
            result.given_up[path] = "it was there, and is gone"
        elif (reason := self._given_up(path, verdict)) is not None:
            result.given_up[path] = reason
        else:
            result.waiting[path] = self._records.cause(path) or verdict.detail or verdict.finding
        if verdict.finding is not Finding.MISSING:
            self._seen.add(path)

    def _given_up(self, path: bytes, verdict: Verdict) -> str | None:
        known = self._records.given_up(path)
        if known is not None or verdict.finding is not Finding.UNREADABLE or _is_displaced(path):
            return known
        return verdict.detail


def prepare(named: Iterable[bytes], configuration: Configuration, inquiry: Inquiry) -> Waiting:
    """Prepare to wait for what was named on the command line.

    Raises:
        ConfigurationError: something lies outside of the outbox, and there is no key; or it is never signed.
    """
    given, settings, root = configuration.verify, configuration.outbox, inquiry.root.rstrip(b"/")
    filters = Filters(settings.include, settings.exclude)
    paths = absolute(named)
    for path in paths:
        if not (path + b"/").startswith(root + b"/"):
            if given.key is None:
                msg = (
                    f"{os.fsdecode(path)}: lies outside of the outbox {settings.path};"
                    " to know there whether a signature matches takes verify.key"
                )
                raise ConfigurationError(msg)
            continue
        why = filters.why_not(path.removesuffix(SIGN_SUFFIX).removeprefix(root + b"/"))
        if why is not None and not os.path.isdir(path):
            msg = f"{os.fsdecode(path)}: its name {why}, so it is never signed; leave it out, or change [outbox]"
            raise ConfigurationError(msg)
    records = Records(inquiry)
    proof = records if given.key is None else Verifier.load(given.key, given.scheme)
    verification = Verification(proof, filters, recursive=settings.recursive, root=root, names_special=True)
    return Waiting(paths, verification, records, has_key=given.key is not None)


def paths_in(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the paths of a manifest: one a line, or lines of sha256sum."""
    for line in lines:
        if path := manifest.name_in(line) or line.removesuffix(b"\n"):
            yield path


def absolute(paths: Iterable[bytes]) -> list[bytes]:
    """Return paths that no link is on the way of, but for a last name that is one."""
    result = []
    for path in paths:
        directory, name = os.path.split(path.rstrip(b"/") or b"/")
        whole = name in {b"", b".", b".."} or (os.path.isdir(path) and not os.path.islink(path))
        result.append(os.path.realpath(path) if whole else os.path.join(os.path.realpath(directory or b"."), name))
    return result


def _is_displaced(path: bytes) -> bool:
    """Tell whether something that is no file has the name of a signature, which the daemon will put right or say."""
    try:
        return not stat.S_ISREG(os.lstat(path + SIGN_SUFFIX).st_mode)
    except OSError:
        return False


def _both(path: bytes) -> tuple[Fingerprint, Fingerprint] | None:
    """Return how a file and its FILE.sign look; None where one is missing."""
    try:
        return Fingerprint.of(os.lstat(path)), Fingerprint.of(os.lstat(path + SIGN_SUFFIX))
    except OSError:
        return None
