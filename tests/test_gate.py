"""gate.py in a real event loop: who passes, who waits, and who is told, when the service is out."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

import pytest

from dropsign.errors import Fault, SigningError
from dropsign.gate import SUMMARY_SECONDS, Closed, Gate
from dropsign.outage import SAME_REFUSALS, OutagePolicy
from dropsign.pace import FIRST_LIMIT, Pace

UNREACHABLE = SigningError(Fault.SERVICE, "unreachable", "connection refused")


class Early(Random):
    """Draws so that a probe may go after a hundredth of its ceiling."""

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) / 100


class Site:
    """A gate and what it told."""

    def __init__(self, *, most: int = 64) -> None:
        self.closed: list[Closed] = []
        self.opened: list[tuple[Closed, float]] = []
        self.probes = 0
        self.before_probe: Callable[[], Awaitable[None]] | None = None
        self.pace = Pace(most)
        self.gate = Gate(
            OutagePolicy(Early()),
            self.pace,
            on_closed=self.closed.append,
            on_opened=lambda closed, seconds: self.opened.append((closed, seconds)),
            before_probe=self._before_probe,
        )

    async def _before_probe(self) -> None:
        self.probes += 1
        if self.before_probe is not None:
            await self.before_probe()


class Crowd:
    """Workers that all want through, and stay inside until they are let out."""

    def __init__(self, gate: Gate, number: int) -> None:
        self.gate = gate
        self.inside = 0
        self.most = 0
        self.through = 0
        self.entered = asyncio.Event()
        self.let_out = asyncio.Event()
        self.tasks = [asyncio.create_task(self._go()) for _ in range(number)]

    async def _go(self) -> None:
        async with self.gate.passage():
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.entered.set()
            try:
                await self.let_out.wait()
            finally:
                self.inside -= 1
        self.through += 1


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scenario(), 20)

    asyncio.run(limited())


def test_open_gate_lets_as_many_through_as_the_service_bears() -> None:
    """While the service answers, so many go at once as the pace allows; as each leaves, the next one goes."""

    async def scenario() -> None:
        site = Site()
        crowd = Crowd(site.gate, 32)
        await asyncio.sleep(0.01)
        assert crowd.inside == site.gate.limit == FIRST_LIMIT
        assert site.gate.closed is None
        assert site.gate.next_probe_seconds is None
        crowd.let_out.set()
        await asyncio.gather(*crowd.tasks)
        assert (crowd.through, crowd.most, site.probes) == (32, FIRST_LIMIT, 0)

    run(scenario)


def test_answers_let_more_through() -> None:
    """Each answer makes room for one more, which those who wait take up, up to the configured ceiling."""

    async def scenario() -> None:
        site = Site(most=10)

        async def work() -> None:
            async with site.gate.passage():
                await asyncio.sleep(0.001)
                assert site.gate._inside <= site.gate.limit
                site.gate.answered()

        await asyncio.gather(*(work() for _ in range(100)))
        assert site.gate.limit == 10
        crowd = Crowd(site.gate, 32)
        await asyncio.sleep(0.01)
        assert crowd.inside == 10
        crowd.let_out.set()
        await asyncio.gather(*crowd.tasks)

    run(scenario)


def test_place_of_a_cancelled_waiter_goes_to_the_next() -> None:
    """Whoever is cancelled while it waits, even in the very moment when a place is given to it, costs nobody one."""

    async def scenario() -> None:
        site = Site(most=1)
        crowd = Crowd(site.gate, 6)
        await asyncio.sleep(0.01)
        assert crowd.inside == 1
        crowd.tasks[3].cancel()
        crowd.tasks[0].cancel()
        await asyncio.sleep(0)  # the place is given to the second, which does not know yet
        crowd.tasks[1].cancel()
        crowd.let_out.set()
        await asyncio.wait_for(asyncio.gather(*crowd.tasks, return_exceptions=True), 5)
        assert (crowd.through, crowd.most) == (3, 1)

    run(scenario)


def test_order_is_kept_where_several_leave_at_once() -> None:
    """Whoever waits passes in the order in which all came, also behind two who leave in one turn of the loop."""

    async def scenario() -> None:
        site = Site(most=2)
        passed: list[int] = []
        leave = [asyncio.Event() for _ in range(8)]

        async def go(number: int) -> None:
            async with site.gate.passage():
                passed.append(number)
                await leave[number].wait()

        tasks = [asyncio.create_task(go(number)) for number in range(7)]
        await asyncio.sleep(0.01)
        assert passed == [0, 1]
        leave[0].set()
        leave[1].set()
        await asyncio.sleep(0.01)
        assert passed == [0, 1, 2, 3]
        tasks.append(asyncio.create_task(go(7)))
        for number in range(2, 8):
            leave[number].set()
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        assert passed == list(range(8))
        assert site.gate._inside == 0

    run(scenario)


def test_overload_slows_down_without_closing() -> None:
    """A refusal for load while others get their answers halves the pace; the gate stays open, and nothing is told."""

    async def scenario() -> None:
        site = Site()
        for _ in range(12):
            site.gate.answered()
        assert site.gate.limit == 16
        overloaded = SigningError(Fault.SERVICE, "overloaded", "503", passing=True)
        assert site.gate.fault(overloaded, time.monotonic(), b"a file")
        assert (site.gate.limit, site.closed) == (8, [])
        assert not site.gate.fault(UNREACHABLE, time.monotonic())  # nobody listens any more: no matter of load
        assert (site.gate.limit, len(site.closed)) == (1, 1)

    run(scenario)


def test_a_file_that_alone_fails_holds_nobody_up() -> None:
    """One that closed the gate all by itself lets a newcomer probe at once; it never closes the gate again."""

    async def scenario() -> None:
        site = Site()
        failing = SigningError(Fault.SERVICE, "overloaded", "503", passing=True)
        assert not site.gate.fault(failing, time.monotonic(), b"failing")
        for _ in range(12):  # its probes fail, and the next one is an hour away, were it for it alone
            site.gate._policy.next_probe = 0
            async with site.gate.passage(b"failing"):
                assert not site.gate.fault(failing, time.monotonic(), b"failing")
        site.gate._policy.next_probe = time.monotonic() + 3600

        async def fail() -> None:
            async with site.gate.passage(b"failing"):
                assert site.gate.fault(failing, time.monotonic(), b"failing"), "others fare better"

        waiting = asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        async with site.gate.passage(b"newcomer"):
            site.gate.answered(b"newcomer")
        await waiting
        assert site.gate.closed is None
        assert (len(site.closed), len(site.opened)) == (1, 1)
        async with site.gate.passage(b"failing"):
            site.gate.answered(b"failing")
        site.pace.last_answer = float("-inf")
        assert not site.gate.fault(failing, time.monotonic(), b"failing"), "it was answered, and is like any other"

    run(scenario)


def test_newcomer_waits_where_the_service_asked_for_it() -> None:
    """A `Retry-After` is everybody's, though it was said to one file alone."""

    async def scenario() -> None:
        site = Site()
        asked = SigningError(Fault.SERVICE, "overloaded", "503", passing=True, retry_after=0.4)
        began = time.monotonic()
        site.gate.fault(asked, began, b"failing")
        async with site.gate.passage(b"newcomer"):
            assert time.monotonic() - began >= 0.4
            site.gate.fault(asked, time.monotonic(), b"newcomer")
        began = time.monotonic()
        async with site.gate.passage(b"another"):
            assert time.monotonic() - began >= 0.3

    run(scenario)


