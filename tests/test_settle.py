"""settle.py: what keeps moving never rests, what is quiet rests after its quiet time, and nothing is forgotten."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dropsign.model import Fingerprint, Notice
from dropsign.settle import CLOCK_TICK_SECONDS, PATIENCE_SECONDS, Settling, is_young

QUIET = 0.5
SHORT = 0.05
WARNING = 300.0
EPSILON = 1e-6
"""Sums of times are off by so much."""

FINISHED = {Notice.CLOSED, Notice.MOVED}
WALL = 1_800_000_000.0
OLD = 1_700_000_000_000_000_000
"""A change time long before `WALL`, in nanoseconds."""


def settling() -> Settling:
    return Settling(QUIET, SHORT, WARNING)


def version(number: int, ctime_ns: int = OLD) -> Fingerprint:
    return Fingerprint(1, 2, number, OLD, ctime_ns)


def judge(
    subject: Settling, path: bytes, now: float, *, number: int = 1, writer: bool | None = False, wall: float = WALL
) -> bool:
    return subject.rests(path, version(number), writer=writer, now=now, wall=wall)


def test_closed_rests_after_the_short_time_exactly() -> None:
    """A close-after-write is due after the short quiet time, not a moment earlier, and then rests at the first look."""
    subject = settling()
    assert subject.touch(b"a", Notice.CLOSED, 10.0)
    assert subject.next_due() == 10.0 + SHORT
    assert subject.due(10.0 + SHORT - EPSILON, 9) == []
    assert subject.due(10.0 + SHORT, 9) == [b"a"]
    assert judge(subject, b"a", 10.0 + SHORT)
    assert b"a" not in subject
    assert subject.next_due() is None


def test_created_needs_two_looks_that_agree() -> None:
    """Without a close, a file rests only once it looked the same for the whole quiet time."""
    subject = settling()
    subject.touch(b"a", Notice.CREATED, 0.0)
    assert subject.due(QUIET, 9) == [b"a"]
    assert not judge(subject, b"a", QUIET)  # the first look proves nothing
    assert subject.due(2 * QUIET - EPSILON, 9) == []
    assert subject.due(2 * QUIET, 9) == [b"a"]
    assert judge(subject, b"a", 2 * QUIET)


def test_early_look_saves_the_second_quiet_time() -> None:
    """A file that was looked at when it was noticed rests after exactly one quiet time."""
    subject = settling()
    subject.touch(b"a", Notice.CREATED, 0.0)
    subject.observe(b"a", version(1), 0.0)
    assert subject.due(QUIET, 9) == [b"a"]
    assert judge(subject, b"a", QUIET)


def test_change_between_looks_starts_the_quiet_time_anew() -> None:
    """A file that looks otherwise at the second look has to look so for the quiet time, though nothing was noticed."""
    subject = settling()
    subject.touch(b"a", Notice.FOUND, 0.0)
    subject.observe(b"a", version(1), 0.0)
    assert subject.due(QUIET, 9) == [b"a"]
    assert not judge(subject, b"a", QUIET, number=2)
    assert subject.due(2 * QUIET, 9) == [b"a"]
    assert judge(subject, b"a", 2 * QUIET, number=2)


def test_modified_makes_the_last_look_worthless() -> None:
    """After a write was noticed, an equal fingerprint from before it proves nothing: times may be too coarse."""
    subject = settling()
    subject.touch(b"a", Notice.CREATED, 0.0)
    subject.observe(b"a", version(1), 0.0)
    subject.touch(b"a", Notice.MODIFIED, 0.4)
    assert subject.due(0.4 + QUIET, 9) == [b"a"]
    assert not judge(subject, b"a", 0.4 + QUIET)


def test_moved_counts_as_finished_only_where_the_kernel_knows_of_no_writer() -> None:
    """A rename into place is enough if there is no writer left; where the kernel can't tell, two looks must agree."""
    for writer, rests in ((False, True), (None, False)):
        subject = settling()
        subject.touch(b"a", Notice.MOVED, 0.0)
        assert subject.due(SHORT, 9) == [b"a"]
        assert judge(subject, b"a", SHORT, writer=writer) is rests
        if not rests:
            assert subject.due(SHORT + QUIET, 9) == [b"a"]
            assert judge(subject, b"a", SHORT + QUIET, writer=writer)


def test_writer_holds_back_however_long_it_pauses() -> None:
    """A file that a process holds open for writing never rests; it is looked at now and then, and rests once closed."""
    subject = settling()
    subject.touch(b"a", Notice.CLOSED, 0.0)  # one of two writers closed it
    now = SHORT
    for _ in range(1000):
        assert subject.due(now, 9) == [b"a"]
        assert not judge(subject, b"a", now, writer=True)
        due = subject.next_due()
        assert due == now + PATIENCE_SECONDS
        now = due
    assert subject.due(now, 9) == [b"a"]
    assert judge(subject, b"a", now, writer=False)


