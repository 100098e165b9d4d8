"""The audit chain: every signature is in it, and `dropsign audit` tells what of it was changed, removed or moved."""

import asyncio
import hashlib
import io
import json
import sqlite3
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from dropsign import cli, schema
from dropsign.chain import Audit
from dropsign.errors import JournalError
from dropsign.history import Reader
from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint, Signature
from tests.support.names import HOSTILE
from tests.support.sandbox import Sandbox, wait_until

VERSION = Fingerprint(1, 2, 3, 4, 5)
PROOF = (b"s" * 32, "0A1B")


class Done(NamedTuple):
    """What a command line came to, run in this process: a new one for each costs a second."""

    returncode: int
    stdout: str
    stderr: str


def audit(config: Path, *arguments: str) -> Done:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = cli.run(["--config", str(config), "audit", *arguments])
    return Done(code, out.getvalue(), err.getvalue())


def exported(config: Path, *arguments: str) -> list[dict[str, Any]]:
    """Export, and check the chain as docs/audit.md tells an auditor to, without the program."""
    done = audit(config, "export", *arguments)
    assert done.returncode == 0, done.stderr
    records: list[dict[str, Any]] = []
    for line in done.stdout.splitlines():
        record = json.loads(line)
        covered = line[: line.rindex(',"hash":"')] + "}"
        assert hashlib.sha256(covered.encode("ascii")).hexdigest() == record["hash"]
        assert not records or record["previous"] == records[-1]["hash"]
        records.append(record)
    return records