def test_short_pause_is_for_all() -> None:
    """An open gate lets nobody through for the second that a `Retry-After` asked for, and all who wait after it."""

    async def scenario() -> None:
        site = Site()
        site.gate.answered()
        asked = SigningError(Fault.SERVICE, "overloaded", "429", passing=True, retry_after=0.3)
        began = time.monotonic()
        assert site.gate.fault(asked, began, b"refused")
        crowd = Crowd(site.gate, 8)
        await crowd.entered.wait()
        assert time.monotonic() - began >= 0.3
        crowd.let_out.set()
        await asyncio.gather(*crowd.tasks)
        assert site.closed == []

    run(scenario)


def test_one_probe_at_a_time() -> None:
    """While the gate is closed one worker probes and all others wait; each failed probe puts the next one off."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(UNREACHABLE)
        crowd = Crowd(site.gate, 16)
        await crowd.entered.wait()
        await asyncio.sleep(0.1)
        assert (crowd.inside, site.probes) == (1, 1)
        site.gate.fault(UNREACHABLE)  # the probe's
        crowd.entered.clear()
        crowd.let_out.set()
        await crowd.entered.wait()
        assert crowd.most == 1
        assert site.probes >= 2
        for task in crowd.tasks:
            task.cancel()

    run(scenario)


def test_waiters_are_released_on_opening() -> None:
    """The answer to the probe opens the gate, once; all who waited go at once, none of them as a probe."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(UNREACHABLE)
        crowd = Crowd(site.gate, 16)
        await crowd.entered.wait()
        site.gate.answered()
        site.gate.answered()
        await asyncio.sleep(0.05)
        crowd.let_out.set()
        await asyncio.gather(*crowd.tasks)
        assert (crowd.through, site.probes) == (16, 1)
        assert [closed.reason for closed, _ in site.opened] == ["unreachable"]

    run(scenario)


