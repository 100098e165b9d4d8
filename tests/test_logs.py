"""`dropsign logs` shows any log to people, and loses no line; the daemon's own goes to files and to the journal."""

import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any

import pytest

from dropsign import cli, log
from dropsign.journald import JournalSocket
from tests.support.sandbox import wait_until

WITH_SYSTEMD = Path(__file__).parent / "with-systemd"


def line(event: str = "file.signed", level: str = "info", **keys: Any) -> str:
    return json.dumps({"timestamp": "2026-07-01T12:00:00.123456Z", "level": level, "event": event, **keys})


def shown(*arguments: str | Path) -> str:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = cli.run(["logs", *map(str, arguments)])
    assert (code, err.getvalue()) == (0, "")
    return out.getvalue()


LINES = [
    line(path="sub/report.pdf", attempt=1, sha256="ab"),
    line("file.failed", "error", path="\x1b[31mred\u202e\udcff\n.pdf", error="no\x07"),
    line("gate.closed", "warning", reason="tls", error="two words", detail={"a": None}),
    line("daemon.defect", "error", error="boom", exception="Traceback:\n  \x1b]0;title\x07line"),
    line("file.queued", "debug", path="x.txt"),
    "no JSON at all \x1b[1mbold\x1b[0m \x1b]0;title\x07",
    "[1, 2]",
    '{"other": "program"}',
    json.dumps({"__REALTIME_TIMESTAMP": "1782907200123456", "MESSAGE": line("scan.finished", files=3)}),
    json.dumps(
        {"__REALTIME_TIMESTAMP": "1782907200123456", "MESSAGE": [255, 10], "SYSLOG_IDENTIFIER": "a", "PRIORITY": "3"}
    ),
]


def test_columns(tmp_path: Path) -> None:
    """Each line is shown, in order, on one line (but a traceback); nothing in it can act on a terminal."""
    file = tmp_path / "log"
    file.write_text("\n".join(LINES))
    text = shown(file)
    lines = text.split("\n")
    assert all(line.isprintable() for line in lines)
    assert lines == [
        "2026-07-01 12:00:00.123  info     file.signed          sub/report.pdf  attempt=1  sha256=ab",
        r"2026-07-01 12:00:00.123  error    file.failed          \x1b[31mred\u202e\udcff\n.pdf  error=no\x07",
        '2026-07-01 12:00:00.123  warning  gate.closed          reason=tls  error=two words  detail={"a": null}',
        "2026-07-01 12:00:00.123  error    daemon.defect        error=boom",
        "    Traceback:",
        "      \\x1b]0;title\\x07line",
        "2026-07-01 12:00:00.123  debug    file.queued          x.txt",
        "no JSON at all bold \\x1b]0;title\\x07",
        "[1, 2]",
        '{"other": "program"}',
        "2026-07-01 12:00:00.123  info     scan.finished        files=3",
        "2026-07-01 12:00:00.123  error    a: \\udcff\\n",
        "",
    ]


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        (["--level", "error"], ["file.failed", "daemon.defect", "a:"]),
        (["--event", "gate.closed"], ["gate.closed"]),
        (["--event", "gate.*", "--event", "scan.finished"], ["gate.closed", "scan.finished"]),
        (["--path", "*.pdf"], ["file.signed", "file.failed"]),
        (["--path", "report.pdf"], ["file.signed"]),
        (["--path", "sub/*", "--level", "error"], []),
    ],
)
def test_filters(tmp_path: Path, arguments: list[str], events: list[str]) -> None:
    """Lines can be chosen by level, event and path, all of which must fit."""
    file = tmp_path / "log"
    file.write_text("\n".join(LINES) + "\n")
    found = [line.split()[3] for line in shown(file, *arguments).splitlines() if not line.startswith(" ")]
    assert found == events


def test_standard_input_and_mistakes(tmp_path: Path) -> None:
    """A log may be piped in; a file that is not there, and a level that is none, are mistakes."""
    command = [sys.executable, "-m", "dropsign", "logs"]
    done = subprocess.run(command, input=LINES[0] + "\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sub/report.pdf" in done.stdout
    for arguments in (["--level", "loud"], [str(tmp_path / "nowhere")], ["-f", str(tmp_path / "nowhere")]):
        with redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()):
            assert cli.run(["logs", *arguments]) == 2
        assert "Traceback" not in err.getvalue()