def test_young_files_never_rest() -> None:
    """A file that changed within a clock tick of the look may change again unseen: it is looked at a tick later."""
    changed_ns = int(WALL * 1e9)
    subject = settling()
    subject.touch(b"a", Notice.CLOSED, 0.0)
    assert subject.due(SHORT, 9) == [b"a"]
    young = version(1, changed_ns)
    assert is_young(young, WALL + CLOCK_TICK_SECONDS / 2)
    assert not subject.rests(b"a", young, writer=False, now=SHORT, wall=WALL + CLOCK_TICK_SECONDS / 2)
    assert subject.next_due() == SHORT + CLOCK_TICK_SECONDS
    assert subject.due(SHORT + CLOCK_TICK_SECONDS, 9) == [b"a"]
    later = WALL + CLOCK_TICK_SECONDS * 1.5
    assert not is_young(young, later)
    assert subject.rests(b"a", young, writer=False, now=SHORT + CLOCK_TICK_SECONDS, wall=later)


def test_clock_stepped_back_does_not_keep_a_file_for_ever() -> None:
    """A change time in the future, of a clock that was stepped back, does not keep a file from coming to rest."""
    subject = settling()
    subject.touch(b"a", Notice.CLOSED, 0.0)
    assert subject.due(SHORT, 9) == [b"a"]
    ahead = version(1, int((WALL + 3600) * 1e9))
    assert subject.rests(b"a", ahead, writer=False, now=SHORT, wall=WALL)


def test_found_neither_shortens_nor_prolongs() -> None:
    """What a scan finds of a path that events told of changes nothing: neither its quiet time nor who told first."""
    subject = settling()
    subject.touch(b"a", Notice.MODIFIED, 0.0)
    assert not subject.touch(b"a", Notice.FOUND, 0.3)
    assert subject.next_due() == QUIET
    restless = subject.get(b"a")
    assert restless is not None
    assert (restless.notice, restless.found) == (Notice.MODIFIED, False)


def test_found_is_remembered_until_an_event_tells() -> None:
    """A path that only a scan told of says so; the first event takes that back."""
    subject = settling()
    subject.touch(b"a", Notice.FOUND, 0.0)
    restless = subject.get(b"a")
    assert restless is not None
    assert restless.found
    subject.touch(b"a", Notice.CLOSED, 0.1)
    assert not restless.found


def test_close_shortens_and_a_later_write_lengthens() -> None:
    """The last notice decides: a close brings the look forward, a write after it puts it off again."""
    subject = settling()
    subject.touch(b"a", Notice.CREATED, 0.0)
    subject.touch(b"a", Notice.CLOSED, 0.1)
    assert subject.due(0.1 + SHORT, 9) == [b"a"]
    subject.touch(b"a", Notice.MODIFIED, 0.15)  # between the look and the judgement
    assert not judge(subject, b"a", 0.15)
    assert subject.due(0.6, 9) == []
    assert subject.due(0.15 + QUIET, 9) == [b"a"]


def test_notice_between_look_and_judgement_wins() -> None:
    """A look that is older than the last notice judges nothing, and the path stays due."""
    subject = settling()
    subject.touch(b"a", Notice.CLOSED, 0.0)
    assert subject.due(SHORT, 9) == [b"a"]
    subject.touch(b"a", Notice.CLOSED, SHORT)
    assert not judge(subject, b"a", SHORT)
    assert subject.due(2 * SHORT, 9) == [b"a"]


def test_never_resting_is_told_once() -> None:
    """A path restless for the warning time is reported with its seconds, and never again while it stays so."""
    subject = settling()
    subject.touch(b"a", Notice.MODIFIED, 5.0)
    subject.touch(b"a", Notice.MODIFIED, 200.0)
    assert list(subject.never_resting(5.0 + WARNING - EPSILON)) == []
    assert list(subject.never_resting(5.0 + WARNING)) == [(b"a", WARNING)]
    assert list(subject.never_resting(5.0 + 2 * WARNING)) == []


def test_due_gives_no_more_than_asked_and_loses_none() -> None:
    """Due paths come in portions, earliest first, each exactly once."""
    subject = settling()
    for number in range(1000):
        subject.touch(b"%04d" % number, Notice.CLOSED, number / 1000)
    portions = []
    while portion := subject.due(10.0, 64):
        assert len(portion) <= 64
        portions += portion
    assert portions == [b"%04d" % number for number in range(1000)]


def test_dropped_path_that_comes_back_is_due_once() -> None:
    """What is left of a dropped path in the queue neither wakes early nor twice for a new notice under its name."""
    subject = settling()
    subject.touch(b"a", Notice.CLOSED, 0.0)
    subject.drop(b"a")
    subject.touch(b"a", Notice.CREATED, 0.01)
    assert subject.due(SHORT, 9) == []
    assert subject.due(9.0, 9) == [b"a"]
    assert subject.due(9.0, 9) == []


