"""outbox.py on real directories: signatures whole or not at all, beside their very version, and no link followed."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dropsign.directory import MovedOnError, has_writer
from dropsign.errors import OutboxError, OutboxLockedError
from dropsign.filters import TEMPORARY, is_ours
from dropsign.model import Fingerprint, Look, SignFile, Stamp
from dropsign.outbox import Outbox, Publication

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "outbox"
    directory.mkdir()
    return directory


@pytest.fixture
def outbox(root: Path) -> Iterator[Outbox]:
    made = Outbox(root)
    yield made
    made.close()


def at(root: Path, path: bytes) -> bytes:
    return os.path.join(os.fsencode(root), path)


def drop(root: Path, path: bytes, content: bytes = b"content") -> Fingerprint:
    os.makedirs(os.path.dirname(at(root, path)), exist_ok=True)
    with open(at(root, path), "wb") as file:
        file.write(content)
    return Fingerprint.of(os.lstat(at(root, path)))


def failures(results: Sequence[Stamp | Exception | None]) -> list[Exception | None]:
    """Return what kept each signature from being published; None for one that was."""
    return [result if isinstance(result, Exception) else None for result in results]


def text(sign: SignFile | None) -> bytes | None:
    return None if sign is None else sign.text


def read(root: Path, path: bytes) -> bytes:
    with open(at(root, path), "rb") as file:
        return file.read()


def names(root: Path) -> list[bytes]:
    return sorted(os.listdir(os.fsencode(root)))


def look(outbox: Outbox, path: bytes, *, closely: bool = False) -> Look:
    (seen,) = outbox.look([path], closely=closely)
    assert isinstance(seen, Look), seen
    return seen


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as a user for whom permissions count, in a directory that is already open."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


# Publishing


def test_group_is_published_whole(outbox: Outbox, root: Path) -> None:
    """Every signature of a group lies beside its file with exactly its bytes, and nothing else appears."""
    group = [
        Publication(path, drop(root, path), b"signature of " + path)
        for path in (b"a", b"b", b"sub/c", b"sub/deeper/d", b"with space\n.txt")
    ]
    assert failures(outbox.publish(group)) == [None] * len(group)
    for publication in group:
        assert read(root, publication.path + b".sign") == publication.text
    assert names(root) == [b"a", b"a.sign", b"b", b"b.sign", b"sub", b"with space\n.txt", b"with space\n.txt.sign"]


def test_one_that_moved_on_costs_the_others_nothing(outbox: Outbox, root: Path) -> None:
    """Of a group, what changed, was replaced, or is gone is told so and leaves nothing; the others are published."""
    group = [Publication(path, drop(root, path), b"s") for path in (b"fine", b"grown", b"replaced", b"gone", b"d/gone")]
    (root / "grown").write_bytes(b"more content")
    drop(root, b"other")
    os.rename(root / "other", root / "replaced")
    (root / "gone").unlink()
    shutil.rmtree(root / "d")
    results = failures(outbox.publish(group))
    assert results[0] is None
    assert [type(result) for result in results[1:]] == [MovedOnError] * 4
    assert names(root) == [b"fine", b"fine.sign", b"grown", b"replaced"]


@pytest.mark.parametrize("change", ["touch", "chmod", "same size rewrite with restored mtime", "link count"])
def test_any_change_of_the_fingerprint_stops_the_publication(outbox: Outbox, root: Path, change: str) -> None:
    """Whatever moves the change time is a new version: its size and its modification time prove nothing."""
    fingerprint = drop(root, b"a", b"one")
    path = root / "a"
    while os.stat(drop_probe(root)).st_ctime_ns == fingerprint.ctime_ns:  # until the clock has ticked
        continue
    match change:
        case "touch":
            os.utime(path)
        case "chmod":
            path.chmod(0o600)
        case "same size rewrite with restored mtime":
            path.write_bytes(b"two")
            os.utime(path, ns=(fingerprint.mtime_ns, fingerprint.mtime_ns))
        case _:
            os.link(path, root / "second name")
    (result,) = failures(outbox.publish([Publication(b"a", fingerprint, b"s")]))
    assert isinstance(result, MovedOnError)
    assert not (root / "a.sign").exists()


def test_change_after_the_first_check_is_still_noticed(outbox: Outbox, root: Path) -> None:
    """A file that changes while the signatures of its group are written is caught right before the rename."""
    group = [Publication(b"%03d" % number, drop(root, b"%03d" % number), b"s") for number in range(400)]

    def change() -> None:
        while not any(name.endswith(b".tmp") for name in names(root)):  # its own comes first: it has passed the check
            continue
        (root / "000").write_bytes(b"changed meanwhile")

    thread = threading.Thread(target=change)
    thread.start()
    results = failures(outbox.publish(group))
    thread.join()
    assert isinstance(results[0], MovedOnError)
    assert results[1:] == [None] * 399
    assert len(names(root)) == 400 + 399


def drop_probe(root: Path) -> Path:
    probe = root.parent / "clock"
    probe.unlink(missing_ok=True)
    probe.touch()
    return probe


def test_readers_see_a_signature_whole_or_not_at_all(outbox: Outbox, root: Path) -> None:
    """While a signature is replaced again and again, a reader always finds one whole version."""
    fingerprint = drop(root, b"a")
    texts = {b"1" * 20_000, b"2" * 30_000}
    seen: set[bytes] = set()
    stop = threading.Event()

    def publish() -> None:
        for _ in range(100):
            for text in sorted(texts):
                assert failures(outbox.publish([Publication(b"a", fingerprint, text)])) == [None]
        stop.set()

    thread = threading.Thread(target=publish)
    thread.start()
    while not stop.is_set():
        try:
            seen.add(read(root, b"a.sign"))
        except FileNotFoundError:
            continue
    thread.join()
    assert seen <= texts
    assert seen


def test_mode_holds_whatever_the_umask(root: Path) -> None:
    """Signatures have sign_mode, also under umask 077, where a plain open would give 0600."""
    for mode in (0o644, 0o664, 0o600):
        outbox = Outbox(root, sign_mode=mode)
        before = os.umask(0o077)
        try:
            assert failures(outbox.publish([Publication(b"a", drop(root, b"a"), b"s")])) == [None]
        finally:
            os.umask(before)
            outbox.close()
        assert stat.S_IMODE((root / "a.sign").stat().st_mode) == mode


def test_temporaries_are_our_own_by_name(outbox: Outbox, root: Path) -> None:
    """A temporary in use bears a name that is never taken for a drop, and says whose it is; none is left behind."""
    seen: set[bytes] = set()
    fingerprint = drop(root, b"a")
    os.mkfifo(root / "watch")
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.update(name for name in names(root) if name.endswith(b".tmp"))

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(200):
        outbox.publish([Publication(b"a", fingerprint, b"s" * 1000)])
    done.set()
    thread.join()
    assert seen, "the watching thread never saw one"
    for name in seen:
        match = TEMPORARY.match(name)
        assert match is not None
        assert match["instance"] == outbox.instance
        assert is_ours(name)
    assert names(root) == [b"a", b"a.sign", b"watch"]


def test_two_instances_never_share_a_temporary_name(root: Path) -> None:
    """Each process has names of its own, so that neither takes the other's away."""
    first, second = Outbox(root), Outbox(root)
    assert first.instance != second.instance
    first.close()
    second.close()