def test_answer_of_a_request_on_its_way_opens_the_gate_for_those_who_wait() -> None:
    """An answer that comes while all wait for their probe lets them through at once, long before it was due."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(SigningError(Fault.SERVICE, "overloaded", "503", retry_after=3600))
        crowd = Crowd(site.gate, 8)
        await asyncio.sleep(0.02)
        assert crowd.inside == 0
        site.gate.answered()
        await crowd.entered.wait()
        crowd.let_out.set()
        await asyncio.gather(*crowd.tasks)
        assert site.probes == 0

    run(scenario)


def test_closing_and_opening_are_told_once() -> None:
    """A hundred faults are one closing, with the first reason; the state tells the latest."""

    async def scenario() -> None:
        site = Site()
        for _ in range(50):
            site.gate.fault(UNREACHABLE)
        later = SigningError(Fault.CREDENTIALS, "credentials", "401")
        for _ in range(50):
            site.gate.fault(later)
        assert [closed.reason for closed in site.closed] == ["unreachable"]
        now_closed = site.gate.closed
        assert now_closed is not None
        assert now_closed.reason == "credentials"
        assert now_closed.since == site.closed[0].since
        assert site.gate.next_probe_seconds is not None
        site.gate.answered()
        assert len(site.opened) == 1
        assert site.gate.closed is None

    run(scenario)


def test_retry_after_is_waited_for() -> None:
    """No probe goes before the time that the service asked for."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(SigningError(Fault.SERVICE, "overloaded", "503", retry_after=0.3))
        started = time.monotonic()
        async with site.gate.passage():
            assert time.monotonic() - started >= 0.299

    run(scenario)


def test_credentials_are_read_again_before_each_probe_and_a_failure_there_lets_others_try() -> None:
    """An error before the probe reaches the worker, and the turn passes on."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(UNREACHABLE)

        async def broken() -> None:
            raise SigningError(Fault.CREDENTIALS, "credentials", "expired")

        site.before_probe = broken
        with pytest.raises(SigningError, match="expired"):
            async with site.gate.passage():
                raise AssertionError("passed")
        site.before_probe = None
        async with site.gate.passage():
            assert site.probes >= 2

    run(scenario)


def test_hold_stops_all_and_release_lets_them_go() -> None:
    """A full disk holds the gate shut without any probe; however often it is said, it is told once."""

    async def scenario() -> None:
        site = Site()
        site.gate.hold("disk", "No space left on device")
        crowd = Crowd(site.gate, 4)
        await asyncio.sleep(0.05)
        site.gate.hold("disk", "No space left on device, still")
        await asyncio.sleep(0.05)
        assert (crowd.inside, site.probes) == (0, 0)
        assert [closed.detail for closed in site.closed] == ["No space left on device"]
        held = site.gate.closed
        assert held is not None
        assert (held.reason, held.since) == ("disk", site.closed[0].since)
        site.gate.release("outbox")
        assert site.gate.closed is not None
        site.gate.release("disk")
        await crowd.entered.wait()
        crowd.let_out.set()
        await asyncio.gather(*crowd.tasks)
        ((ended, seconds),) = site.opened
        assert ended.reason == "disk"
        assert seconds >= 0.09
        assert site.probes == 0

    run(scenario)


def test_gate_stays_shut_until_all_who_found_a_fault_release_it() -> None:
    """Many that find the same disk full close the gate once; the last of them opens it, for as long as it was shut."""

    async def scenario() -> None:
        site = Site()
        for number in range(3):
            site.gate.hold("disk", "full", by=number)
            await asyncio.sleep(0.01)
        for number in range(3):
            assert site.opened == []
            site.gate.release(number)
        assert [closed.reason for closed in site.closed] == ["disk"]
        ((ended, seconds),) = site.opened
        assert ended.since == site.closed[0].since
        assert seconds >= 0.03

    run(scenario)


def test_gate_opens_only_when_nothing_holds_it() -> None:
    """With the service out and the disk full, neither end alone opens the gate."""

    async def scenario() -> None:
        for service_first in (True, False):
            site = Site()
            site.gate.fault(UNREACHABLE)
            site.gate.hold("disk", "full")
            site.gate.hold("outbox", "not there")
            assert len(site.closed) == 1
            ends: list[Callable[[], None]] = [site.gate.answered, partial(site.gate.release, "disk")]
            for end in ends if service_first else reversed(ends):
                end()
                assert site.opened == []
                assert site.gate.closed is not None
            site.gate.release("outbox")
            assert site.gate.closed is None
            assert len(site.opened) == 1
            async with site.gate.passage():
                assert site.probes == 0

    run(scenario)


def test_outage_that_lasts_beyond_the_hold_is_probed_again() -> None:
    """Who waited for the disk goes on to probe the service soon after there is room."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(UNREACHABLE)
        site.gate.hold("disk", "full")
        crowd = Crowd(site.gate, 2)
        await asyncio.sleep(0.05)
        assert crowd.inside == 0
        site.gate.release("disk")
        await asyncio.wait_for(crowd.entered.wait(), 3)
        assert (crowd.inside, site.probes) == (1, 1)
        for task in crowd.tasks:
            task.cancel()

    run(scenario)