def test_queue_does_not_grow_with_notices() -> None:
    """A hundred thousand writes to one file cost no more memory than one."""
    subject = settling()
    for number in range(100_000):
        subject.touch(b"a", Notice.MODIFIED, number / 1e6)
    assert len(subject._queue) <= 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from([notice for notice in Notice if notice not in {Notice.FOUND, Notice.BESIDE}]),
            st.floats(0, 0.99),
        ),
        min_size=1,
    )
)
def test_touched_before_each_quiet_time_ends_it_never_rests(touches: list[tuple[Notice, float]]) -> None:
    """A path that is touched again before its quiet time is over is never due; left alone, it is due right after."""
    subject = settling()
    now = due = 0.0
    for index, (notice, part) in enumerate(touches):
        if index:
            now += (due - now) * part
        assert subject.due(now, 9) == []
        subject.touch(b"a", notice, now)
        due = now + (SHORT if notice in FINISHED else QUIET)
    assert subject.due(due - EPSILON, 9) == []
    assert subject.due(due, 9) == [b"a"]


PATHS = st.sampled_from([b"a", b"b", b"sub/c", b"d"])


class RestlessFiles(RuleBasedStateMachine):
    """Files that are written, closed, held open and noticed in any order, beside a plain model of them."""

    @initialize()
    def begin(self) -> None:
        self.subject = settling()
        self.now = 100.0
        self.offset = WALL
        self.version: dict[bytes, int] = {}
        self.changed: dict[bytes, float] = {}
        self.stamped: dict[bytes, float] = {}
        self.writer: set[bytes] = set()
        self.quiet_from: dict[bytes, float] = {}
        self.last: dict[bytes, Notice] = {}

    def _touch(self, path: bytes, notice: Notice) -> None:
        if notice in {Notice.FOUND, Notice.BESIDE} and path in self.subject:
            assert not self.subject.touch(path, notice, self.now)
            return
        assert self.subject.touch(path, notice, self.now) is (path not in self.quiet_from)
        self.quiet_from[path] = self.now + (SHORT if notice in FINISHED else QUIET)
        self.last[path] = notice

    @rule(path=PATHS, noticed=st.booleans())
    def write(self, path: bytes, noticed: bool) -> None:
        self.version[path] = self.version.get(path, 0) + 1
        self.changed[path] = self.now
        self.stamped[path] = self.now + self.offset
        if noticed:
            self._touch(path, Notice.MODIFIED)

    @rule(path=PATHS)
    def open_for_writing(self, path: bytes) -> None:
        self.writer.add(path)

    @rule(path=PATHS)
    def close(self, path: bytes) -> None:
        self.writer.discard(path)
        self._touch(path, Notice.CLOSED)

    @rule(path=PATHS, notice=st.sampled_from(Notice))
    def notice(self, path: bytes, notice: Notice) -> None:
        self._touch(path, notice)

    @rule(path=PATHS)
    def look_early(self, path: bytes) -> None:
        self.subject.observe(path, self._fingerprint(path), self.now)

    @rule(path=PATHS)
    def forget(self, path: bytes) -> None:
        self.subject.drop(path)
        self.quiet_from.pop(path, None)

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.05, 0.2, 0.5, 2.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([-3600.0, -0.5, 0.5, 3600.0]))
    def step_clock(self, seconds: float) -> None:
        self.offset += seconds

    @rule(limit=st.integers(1, 5))
    def judge(self, limit: int) -> None:
        for path in self.subject.due(self.now, limit):
            rests = self.subject.rests(
                path, self._fingerprint(path), writer=path in self.writer, now=self.now, wall=self.now + self.offset
            )
            assert rests is (path not in self.subject)
            if not rests:
                continue
            assert path not in self.writer
            assert self.now >= self.quiet_from.pop(path) - EPSILON
            assert abs(self.now + self.offset - self.stamped.get(path, 0)) >= CLOCK_TICK_SECONDS - EPSILON
            if self.last[path] not in FINISHED:
                assert self.now - self.changed.get(path, 0) >= QUIET - EPSILON

    def _fingerprint(self, path: bytes) -> Fingerprint:
        return version(self.version.get(path, 0), int(self.stamped.get(path, 0) * 1e9))

    @invariant()
    def every_restless_path_will_be_due(self) -> None:
        if not hasattr(self, "subject"):
            return
        assert len(self.subject) == len(self.quiet_from)
        for path in self.quiet_from:
            restless = self.subject.get(path)
            next_due = self.subject.next_due()
            assert restless is not None
            assert next_due is not None
            assert next_due <= restless.due

    def teardown(self) -> None:
        """Left alone, all of them come to rest within a few seconds."""
        if not hasattr(self, "subject"):
            return
        self.writer.clear()
        for _ in range(6):
            self.now += 1.0
            self.judge(100)
        assert len(self.subject) == 0, "a path never came to rest"


TestRestlessFiles = RestlessFiles.TestCase
TestRestlessFiles.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