def test_full_disk_leaves_nothing_half_done(tmp_path: Path) -> None:
    """Where there is no room, the error says so, what was there before stays, and no temporary is left.

    A limit on the size of files stands for the disk: the kernel stops the write in its middle just so.
    """
    root = tmp_path / "outbox"
    root.mkdir()
    (root / "a").write_bytes(b"x")
    (root / "b").write_bytes(b"x")
    (root / "a.sign").write_bytes(b"the old one")
    script = """
import os, resource, signal, sys
from pathlib import Path
from dropsign.model import Fingerprint, Stamp
from dropsign.outbox import Outbox, Publication
root = Path(sys.argv[1])
outbox = Outbox(root)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
group = [
    Publication(b"a", Fingerprint.of(os.stat(root / "a")), b"s" * 5000),
    Publication(b"b", Fingerprint.of(os.stat(root / "b")), b"s" * 500),
]
first, second = outbox.publish(group)
assert isinstance(first, OSError), first
assert isinstance(second, Stamp), second
"""
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert names(root) == [b"a", b"a.sign", b"b", b"b.sign"]
    assert (root / "a.sign").read_bytes() == b"the old one"


def test_target_that_is_a_directory_is_told_and_left(outbox: Outbox, root: Path) -> None:
    """Where a directory bears the signature's name, the error says so and nothing is left behind."""
    fingerprint = drop(root, b"a")
    (root / "a.sign").mkdir()
    (result,) = failures(outbox.publish([Publication(b"a", fingerprint, b"s")]))
    assert isinstance(result, OSError)
    assert result.errno == errno.EISDIR
    assert names(root) == [b"a", b"a.sign"]