class Reader:
    """What a process prints, as it comes."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for text in self._stream:
            self.lines.append(text)

    def join(self) -> None:
        self._thread.join(30)


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[tuple[Path, Reader]]:
    """A log with one line, followed by a process."""
    file = tmp_path / "log"
    file.write_text(line(number=0) + "\n")
    command = [sys.executable, "-m", "dropsign", "logs", "-f", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reader = Reader(process.stdout)
        try:
            wait_until(lambda: reader.lines, 30, "the first line")
            yield file, reader
        finally:
            process.kill()
            process.wait()
            reader.join()


def numbers(reader: Reader) -> list[int]:
    return [int(text.rpartition("number=")[2]) for text in list(reader.lines)]


def test_follow_over_rotations(followed: tuple[Path, Reader]) -> None:
    """Lines go on over renamed files, whose writer comes late to the new one, and over emptied ones; none is lost."""
    file, reader = followed
    written = 0

    def write(stream: IO[str], count: int) -> None:
        nonlocal written
        for _ in range(count):
            written += 1
            text = line(number=written) + "\n"
            half = len(text) // 2
            stream.write(text[:half])
            stream.flush()
            stream.write(text[half:])
            stream.flush()

    def shown() -> bool:
        return len(reader.lines) == written + 1

    for rotation in range(3):
        with file.open("a") as stream:
            write(stream, 50)
            os.rename(file, file.with_name(f"log.{rotation}"))
            write(stream, 50)
            file.touch()
            wait_until(shown, 30, "lines before the rotation")
            write(stream, 50)
    wait_until(shown, 30, "the old writer's lines")
    with file.open("a") as stream:
        write(stream, 50)
        wait_until(shown, 30, "lines before the file is emptied")
        os.truncate(file, 0)
        write(stream, 1)
    wait_until(shown, 30, "lines after the file is emptied")
    assert sorted(numbers(reader)) == list(range(written + 1))


def test_daemons_own_log_is_opened_anew(tmp_path: Path) -> None:
    """A log file that was renamed away gets a successor; no line is lost."""
    script = (
        "import sys, time; from pathlib import Path; from dropsign import log;"
        "logger = log.configure('json', 'info', Path(sys.argv[1]));"
        "[(logger.info('x', number=int(line)), print(line, end='', flush=True)) for line in sys.stdin]"
    )
    file = tmp_path / "log"
    command = [sys.executable, "-c", script, str(file)]
    number = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def write() -> bool:
            nonlocal number
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{number}\n"
            number += 1
            return file.exists()

        write()
        file.rename(tmp_path / "log.1")
        wait_until(write, 30, "a new file")
        write()
        process.stdin.close()
    texts = (tmp_path / "log.1").read_text().splitlines() + file.read_text().splitlines()
    assert [json.loads(text)["number"] for text in texts] == list(range(number))


def fields(datagram: bytes) -> dict[str, bytes]:
    """Read an entry as journald does."""
    found = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if equals:
            datagram = rest
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            value, datagram = rest[8 : 8 + length], rest[9 + length :]
        found[name.decode()] = value
    return found


def test_journal_entries(tmp_path: Path) -> None:
    """An entry holds the line as its message, a priority, and each key as a field; a too large one is refused."""
    address = tmp_path / "socket"
    event = {"timestamp": "t", "level": "error", "event": "file.failed", "path": "a\nb\udcff", "size": 3, "x": None}
    with ExitStack() as stack:
        receiver = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.bind(str(address))
        journal = stack.enter_context(closing(JournalSocket(address)))
        assert journal.send(log.journal_fields("{}", event))
        assert fields(receiver.recv(65536)) == {
            "MESSAGE": b"{}",
            "PRIORITY": b"3",
            "SYSLOG_IDENTIFIER": b"dropsign",
            "DROPSIGN_EVENT": b"file.failed",
            "DROPSIGN_PATH": b"a\nb\xff",
            "DROPSIGN_SIZE": b"3",
            "DROPSIGN_X": b"null",
        }
        assert not journal.send(log.journal_fields("x" * 10_000_000, event))
        address.unlink()
        assert not journal.send(log.journal_fields("{}", event))


@pytest.mark.may_be_skipped
@pytest.mark.skipif(Path("/run/systemd/journal/socket").exists(), reason="there is a journal here")
def test_without_the_journals_socket(tmp_path: Path) -> None:
    """A line that the journal does not take goes to standard output, which is the journal's as well."""
    out = tmp_path / "out"
    script = "from dropsign import log; log.configure('auto', 'info', None).info('x', path='p')"
    with out.open("wb") as stream:
        status = os.fstat(stream.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run([sys.executable, "-c", script], stdout=stream, env=environment, check=True)
    assert json.loads(out.read_text())["path"] == "p"


SERVICE = """
set -eu
cat > /run/systemd/system/dropsign.service <<UNIT
[Service]
ExecStart=$PYTHON -c "$SCRIPT"
UNIT
systemctl daemon-reload
systemctl start --wait dropsign
journalctl --sync
journalctl -q -u dropsign -o cat DROPSIGN_PATH=one/x.pdf
journalctl -q -u dropsign -o cat -p err
$PYTHON -m dropsign logs -f --event 'file.*' > seen & logs=$!
for _ in $(seq 600); do grep -q failed seen && break; sleep 0.1; done
kill $logs
cat seen
"""


def test_real_journal(tmp_path: Path) -> None:
    """Under a booted systemd, lines can be matched by field and by priority, and `logs -f` reads them back."""
    if os.geteuid() != 0 or not WITH_SYSTEMD.exists():
        pytest.skip("boots a system, which only root can")
    script = (
        "from dropsign import log; l = log.configure('auto', 'info', None);"
        "l.info('file.signed', path='one/x.pdf'); l.error('file.failed', path='y')"
    )
    environment = {**os.environ, "PYTHON": sys.executable, "SCRIPT": script}
    command = [str(WITH_SYSTEMD), str(tmp_path), "bash", "-c", SERVICE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 125:
        pytest.skip(f"no system can be booted here: {done.stderr}")
    by_path, by_priority, *seen = done.stdout.splitlines()
    assert json.loads(by_path)["path"] == "one/x.pdf"
    assert json.loads(by_priority)["event"] == "file.failed"
    assert [text.split()[2:5] for text in seen] == [["info", "file.signed", "one/x.pdf"], ["error", "file.failed", "y"]]
