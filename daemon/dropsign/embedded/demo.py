"""The demo: the main job from the first certificate to the last verified signature, told step by step."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dropsign.embedded.demo_files import PIECES, SMALL, DemoFile, Way, change, dropping, plan, ways
from dropsign.embedded.demo_patience import Patience
from dropsign.embedded.demo_site import Site
from dropsign.embedded.demo_verification import Problem, Verification

_CHANGED_MOST: Final = 6
_PAUSE_SECONDS: Final = 0.7
"""Longer than a drop needs to settle, so that only the open file can hold it back."""

_LATENCY_POLL_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was taken."""

    name: str
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo came to.

    Attributes:
        files: so many were dropped.
        size: bytes in all of them.
        requests: so many signatures the service made.
        problems: what went wrong; nothing, if all is well.
    """

    files: int
    size: int
    requests: int
    problems: Sequence[Problem]


class Audience(Protocol):
    """Is told how far the demo is."""

    def begins(self, step: str) -> None:
        """A step begins."""

    def advances(self, done: int, total: int) -> None:
        """The step got so far."""

    def ended(self, step: Step) -> None:
        """The step is done."""


class Demo:
    """The steps, in their order, in one installation."""

    def __init__(self, site: Site, patience: Patience, audience: Audience, number: int) -> None:
        """Prepare the demo.

        Args:
            site: where it happens; what is started there is whose maker's to end.
            patience: how long it may take.
            audience: is told.
            number: how many files are dropped.
        """
        self._site = site
        self._patience = patience
        self._audience = audience
        self._files = plan(number)
        self._first = self._files[0]
        self._changed = _to_change(self._files)
        self._problems: list[Problem] = []

    def run(self) -> Outcome:
        """Take all steps.

        Raises:
            UnreachableError: a process died, or the patience was used up.
            KeyboardInterrupt: somebody interrupted.
        """
        steps: dict[str, Callable[[], str]] = {
            "authority and certificates": self._prepare,
            "signing service": self._start_service,
            "daemon": self._start_daemon,
            "first signature": self._sign_first,
            "files dropped": self._drop_all,
            "all signed": self._await_all,
            "changed files signed anew": self._change_some,
            "verification": self._verify_all,
        }
        for name, take in steps.items():
            self._audience.begins(name)
            started = time.monotonic()
            detail = take()
            self._audience.ended(Step(name, time.monotonic() - started, detail))
        size = sum(file.at(self._site.outbox).stat().st_size for file in self._files)
        return Outcome(len(self._files), size, len(self._site.signed_digests()), self._problems)

    # The steps

    def _prepare(self) -> str:
        self._site.prepare()
        return "a certificate for the service, one for the daemon, a key to sign with"

    def _start_service(self) -> str:
        self._site.start_service()
        self._await(lambda: "" if self._site.is_listening() else "the signing service's first answer")
        return f"listens at https://{self._site.address}, asks for a client certificate"

    def _start_daemon(self) -> str:
        self._site.start_daemon()

        def missing() -> str:
            status = self._site.status()
            return "" if status["ready"] else f"the daemon's readiness ({'; '.join(status['not_ready_reasons'])})"

        self._await(missing)
        return "ready: it watches the outbox and can reach the service"

    def _sign_first(self) -> str:
        self._drop([self._first])
        closed = time.monotonic()
        sign = self._first.sign_at(self._site.outbox)
        self._await(lambda: "" if sign.exists() else "the first signature", _LATENCY_POLL_SECONDS)
        latency_ms = (time.monotonic() - closed) * 1000
        return f"{sign.name}, {latency_ms:.0f} ms after {os.fsdecode(self._first.name)} was closed"

    def _drop_all(self) -> str:
        self._drop(self._files[1:])
        return ways(self._files)

    def _await_all(self) -> str:
        self._await_files(self._files, lambda file: file.sign_at(self._site.outbox).exists())
        return f"{len(self._files)} files; requests: {len(self._site.signed_digests())}"

    def _change_some(self) -> str:
        site = self._site
        requests = len(site.signed_digests())
        for manner, file in enumerate(self._changed):
            change(file.at(site.outbox), site.outside, manner)
        self._first.at(site.outbox).touch()
        verification = Verification(site)
        self._await_files(self._changed, lambda file: verification.problem(file) is None)
        self._await_scan()
        self._problems += verification.not_withdrawn(self._changed)
        requests = len(site.signed_digests()) - requests
        return f"{len(self._changed)} changed, 1 only touched; requests: {requests}"

    def _verify_all(self) -> str:
        verification = Verification(self._site)
        found: list[Problem] = []
        for done, file in enumerate(self._files):
            self._patience.rest(0)
            self._audience.advances(done, len(self._files))
            if (problem := verification.problem(file)) is not None:
                found.append(problem)
        self._problems += [*found, *verification.sent_twice(self._files), *verification.left_over(self._files)]
        text = f"{len(self._files) - len(found)} of {len(self._files)} verify with the service's public key"
        if found or (accepted := verification.openssl_accepts(self._first)) is None:
            return text
        if not accepted:
            self._problems.append(Problem(self._first.name, "has a signature that openssl does not accept"))
        return f"{text}; openssl {'agrees' if accepted else 'does not agree'}"

    # Waiting

    def _await(self, missing: Callable[[], str], *poll_seconds: float) -> None:
        """Wait until nothing is missing, while all processes live."""

        def still_missing() -> str:
            self._site.check()
            return missing()

        self._patience.until_none(still_missing, *poll_seconds)

    def _await_files(self, files: Sequence[DemoFile], is_done: Callable[[DemoFile], bool]) -> None:
        """Wait until something holds for all files, but for those that the daemon has given up."""
        waiting = list(files)

        def missing() -> str:
            waiting[:] = [file for file in waiting if not is_done(file)]
            self._audience.advances(len(files) - len(waiting), len(files))
            if waiting and len(waiting) > self._given_up():
                return f"{len(waiting)} signatures, the first of them for {os.fsdecode(waiting[0].name)}"
            return ""

        self._await(missing)

    def _given_up(self) -> int:
        status = self._site.status()
        return sum(int(status.get(state, 0)) for state in ("failed", "refused"))

    def _await_scan(self) -> None:
        """Have everything looked at, and wait until nothing more is to be done."""

        def scanned_at() -> float:
            last = self._site.status().get("last_scan")
            return float(last["at"]) if last else 0.0

        before = scanned_at()
        self._site.rescan()
        self._await(lambda: "" if scanned_at() > before else "a scan of the outbox")
        self._await(lambda: "the end of all work" if self._site.status().get("backlog", 1) else "")

    # Files

    def _drop(self, files: Sequence[DemoFile]) -> None:
        """Drop files; those that are written slowly are open all the while."""
        slow = [self._dropping(file) for file in files if file.way is Way.SLOWLY]
        for writer in slow:
            next(writer)
        quick = [file for file in files if file.way is not Way.SLOWLY]
        for done, file in enumerate(quick):
            self._audience.advances(done, len(files))
            self._patience.rest(0)
            list(self._dropping(file))
        for _ in range(PIECES - 1 if slow else 0):
            self._patience.rest(_PAUSE_SECONDS)
            for writer in slow:
                next(writer, None)

    def _dropping(self, file: DemoFile) -> Iterator[None]:
        return dropping(file, self._site.outbox, self._site.outside)


def _to_change(files: Sequence[DemoFile]) -> list[DemoFile]:
    """Choose a few small files, each come in another way; the first one is only touched."""
    small = [file for file in files[1:] if 0 < file.size <= SMALL]
    return small[: min(_CHANGED_MOST, len(files) // 4)]