def test_directory_without_write_permission_is_told() -> None:
    """A sub-directory that may not be written to gives PermissionError, which is no sign that the file moved on."""
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o777)
        fingerprint = drop(directory, b"sub/a")
        (directory / "sub").chmod(0o555)
        outbox = Outbox(directory)
        with without_privileges():
            (result,) = failures(outbox.publish([Publication(b"sub/a", fingerprint, b"s")]))
        outbox.close()
        assert isinstance(result, PermissionError)
        assert names(directory / "sub") == [b"a"]
    finally:
        (directory / "sub").chmod(0o755)
        shutil.rmtree(directory)


# Links and special files


def test_link_in_place_of_the_file_is_not_followed(outbox: Outbox, root: Path, tmp_path: Path) -> None:
    """A symbolic link is no drop: not looked through, not opened, not signed, even if it leads to a fine file."""
    target = tmp_path / "outside"
    target.write_bytes(b"secret")
    (root / "a").symlink_to(target)
    assert look(outbox, b"a", closely=True).refusal == "symbolic_link"
    of_target = Fingerprint.of(target.stat())
    with pytest.raises(MovedOnError):
        outbox.open(b"a", of_target)
    with pytest.raises(MovedOnError):
        outbox.digest(b"a", of_target)
    (result,) = failures(outbox.publish([Publication(b"a", of_target, b"s")]))
    assert isinstance(result, MovedOnError)
    assert names(root) == [b"a"]


def test_link_in_place_of_a_directory_is_not_followed(outbox: Outbox, root: Path, tmp_path: Path) -> None:
    """A link as a directory on the way, at any depth, leads nowhere: nothing is read or written through it."""
    outside = tmp_path / "outside"
    fingerprint = drop(outside, b"below/a")
    (outside / "below" / "a.sign").write_bytes(b"theirs")
    (root / "link").symlink_to(outside)
    (root / "real").mkdir()
    (root / "real" / "link").symlink_to(outside / "below")
    for path in (b"link/below/a", b"real/link/a"):
        assert look(outbox, path) == Look(path)
        with pytest.raises(MovedOnError):
            outbox.open(path, fingerprint)
        assert outbox.read_sign(path) is None
        assert not outbox.withdraw([path])
        (result,) = failures(outbox.publish([Publication(path, fingerprint, b"s")]))
        assert isinstance(result, MovedOnError)
        outbox.write_error(path, "no", "no")
        outbox.remove_error(path)
    assert names(outside / "below") == [b"a", b"a.sign"]
    assert read(outside, b"below/a.sign") == b"theirs"


def test_link_planted_as_the_signature_is_replaced_not_followed(outbox: Outbox, root: Path, tmp_path: Path) -> None:
    """Someone's link at FILE.sign is replaced by the signature; what it leads to is neither written nor read."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    fingerprint = drop(root, b"a")
    (root / "a.sign").symlink_to(victim)
    assert outbox.read_sign(b"a") is None
    assert failures(outbox.publish([Publication(b"a", fingerprint, b"s")])) == [None]
    assert not (root / "a.sign").is_symlink()
    assert read(root, b"a.sign") == b"s"
    assert victim.read_bytes() == b"precious"


def test_link_planted_as_the_signature_is_withdrawn_itself(outbox: Outbox, root: Path, tmp_path: Path) -> None:
    """Withdrawing removes the link, not what it leads to."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (root / "a.sign").symlink_to(victim)
    assert outbox.withdraw([b"a"])
    assert names(root) == []
    assert victim.read_bytes() == b"precious"