def test_stop_while_waiting() -> None:
    """Workers that wait, the one whose turn it is as well as those behind it, end at once when cancelled."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(SigningError(Fault.SERVICE, "overloaded", "503", retry_after=3600))
        crowd = Crowd(site.gate, 8)
        await asyncio.sleep(0.02)
        crowd.tasks[0].cancel()
        await asyncio.sleep(0.02)
        for task in crowd.tasks[1:-1]:
            task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*crowd.tasks[:-1], return_exceptions=True), 1)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        site.gate.answered()
        crowd.let_out.set()
        await asyncio.wait_for(crowd.tasks[-1], 3)  # no turn was lost with those who left

    run(scenario)


def test_probe_that_is_cut_short_passes_its_turn_on() -> None:
    """A probe whose worker is cancelled in the middle leaves its turn to the next one."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(UNREACHABLE)
        crowd = Crowd(site.gate, 2)
        await crowd.entered.wait()
        crowd.entered.clear()
        crowd.tasks[1].cancel()  # of all who wait, the last probes
        await asyncio.wait_for(crowd.entered.wait(), 3)
        crowd.let_out.set()
        await crowd.tasks[0]

    run(scenario)


def refused(status: int) -> SigningError:
    return SigningError(Fault.FILE, f"http_{status}", f"the service answered {status}", status=status)


def test_many_refusals_alike_close_the_gate_and_more_of_them_keep_it_closed() -> None:
    """A wrong URL fails seven files at most, which are named to be put back; further 404s are probes that failed."""

    async def scenario() -> None:
        site = Site()
        told = [site.gate.refused(b"%d" % number, refused(404)) for number in range(SAME_REFUSALS)]
        assert told == [False] * (SAME_REFUSALS - 1) + [True]
        assert site.gate.blamed() == [b"%d" % number for number in range(SAME_REFUSALS)]
        now_closed = site.gate.closed
        assert now_closed is not None
        assert now_closed.reason == "rejecting"
        async with site.gate.passage():
            assert site.gate.refused(b"another", refused(404))
        assert site.gate.closed is not None
        site.gate.answered()
        assert not site.gate.refused(b"another", refused(404))

    run(scenario)


@pytest.mark.parametrize("reason", ["unreachable", "rejecting", "overloaded"])
def test_refusal_of_one_file_shows_that_the_service_works_again(reason: str) -> None:
    """After any outage, a 502 too, the definite refusal of the probe's file fails that file and opens the gate."""

    async def scenario() -> None:
        site = Site()
        site.gate.fault(SigningError(Fault.SERVICE, reason, "502", status=502))
        assert not site.gate.refused(b"too large", refused(413))
        assert site.gate.closed is None
        assert len(site.opened) == 1

    run(scenario)


def test_summary_once_a_minute_while_closed_for_whatever_reason() -> None:
    """A day's outage asks for a summary a minute, one of this machine's faults too, and an open gate for none."""

    async def scene(site: Site) -> None:
        assert not site.gate.summary_due(time.monotonic())
        began = time.monotonic()
        site.gate.hold("disk", "no space left")
        seconds = (began + second for second in range(86_400))
        assert len([second for second in seconds if site.gate.summary_due(second)]) == 86_400 // SUMMARY_SECONDS - 1
        site.gate.release("disk")
        assert not site.gate.summary_due(began + 1e9)

    async def play() -> None:
        await scene(Site())

    asyncio.run(play())