def sign(journal: Journal, path: bytes, *, published: bool = True) -> None:
    drop = Drop(path, VERSION, ticket=journal.next_ticket())
    journal.queue(drop)
    signature = Signature(b"MEUCIQ==", hashlib.sha256(path).digest(), 3, PROOF)
    (journal.sign if published else journal.obtained)(drop, signature)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose journal holds ten records."""
    path = tmp_path / "config.toml"
    path.write_text(
        f'[outbox]\npath = "{tmp_path}"\n[service]\nurl = "https://localhost:1"\n'
        f'[journal]\npath = "{tmp_path}/journal.sqlite3"\n'
    )
    journal = Journal(tmp_path / "journal.sqlite3")
    for number in range(1, 11):
        sign(journal, b"sub/file-%d\n" % number)
    journal.close()
    return path


def head(config: Path) -> str:
    done = audit(config, "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()[-1]


def test_what_the_daemon_records(box: Sandbox) -> None:
    """Each signature is a record of file, content, both certificates and the attempt; the log tells the head."""
    box.configure("journal", keep_days=1)
    box.start_daemon()
    paths = [box.drop(name, b"content of " + name) for name in HOSTILE]
    box.misbehave("null:100%")
    paths.append(box.drop("second attempt"))
    wait_until(lambda: box.events("file.deferred"), 30, "a charged attempt")
    box.misbehave("")
    box.wait_signed(*paths)
    box.wait_idle()
    (first,) = box.events("audit.head")
    assert (first["number"], first["hash"]) == (0, "0" * 64)
    records = {record["path"].encode("utf-8", "surrogateescape"): record for record in exported(box.config)}
    assert set(records) == {*HOSTILE, b"second attempt"}
    server = x509.load_pem_x509_certificate(box.server.certificate.read_bytes())
    client = x509.load_pem_x509_certificate(box.client.certificate.read_bytes())
    for path in paths:
        record = records[bytes(path.relative_to(box.outbox))]
        content = path.read_bytes()
        assert (record["size"], record["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert record["signature"].encode() == box.sign_of(path).read_bytes()
        assert record["service_certificate"] == server.fingerprint(hashes.SHA256()).hex()
        assert int(record["client_certificate"], 16) == client.serial_number
    told = {event["path"].encode("utf-8", "surrogateescape"): event["attempt"] for event in box.events("file.signed")}
    assert {path: record["attempt"] for path, record in records.items()} == told
    assert audit(box.config, "verify").returncode == 0
    assert box.stop_daemon() == 0
    last = box.events("audit.head")[-1]
    assert last["number"] == len(records)
    done = audit(box.config, "verify", "--head", last["hash"])
    assert (done.returncode, done.stdout.split()[-1]) == (0, last["hash"])
    assert audit(box.config, "verify", "--head", first["hash"]).returncode == 0


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        (["UPDATE signatures SET size = 4 WHERE id = 5"], ["record 5 (sub/file-5\\n) does not fit its hash"]),
        (["UPDATE signatures SET at = at + 1 WHERE id = 10"], ["record 10 (sub/file-10\\n) does not fit its hash"]),
        (["UPDATE directories SET path = x'78'"], [f"record {number} (x/file-" for number in range(1, 11)]),
        (["DELETE FROM signatures WHERE id = 1"], ["record 1 is missing"]),
        (["DELETE FROM signatures WHERE id IN (4, 5, 6)"], ["record 4 to 6 are missing"]),
        (
            [
                "UPDATE signatures SET id = 99 WHERE id = 3",
                "UPDATE signatures SET id = 3 WHERE id = 4",
                "UPDATE signatures SET id = 4 WHERE id = 99",
            ],
            ["record 3 (sub/file-4\\n)", "record 4 (sub/file-3\\n)"],
        ),
    ],
    ids=["changed", "time changed", "path changed", "first removed", "some removed", "two swapped"],
)
def test_tampering_is_found_and_named(config: Path, tampering: list[str], named: list[str]) -> None:
    """A record that was changed, removed or moved is named, and the exit code is 1."""
    with closing(sqlite3.connect(config.with_name("journal.sqlite3"))) as other:
        for statement in tampering:
            other.execute(statement)
        other.commit()
    done = audit(config, "verify")
    assert done.returncode == 1
    for sentence in named:
        assert sentence in done.stdout
    assert "next: " in done.stdout
    assert "Traceback" not in done.stderr


def test_cut_off_end(config: Path) -> None:
    """Records removed from the end are missed by a head that was written down, and by nothing else."""
    known = head(config)
    with closing(sqlite3.connect(config.with_name("journal.sqlite3"))) as other:
        other.execute("DELETE FROM signatures WHERE id > 8")
        other.commit()
    assert audit(config, "verify").returncode == 0
    done = audit(config, "verify", "--head", known)
    assert done.returncode == 1
    assert "the chain does not hold the hash given" in done.stdout


def test_emptied_anchor(config: Path) -> None:
    """A journal that does not tell where its chain begins is refused, by the daemon as well, in one line."""
    path = config.with_name("journal.sqlite3")
    with closing(sqlite3.connect(path)) as other:
        other.execute("DELETE FROM anchor")
        other.commit()
    done = audit(config, "verify")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    with pytest.raises(JournalError, match="--rebuild-journal"):
        Journal(path)


def test_export_since(config: Path) -> None:
    """An export begins where it is asked to; a wrong time or head, or a flag of the other action, is a usage error."""
    records = exported(config)
    assert [record["number"] for record in records] == list(range(1, 11))
    assert {record["service_certificate"] for record in records} == {PROOF[0].hex()}
    assert exported(config, "--since", records[4]["time"])[0]["time"] >= records[4]["time"]
    assert not exported(config, "--since", "2999-01-01")
    for arguments in (
        ["export", "--since", "yesterday"],
        ["verify", "--head", "12"],
        ["export", "--head", "0" * 64],
        ["verify", "--since", "2026-01-01"],
    ):
        done = audit(config, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_forgetting_keeps_the_chain(config: Path) -> None:
    """What is old goes, but for signatures whose files are there; the chain still verifies, and goes on behind it."""
    path = config.with_name("journal.sqlite3")
    known = head(config)
    journal = Journal(path)
    journal.forget([b"sub/file-%d\n" % number for number in range(1, 5)])
    for number in range(2500):
        sign(journal, b"late-%d" % number, published=False)
        if number % 500:
            journal.forget([b"late-%d" % number])
    later = time.time() + 3600
    asyncio.run(journal.prune(later))
    with closing(schema.connect(path, read_only=True)) as other:
        assert other.execute("SELECT count(*) FROM signatures").fetchone() == (6 + 5,)
        number = other.execute("SELECT signature FROM drops WHERE name = ?", (b"file-7\n",)).fetchone()[0]
    assert asyncio.run(journal.signature(number)) is not None
    end = asyncio.run(journal.head())
    assert end.number == 2510
    journal.forget([b"sub/file-%d\n" % number for number in range(5, 11)])
    asyncio.run(journal.prune(later))
    journal.close()
    journal = Journal(path)
    sign(journal, b"new")
    journal.close()
    (record,) = exported(config)
    assert (record["number"], record["previous"]) == (2511, end.hash.hex())
    assert audit(config, "verify", "--head", end.hash.hex()).returncode == 0
    assert audit(config, "verify", "--head", known).returncode == 1
    with closing(schema.connect(path, read_only=True)) as other:
        assert other.execute("SELECT count(*) FROM signatures").fetchone() == (1 + 5,)


def test_pruning_while_it_is_read(config: Path) -> None:
    """Records that are forgotten while an audit reads are no flaw."""
    path = config.with_name("journal.sqlite3")
    journal = Journal(path)
    for number in range(3000):
        sign(journal, b"%d" % number, published=False)
    asyncio.run(journal.flush())
    with closing(Reader(path)) as history:
        check = Audit(history.anchor())
        flaws = []
        for link in history.links():
            flaws += list(check.flaws([link]))
            if link.record.number == 500:
                journal.forget([b"%d" % number for number in range(3000)])
                asyncio.run(journal.prune(time.time() + 3600))
        assert not flaws
    journal.close()


def test_journal_of_an_older_version(config: Path) -> None:
    """The history of the first schema becomes a chain at the daemon's start; before, audit says what to do."""
    path = config.with_name("journal.sqlite3")
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        for statement in schema.MIGRATIONS[0]:
            other.execute(statement)
        other.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        other.execute("PRAGMA user_version = 1")
        other.execute("INSERT INTO directories VALUES (1, x''), (2, x'737562')")
        rows = [(1e9 + number, 1 + number % 2, b"file %d" % number, b"d" * 32) for number in range(2500)]
        other.executemany("INSERT INTO signatures VALUES (NULL, ?, ?, ?, 3, ?, x'4d45', 0)", rows)
        other.commit()
    done = audit(config, "verify")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "start the daemon once" in done.stderr
    journal = Journal(path)
    sign(journal, b"new")
    journal.close()
    records = exported(config)
    assert len(records) == 2501
    assert (records[1]["path"], records[1]["attempt"]) == ("sub/file 1", 1)
    assert records[1]["service_certificate"] is None
    assert audit(config, "verify").returncode == 0


def test_without_a_journal(config: Path) -> None:
    """Where no daemon ever ran, audit says so in one line."""
    config.with_name("journal.sqlite3").unlink()
    done = audit(config, "verify")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the daemon makes it when it first runs" in done.stderr