def test_error_note_replaces_a_planted_link(outbox: Outbox, root: Path, tmp_path: Path) -> None:
    """FILE.sign-error is written just as carefully, and goes again."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    drop(root, b"a")
    (root / "a.sign-error").symlink_to(victim)
    outbox.write_error(b"a", "http_413", "too large \udcff")
    assert read(root, b"a.sign-error").startswith(b"http_413: too large ")
    assert victim.read_bytes() == b"precious"
    outbox.remove_error(b"a")
    assert names(root) == [b"a"]


def test_special_files_are_refused_by_their_kind_and_never_waited_for(outbox: Outbox, root: Path) -> None:
    """FIFOs, sockets and devices are told apart and never opened so that anyone would wait."""
    os.mkfifo(root / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(root / "socket"))
    kinds = {b"fifo": "fifo", b"socket": "socket"}
    if os.geteuid() == 0:
        os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        kinds[b"device"] = "device"
    for path, kind in kinds.items():
        seen = look(outbox, path, closely=True)
        assert seen.refusal == kind
        assert seen.fingerprint is not None
    server.close()
    with pytest.raises(MovedOnError):
        outbox.open(b"fifo", Fingerprint(0, 0, 0, 0, 0))
    os.mkfifo(root / "plain.sign")
    assert outbox.read_sign(b"plain") is None


def test_directory_in_place_of_a_file_counts_as_gone(outbox: Outbox, root: Path) -> None:
    """Where a directory has taken a file's name, the file is gone."""
    (root / "a").mkdir()
    assert look(outbox, b"a").fingerprint is None


def test_names_too_long_for_a_signature_are_refused(outbox: Outbox, root: Path) -> None:
    """250 bytes leave room for `.sign`; 251 do not, counted in bytes, not letters."""
    fits, too_long = b"n" * 250, "ü".encode() * 125 + b"n"
    assert len(too_long) == 251
    fingerprint = drop(root, fits)
    drop(root, too_long)
    assert look(outbox, fits).refusal is None
    assert look(outbox, too_long).refusal == "name_too_long"
    assert failures(outbox.publish([Publication(fits, fingerprint, b"s")])) == [None]
    assert read(root, fits + b".sign") == b"s"


def test_files_above_the_limit_are_refused(root: Path) -> None:
    """max_bytes itself is allowed, one more is not."""
    outbox = Outbox(root, max_bytes=10)
    drop(root, b"fits", b"x" * 10)
    drop(root, b"not", b"x" * 11)
    assert look(outbox, b"fits").refusal is None
    assert look(outbox, b"not").refusal == "too_large"
    outbox.close()


# Looking, reading, withdrawing


def test_look_tells_what_is_there(outbox: Outbox, root: Path) -> None:
    """A look gives fingerprint and the age of the signature; of what is not there, it gives nothing."""
    fingerprint = drop(root, b"a")
    assert look(outbox, b"a") == Look(b"a", fingerprint, None, None, None)
    outbox.publish([Publication(b"a", fingerprint, b"s")])
    assert look(outbox, b"a").sign_mtime_ns == (root / "a.sign").stat().st_mtime_ns
    assert look(outbox, b"none") == Look(b"none")
    assert look(outbox, b"a/below a file") == Look(b"a/below a file")
    assert look(outbox, b"no/such/directory") == Look(b"no/such/directory")


def test_look_that_is_not_allowed_is_no_absence() -> None:
    """A directory that may not be searched gives the error: nothing is to be concluded about its files."""
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o777)
        drop(directory, b"sub/a")
        (directory / "sub").chmod(0o000)
        outbox = Outbox(directory)
        with without_privileges():
            (seen,) = outbox.look([b"sub/a"], closely=False)
        outbox.close()
        assert isinstance(seen, PermissionError)
    finally:
        (directory / "sub").chmod(0o755)
        shutil.rmtree(directory)


def test_writer_is_seen_while_and_only_while_it_has_the_file_open(outbox: Outbox, root: Path) -> None:
    """The lease tells of a process that holds the file open for writing; readers don't count."""
    drop(root, b"a")
    assert look(outbox, b"a", closely=True).writer is False
    with open(root / "a", "rb"):
        assert look(outbox, b"a", closely=True).writer is False
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; f = open(sys.argv[1], 'ab'); print(flush=True); sys.stdin.read()",
            root / "a",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    assert look(outbox, b"a", closely=True).writer is True
    writer.communicate()
    assert look(outbox, b"a", closely=True).writer is False
    assert look(outbox, b"a", closely=False).writer is None


