"""Each mistake of an operator gets one clear line on stderr (what, where, remedy), exit code 2, and no traceback."""

import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.sandbox import SLOWNESS, Sandbox, dropsign, powerless, wait_until


def run_daemon(config: Path, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is not expected to start."""
    return subprocess.run(
        [*(prefix or []), sys.executable, "-m", "dropsign", "--config", str(config), "run"],
        capture_output=True, text=True, timeout=40 * SLOWNESS, check=False,
    )  # fmt: skip


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str, code: int = 2) -> None:
    """Check that a command ended with one line on stderr that holds all the parts."""
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("dropsign: ")
    for part in parts:
        assert re.search(part, lines[0]), (part, lines[0])
    assert done.returncode == code


def _no_config(box: Sandbox) -> None:
    box.config.unlink()


def _not_toml(box: Sandbox) -> None:
    box.config.write_text("[outbox\npath = 1")


def _not_utf8(box: Sandbox) -> None:
    box.config.write_bytes(b'[outbox]\npath = "\xff"\n')


def _config_is_a_directory(box: Sandbox) -> None:
    box.config.unlink()
    box.config.mkdir()


def _unknown_key(box: Sandbox) -> None:
    box.configure("outbox", colour="red")


def _unknown_section(box: Sandbox) -> None:
    box.configure("inbox", path="x")


def _wrong_type(box: Sandbox) -> None:
    box.configure("service", concurrency="many")


def _impossible_value(box: Sandbox) -> None:
    box.configure("outbox", settle_seconds=-1)


def _no_outbox_key(box: Sandbox) -> None:
    box.configure("outbox", path=None)


def _plain_http(box: Sandbox) -> None:
    box.configure("service", url="http://localhost:1")


def _bad_pattern(box: Sandbox) -> None:
    box.configure("outbox", exclude=["a\\"])


def _no_certificate(box: Sandbox) -> None:
    box.client.certificate.unlink()


def _no_certificate_set(box: Sandbox) -> None:
    box.configure("tls", certificate=None)


def _garbage_certificate(box: Sandbox) -> None:
    box.client.certificate.write_text("nonsense")


def _no_private_key(box: Sandbox) -> None:
    box.client.private_key.unlink()


def _open_private_key(box: Sandbox) -> None:
    box.client.private_key.chmod(0o644)


def _foreign_key(box: Sandbox) -> None:
    other = box.authority.issue("other")
    box.configure("tls", private_key=str(other.private_key))


def _encrypted_key(box: Sandbox) -> None:
    locked = box.authority.issue("locked", key_password=b"password")
    box.configure("tls", certificate=str(locked.certificate), private_key=str(locked.private_key))


def _no_authority(box: Sandbox) -> None:
    box.configure("tls", authority=str(box.directory / "none.pem"))


def _no_outbox(box: Sandbox) -> None:
    box.outbox.rmdir()


def _outbox_is_a_file(box: Sandbox) -> None:
    box.outbox.rmdir()
    box.outbox.write_text("x")


def _outbox_read_only(box: Sandbox) -> None:
    box.outbox.chmod(0o555)


def _outbox_unreadable(box: Sandbox) -> None:
    box.outbox.chmod(0o333)


def _open_secret(box: Sandbox) -> None:
    box.secret_file.chmod(0o604)


def _no_secret(box: Sandbox) -> None:
    box.secret_file.unlink()


def _empty_secret(box: Sandbox) -> None:
    box.secret_file.write_text("\n")


def _secret_in_config(box: Sandbox) -> None:
    box.configure("service", app_secret="open sesame")


def _journal_of_others(box: Sandbox) -> None:
    box.journal.parent.mkdir()
    with sqlite3.connect(box.journal) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()


def _journal_is_garbage(box: Sandbox) -> None:
    box.journal.parent.mkdir()
    box.journal.write_bytes(b"garbage" * 1000)


def _journal_newer(box: Sandbox) -> None:
    box.start_daemon()
    box.stop_daemon()
    with sqlite3.connect(box.journal) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()


def _journal_unwritable(box: Sandbox) -> None:
    box.journal.parent.mkdir(mode=0o500)


def _no_socket(box: Sandbox) -> None:
    blocked = box.directory / "blocked"
    blocked.write_text("a file")
    box.configure("http", socket=str(blocked / "control.sock"))


def _socket_path_too_long(box: Sandbox) -> None:
    box.configure("http", socket=str(box.directory / ("s" * 120)))


def _log_unwritable(box: Sandbox) -> None:
    box.configure("log", file=str(box.directory / "none" / "log"))


def _no_verify_key(box: Sandbox) -> None:
    box.configure("verify", key=str(box.directory / "none.pem"))


def _verify_key_garbage(box: Sandbox) -> None:
    box.secret_file.with_name("key.pem").write_text("nonsense")
    box.configure("verify", key=str(box.secret_file.with_name("key.pem")))


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (_no_config, ["config.toml", "no such file", "--config"]),
        (_not_toml, ["config.toml", "TOML", "line 1"]),
        (_not_utf8, ["config.toml", "cannot be read|UTF-8|utf-8"]),
        (_config_is_a_directory, ["config.toml", "directory"]),
        (_unknown_key, ["config.toml", r"outbox\.colour", "no such key"]),
        (_unknown_section, ["config.toml", "inbox", "no such"]),
        (_wrong_type, ["config.toml", r"service\.concurrency", "integer"]),
        (_impossible_value, ["config.toml", r"outbox\.settle_seconds", "greater than or equal to 0"]),
        (_no_outbox_key, [r"outbox\.path", "must be set"]),
        (_plain_http, [r"service\.url", "https"]),
        (_bad_pattern, [r"outbox\.exclude", "pattern"]),
        (_no_certificate, [r"tls\.certificate", r"client\S*\.pem", "No such file"]),
        (_no_certificate_set, [r"tls\.certificate", "must be set"]),
        (_garbage_certificate, [r"tls\.certificate", "PEM"]),
        (_no_private_key, [r"tls\.private_key", "No such file"]),
        (_open_private_key, [r"tls\.private_key", "chmod 600"]),
        (_foreign_key, [r"tls\.private_key", "does not belong"]),
        (_encrypted_key, [r"tls\.private_key", "encrypted", "private_key_password_file"]),
        (_no_authority, [r"tls\.authority", r"none\.pem"]),
        (_no_outbox, [r"outbox\.path", "does not exist", "create"]),
        (_outbox_is_a_file, [r"outbox\.path", "not a directory"]),
        (_outbox_read_only, [r"outbox\.path", "not writable"]),
        (_outbox_unreadable, [r"outbox\.path", "cannot be opened"]),
        (_open_secret, [r"service\.app_secret_file", "chmod 600"]),
        (_no_secret, [r"service\.app_secret_file", "No such file"]),
        (_empty_secret, [r"service\.app_secret_file", "empty"]),
        (_secret_in_config, [r"service\.app_secret", "does not belong here"]),
        (_journal_of_others, [r"journal\.path", "other program"]),
        (_journal_is_garbage, [r"journal\.path", "not a database"]),
        (_journal_newer, [r"journal\.path", "newer dropsign"]),
        (_journal_unwritable, [r"journal\.path", "unable to open|Permission denied", "writable"]),
        (_no_socket, [r"http\.socket", "cannot be made"]),
        (_socket_path_too_long, [r"http\.socket", "too long"]),
        (_log_unwritable, [r"log\.file", "No such file"]),
        (_no_verify_key, [r"verify\.key|none\.pem"]),
        (_verify_key_garbage, ["key.pem", "PEM"]),
    ],
)  # fmt: skip
def test_one_line_and_exit_2(idle_box: Sandbox, spoil: Callable[[Sandbox], None], parts: list[str]) -> None:
    """A mistake is named with its key or file, on one line, with exit code 2; the secret is never shown."""
    spoil(idle_box)
    done = run_daemon(idle_box.config, powerless())
    assert_one_line(done, *parts)
    assert "open sesame" not in done.stderr + done.stdout
    assert "nonsense" not in done.stderr


def test_all_mistakes_at_once(idle_box: Sandbox) -> None:
    """Several mistakes are all reported in one go, a line each."""
    idle_box.configure("outbox", colour="red", settle_seconds="long")
    idle_box.configure("service", attempts=0)
    done = run_daemon(idle_box.config)
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert len(lines) == 3
    for key in ("outbox.colour", "outbox.settle_seconds", "service.attempts"):
        assert sum(key in line for line in lines) == 1


def test_all_credentials_at_once(idle_box: Sandbox) -> None:
    """All that is wrong with certificates, keys and secrets is reported in one go, a line each."""
    idle_box.client.certificate.unlink()
    idle_box.client.private_key.chmod(0o644)
    idle_box.secret_file.chmod(0o644)
    done = run_daemon(idle_box.config)
    assert done.returncode == 2
    keys = [line.removeprefix("dropsign: ").partition(":")[0] for line in done.stderr.splitlines()]
    assert sorted(keys) == ["service.app_secret_file", "tls.certificate", "tls.private_key"]


def test_environment_override_that_is_wrong(idle_box: Sandbox) -> None:
    """A wrong override is named by its variable."""
    done = subprocess.run(
        [sys.executable, "-m", "dropsign", "--config", str(idle_box.config), "run"],
        capture_output=True, text=True, timeout=40 * SLOWNESS, check=False,
        env={**os.environ, "DROPSIGN_SERVICE__CONCURRENCY": "many"},
    )  # fmt: skip
    assert_one_line(done, r"\$DROPSIGN_SERVICE__CONCURRENCY", "integer")


def test_port_in_use(idle_box: Sandbox) -> None:
    """An address for http.listen that somebody else has is named, and the daemon does not start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        idle_box.configure("http", listen=f"127.0.0.1:{taken.getsockname()[1]}")
        assert_one_line(run_daemon(idle_box.config), r"http\.listen", "in use")


def test_two_daemons_on_one_outbox(box: Sandbox) -> None:
    """A second daemon on the same outbox does not start, whatever else its configuration says; the first goes on."""
    box.start_daemon()
    assert_one_line(run_daemon(box.config), r"outbox\.path", "another dropsign")
    settings = box.config.read_text()
    box.configure("journal", path=str(box.directory / "state2" / "journal.sqlite3"))
    box.configure("http", socket=str(box.directory / "control2.sock"))
    assert_one_line(run_daemon(box.config), r"outbox\.path", "another dropsign")
    link = box.directory / "link"
    link.symlink_to(box.outbox)
    box.configure("outbox", path=str(link))
    assert_one_line(run_daemon(box.config), r"outbox\.path", "another dropsign")
    box.config.write_text(settings)
    assert box.ask("/readyz")[0] == 200
    box.wait_signed(box.drop("file"))


def test_two_daemons_on_one_journal(box: Sandbox) -> None:
    """A second daemon with an outbox of its own, but the journal of the first, does not start; the first goes on."""
    box.start_daemon()
    other = box.directory / "other"
    other.mkdir()
    box.configure("outbox", path=str(other))
    box.configure("http", socket=str(box.directory / "control2.sock"))
    assert_one_line(run_daemon(box.config), r"journal\.path", "another dropsign")
    box.wait_signed(box.drop("file"))


def test_two_daemons_on_one_socket(box: Sandbox) -> None:
    """A second daemon with an outbox and a journal of its own does not take the control socket of the first."""
    box.start_daemon()
    other = box.directory / "other"
    other.mkdir()
    box.configure("outbox", path=str(other))
    box.configure("journal", path=str(box.directory / "state2" / "journal.sqlite3"))
    assert_one_line(run_daemon(box.config), r"http\.socket", "another")
    assert box.status()["outbox"] == str(box.outbox)


def test_killed_daemon_leaves_no_lock(box: Sandbox) -> None:
    """After a kill -9 the next daemon starts at once, over the left-over lock and socket."""
    box.start_daemon()
    box.kill_daemon()
    assert box.socket.exists()
    box.start_daemon()
    assert box.ask("/readyz")[0] in {200, 503}


def test_service_down_at_start(idle_box: Sandbox) -> None:
    """With the service down the daemon starts, is not ready with the reason, waits, and signs once it is there."""
    box = idle_box
    box.start_daemon()
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    status, body = box.ask("/readyz")
    assert status == 503
    assert any("unreachable" in reason for reason in body["reasons"])
    assert box.ask("/healthz")[0] == 200
    path = box.drop("file")
    time.sleep(1)
    assert not box.sign_of(path).exists()
    assert box.status()["backlog"] == 1
    box.start_service()
    box.wait_signed(path, seconds=40)
    wait_until(lambda: box.ask("/readyz")[0] == 200, what="readiness")
    box.wait_idle()
    assert len(box.events("gate.closed")) == len(box.events("gate.opened")) == 1
    assert [line["attempt"] for line in box.events("file.signed")] == [1]


def test_service_down_at_start_without_files(idle_box: Sandbox) -> None:
    """The daemon becomes ready by itself once the service is there, without a file to ask with."""
    box = idle_box
    box.start_daemon()
    wait_until(lambda: box.ask("/readyz")[0] == 503, what="the gate's closing")
    box.start_service()
    wait_until(lambda: box.ask("/readyz")[0] == 200, seconds=40, what="readiness")
    assert not box.requests()


@pytest.mark.parametrize("verb", ["status", "sign", "check"])
def test_other_verbs_without_config(tmp_path: Path, verb: str) -> None:
    """The other verbs say the same about a configuration that is not there."""
    done = dropsign("--config", tmp_path / "none.toml", verb, *([tmp_path] if verb == "sign" else []))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert "none.toml" in done.stderr + done.stdout


def test_usage(tmp_path: Path) -> None:
    """A mistake on the command line ends with exit code 2 and no traceback."""
    for arguments in (["nonsense"], ["sign"], ["--nonsense"], ["status", "--nonsense"], ["sign", "--force"]):
        done = dropsign(*arguments, cwd=tmp_path)
        assert done.returncode == 2, arguments
        assert done.stderr
        assert "Traceback" not in done.stderr