def test_lease_is_given_back(root: Path) -> None:
    """After the question nobody who opens the file for writing has to wait, nor are we sent SIGIO."""
    signals: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: signals.append(number))
    try:
        drop(root, b"a")
        directory = os.open(root, os.O_RDONLY)
        for _ in range(100):
            assert has_writer(directory, b"a") is False
            os.close(os.open(root / "a", os.O_WRONLY | os.O_NONBLOCK))  # EWOULDBLOCK where a lease is in the way
        os.close(directory)
    finally:
        signal.signal(signal.SIGIO, before)
    assert signals == []


def test_writer_is_unknown_where_the_kernel_wont_say() -> None:
    """Of a file that is another user's, or is not there, nobody can tell: neither yes nor no."""
    directory = Path(tempfile.mkdtemp())
    try:
        drop(directory, b"a")
        fd = os.open(directory, os.O_RDONLY)
        assert has_writer(fd, b"none") is None
        if os.geteuid() == 0:
            directory.chmod(0o755)
            with without_privileges():
                assert has_writer(fd, b"a") is None
        os.close(fd)
    finally:
        shutil.rmtree(directory)


def test_open_drop_reads_one_version_and_notices_any_other(outbox: Outbox, root: Path) -> None:
    """What is open reads as what it was fingerprinted as, in any portions, and says when it is so no more."""
    content = os.urandom(100_000)
    fingerprint = drop(root, b"sub/a", content)
    with outbox.open(b"sub/a", fingerprint) as opened:
        assert opened.read_at(0, 1_000_000) == content
        assert opened.read_at(99_990, 100) == content[-10:]
        assert opened.read_at(100_000, 1) == b""
        opened.check()
        with open(root / "sub" / "a", "ab") as file:
            file.write(b"more")
        with pytest.raises(MovedOnError):
            opened.check()
    assert opened.is_closed
    with pytest.raises(OSError, match="closed"):
        opened.read_at(0, 1)
    with pytest.raises(MovedOnError):
        outbox.open(b"sub/a", fingerprint)


def test_descriptors_do_not_leak(outbox: Outbox, root: Path) -> None:
    """Whatever goes well or wrong, no descriptor stays open."""
    fingerprint = drop(root, b"x/y/a")
    other = fingerprint._replace(size=1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        outbox.look([b"x/y/a", b"x/none/b", b"x/y/a/c"], closely=True)
        outbox.publish([Publication(b"x/y/a", fingerprint, b"s"), Publication(b"x/y/a", other, b"s")])
        outbox.digest(b"x/y/a", fingerprint)
        with pytest.raises(MovedOnError):
            outbox.open(b"x/y/a", other)
        outbox.read_sign(b"x/y/a")
        outbox.write_error(b"x/y/a", "e", "e")
        outbox.withdraw([b"x/y/a"])
        outbox.is_there()
    assert len(os.listdir("/proc/self/fd")) == before


def test_signature_is_read_only_if_it_could_be_one(outbox: Outbox, root: Path) -> None:
    """An empty or an enormous FILE.sign is none."""
    (root / "a.sign").write_bytes(b"s")
    assert text(outbox.read_sign(b"a")) == b"s"
    (root / "a.sign").write_bytes(b"")
    assert outbox.read_sign(b"a") is None
    (root / "a.sign").write_bytes(b"s" * 65_537)
    assert outbox.read_sign(b"a") is None
    assert outbox.read_sign(b"none") is None


def test_withdraw_tells_whether_there_was_one(outbox: Outbox, root: Path) -> None:
    """A signature is withdrawn once, and its file left as it is."""
    fingerprint = drop(root, b"sub/a")
    outbox.publish([Publication(b"sub/a", fingerprint, b"s")])
    assert outbox.withdraw([b"sub/a"])
    assert not outbox.withdraw([b"sub/a"])
    assert names(root / "sub") == [b"a"]


HOSTILE = [b"\xff\xfe", b"new\nline", b"-rf", b"'\"$(x)`", b" lead and trail ", "😀".encode(), b"\x01\x7f", b"~", b"*"]


def test_directories_and_names_of_any_bytes(outbox: Outbox, root: Path) -> None:
    """Names are bytes: whatever a name may hold, as a file or as a directory on the way, works."""
    group = []
    for directory in HOSTILE:
        for name in HOSTILE:
            path = directory + b"/" + name
            group.append(Publication(path, drop(root, path), b"s" + path))
    assert failures(outbox.publish(group)) == [None] * len(group)
    for seen, publication in zip(outbox.look([p.path for p in group], closely=True), group, strict=True):
        assert isinstance(seen, Look)
        assert seen.fingerprint == publication.fingerprint
        assert text(outbox.read_sign(publication.path)) == publication.text


def test_two_hundred_levels(outbox: Outbox, root: Path) -> None:
    """A path far longer than PATH_MAX works, as each directory is opened below the one before."""
    level = b"a directory with a long name"
    fd = os.open(root, os.O_RDONLY)
    for _ in range(200):
        os.mkdir(level, dir_fd=fd)
        below = os.open(level, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    file = os.open(b"a", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.write(file, b"deep")
    os.close(file)
    path = b"/".join([level] * 200 + [b"a"])
    assert len(path) > 4096
    seen = look(outbox, path, closely=True)
    assert seen.fingerprint is not None
    assert failures(outbox.publish([Publication(path, seen.fingerprint, b"s")])) == [None]
    assert sorted(os.listdir(fd)) == ["a", "a.sign"]
    assert text(outbox.read_sign(path)) == b"s"
    os.close(fd)


@pytest.mark.parametrize("mtime_ns", [10**19, -(10**18), 0, 2**33 * 10**9])
def test_modification_times_far_from_now_fit_into_the_journal(root: Path, mtime_ns: int) -> None:
    """Anyone may set a file's modification time: what SQLite's integers can't hold is cut to what they can."""
    drop(root, b"a")
    os.utime(root / "a", ns=(0, mtime_ns))
    fingerprint = Fingerprint.of(os.stat(root / "a"))
    assert all(-(2**63) < number < 2**63 for number in fingerprint)


# The directory itself


def test_second_process_is_kept_off(outbox: Outbox, root: Path) -> None:
    """While one process has the lock another gets one clear line; the lock ends with its process, even by kill -9."""
    script = """
import sys
from pathlib import Path
from dropsign.outbox import Outbox
Outbox(Path(sys.argv[1])).lock()
print(flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", script, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(OutboxLockedError, match=r"outbox\.path: another dropsign works on .*; stop it first"):
        outbox.lock()
    other.kill()
    other.communicate()
    outbox.lock()


def test_lock_is_not_inherited(outbox: Outbox, root: Path) -> None:
    """A child that outlives us does not keep the outbox locked."""
    outbox.lock()
    child = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        outbox.close()
        fd = os.open(root, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
    finally:
        child.kill()
        child.wait()
        outbox._fd = os.open(root, os.O_RDONLY)


@pytest.mark.parametrize("what", ["missing", "file", "not writable"])
def test_unusable_outbox_is_one_clear_line(what: str) -> None:
    """A missing, wrong or read-only outbox is named with its key and what to do."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    path = directory / "outbox"
    expected = {
        "missing": f"outbox.path: {path} does not exist; create it",
        "file": f"outbox.path: {path} is not a directory",
        "not writable": f"outbox.path: {path} is not writable for this user",
    }[what]
    if what == "file":
        path.touch()
    elif what == "not writable":
        path.mkdir(0o555)
    try:
        with without_privileges(), pytest.raises(OutboxError) as caught:
            Outbox(path)
    finally:
        shutil.rmtree(directory)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_replaced_outbox_is_noticed_and_taken_up_again(outbox: Outbox, root: Path) -> None:
    """Once another directory lies at the path, we know; after `reopen`, work goes on in that one, locked."""
    assert outbox.is_there()
    root.rename(root.with_name("old"))
    assert not outbox.is_there()
    with pytest.raises(OutboxError, match="does not exist"):
        outbox.reopen()
    root.mkdir()
    assert not outbox.is_there()
    outbox.reopen()
    assert outbox.is_there()
    assert failures(outbox.publish([Publication(b"a", drop(root, b"a"), b"s")])) == [None]
    with pytest.raises(OutboxLockedError):
        Outbox(root).lock()


def test_root_may_be_a_link_itself(root: Path, tmp_path: Path) -> None:
    """The operator may name the outbox by a link; below it, none is followed."""
    (tmp_path / "link").symlink_to(root)
    outbox = Outbox(tmp_path / "link")
    assert failures(outbox.publish([Publication(b"a", drop(root, b"a"), b"s")])) == [None]
    assert outbox.is_there()
    outbox.close()
