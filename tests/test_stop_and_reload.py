"""Stop and reload under load: nothing is dropped, charged or signed twice, and what is broken is refused."""

import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from dropsign.embedded.authority import Authority, Issued
from tests.support.sandbox import Sandbox, sha256, wait_until

PATIENCE: Final = 60


def _drop_many(box: Sandbox, number: int, name: str = "f") -> list[Path]:
    return [box.drop(f"{name}{each}", b"%s %d" % (name.encode(), each)) for each in range(number)]


def _more(box: Sandbox, event: str, number: int) -> bool:
    return len(box.events(event)) > number


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(0o600)
    new.rename(path)


def _assert_untroubled(box: Sandbox, *paths: Path) -> None:
    """Check that every file was signed at its first attempt by one request, and that the gate was never closed."""
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}
    assert {request["status"] for request in box.requests()} == {200}
    assert {line["attempt"] for line in box.events("file.signed")} == {1}
    assert not [line for line in box.log() if line["event"] in {"file.failed", "file.deferred", "gate.closed"}]


def test_stop_in_the_middle_of_a_thousand_requests(box: Sandbox) -> None:
    """What is on its way ends, is published and recorded; the rest waits uncharged, and the next start signs it."""
    box.configure("daemon", grace_seconds=60)
    box.start_daemon()
    box.misbehave("delay 50ms")
    paths = _drop_many(box, 1000)
    wait_until(lambda: len(box.events("file.signed")) > 50 and box.status()["in_flight"] > 4, what="the middle")
    assert box.stop_daemon(seconds=100) == 0
    done = {sha256(path.read_bytes()) for path in paths if box.is_signed(path)}
    assert done == set(box.times_signed()), "what the service has signed is published"
    assert len(done) < len(paths), "or it was not the middle"
    assert not [name for name in box.files() if b".tmp" in name]
    box.misbehave("")
    box.start_daemon()
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    _assert_untroubled(box, *paths)


def test_signals_while_it_starts(box: Sandbox) -> None:
    """From its first line on no signal ends it but those that are meant to, and those in good order."""
    for number in range(1, 4):
        daemon = box.start_daemon(wait=False)
        wait_until(partial(_has_begun, box, number), what="its first line")
        for signal_number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
            daemon.send_signal(signal_number)
        assert daemon.wait(60) == 0
    assert len(box.events("daemon.stopped")) == 3
    assert not box.events("daemon.defect")


def _has_begun(box: Sandbox, number: int) -> bool:
    return len(box.events("daemon.starting")) == number


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_cuts_short(box: Sandbox, second: signal.Signals) -> None:
    """With a service that hangs and an hour of grace, the second signal ends the daemon; nothing is charged."""
    box.configure("daemon", grace_seconds=3600)
    box.start_daemon()
    box.misbehave("hang")
    path = box.drop("file")
    wait_until(lambda: box.status()["in_flight"] == 1, what="the request")
    assert box.daemon is not None
    box.daemon.send_signal(signal.SIGTERM)
    wait_until(lambda: box.events("daemon.stopping"), what="the stop")
    assert box.daemon.poll() is None
    assert box.stop_daemon(second) == 0
    assert box.log()[-1]["event"] == "daemon.stopped"
    box.misbehave("")
    box.start_daemon()
    box.wait_signed(path)
    box.wait_idle()
    assert [line["attempt"] for line in box.events("file.signed")] == [1]


def test_reloads_and_new_certificates_under_load(box: Sandbox) -> None:
    """Five reloads, and certificates replaced file by file in either order, while files are signed: none notices."""
    box.start_daemon()
    box.misbehave("delay 20ms")
    loaded = len(box.events("credentials.loaded"))
    paths = []
    for number in range(5):
        paths += _drop_many(box, 60, f"reload{number}-")
        assert box.daemon is not None
        box.daemon.send_signal(signal.SIGHUP)
        wait_until(partial(_more, box, "daemon.reloaded", number), what="the reload")
    certificate, private_key = box.client.certificate, box.client.private_key
    for number in range(2):
        renewed = box.authority.issue(f"renewed{number}")
        files = [(certificate, renewed.certificate), (private_key, renewed.private_key)]
        for mine, new in files if number else reversed(files):
            _replace(mine, new.read_bytes())
            paths += _drop_many(box, 60, f"renewed{number}-{mine.name}-")
        wait_until(partial(_more, box, "credentials.loaded", loaded + 5 + number), what="the new certificate")
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    _assert_untroubled(box, *paths)
    assert not box.events("daemon.reload_refused")


def _number_too_long(box: Sandbox) -> None:
    text = box.config.read_text()
    box.config.write_text(text.replace("grace_seconds = 10", "grace_seconds = " + "1" * 5000))


def _too_many_brackets(box: Sandbox) -> None:
    box.config.write_text(f"{box.config.read_text()}\n[log]\nlevel = {'[' * 20_000}\n")


def _no_toml(box: Sandbox) -> None:
    box.config.write_text("[outbox\n")


def _negative_time(box: Sandbox) -> None:
    box.configure("outbox", settle_seconds=-1)


def _secret_gone(box: Sandbox) -> None:
    box.configure("service", app_secret_file=str(box.directory / "gone"))


def _use(box: Sandbox, issued: Issued) -> None:
    box.configure("tls", certificate=str(issued.certificate), private_key=str(issued.private_key))


def _expired_certificate(box: Sandbox) -> None:
    _use(box, box.authority.issue("expired", days=-1))


def _certificate_of_someone_else(box: Sandbox) -> None:
    _use(box, Authority(box.directory / "foreign").issue("client"))


def _authority_of_someone_else(box: Sandbox) -> None:
    box.configure("tls", authority=str(Authority(box.directory / "other").certificate))


SPOILED: Final = {
    _number_too_long: "too many digits",
    _too_many_brackets: "too many brackets",
    _no_toml: "is not TOML",
    _negative_time: r"outbox\.settle_seconds",
    _secret_gone: r"service\.app_secret_file: .* cannot be read",
    _expired_certificate: "expired on",
    _certificate_of_someone_else: "certificate",
    _authority_of_someone_else: r"tls\.authority",
}


def test_what_is_broken_is_refused_and_the_old_stays(box: Sandbox) -> None:
    """Each mistake in a new configuration or certificate is one line that names it; files are signed as before."""
    box.start_daemon()
    assert box.daemon is not None
    good, settings = box.config.read_text(), {name: dict(table) for name, table in box.settings.items()}
    for number, (spoil, said) in enumerate(SPOILED.items()):
        spoil(box)
        box.daemon.send_signal(signal.SIGHUP)
        wait_until(partial(_more, box, "daemon.reload_refused", number), what=f"the refusal of {spoil.__name__}")
        line = box.events("daemon.reload_refused")[-1]
        assert re.search(said, line["error"]), line
        assert not {"exception", "exc_info"} & line.keys()
        box.settings = {name: dict(table) for name, table in settings.items()}
        box.config.write_text(good)
    assert not box.events("daemon.reloaded")
    assert not box.events("daemon.defect")
    path = box.drop("file")
    box.wait_signed(path)
    box.wait_idle()
    _assert_untroubled(box, path)


def test_keys_that_need_a_restart_are_named_as_long_as_they_differ(box: Sandbox) -> None:
    """A reload names them, and so does the next one; what is taken up at once is not named, and holds."""
    box.start_daemon()
    assert box.daemon is not None
    box.configure("service", concurrency=3)
    box.configure("outbox", exclude=["*.skip"])
    named = []
    for number in range(3):
        if number == 2:
            box.configure("service", concurrency=None)
        box.daemon.send_signal(signal.SIGHUP)
        wait_until(partial(_more, box, "daemon.reloaded", number), what="the reload")
        named.append(box.events("daemon.reloaded")[-1]["needs_restart"])
    assert named == [["service.concurrency"], ["service.concurrency"], []]
    skipped, path = box.drop("a.skip"), box.drop("a.tmp")
    box.wait_signed(path)
    assert not box.sign_of(skipped).exists()


def test_broken_certificate_on_disk(box: Sandbox) -> None:
    """One that does not fit, or that the service refuses, is refused aloud; the old stays till a good one comes."""
    box.start_daemon()
    certificate, private_key = box.client.certificate, box.client.private_key
    loaded = len(box.events("credentials.loaded"))
    _replace(private_key, box.authority.issue("other").private_key.read_bytes())
    wait_until(lambda: box.events("credentials.refused"), what="the refusal")
    assert "does not belong to the certificate" in box.events("credentials.refused")[0]["error"]
    foreign = Authority(box.directory / "foreign").issue("client")
    _replace(certificate, foreign.certificate.read_bytes())
    _replace(private_key, foreign.private_key.read_bytes())
    wait_until(partial(_more, box, "credentials.refused", 1), what="the refusal of the trial handshake")
    assert "check tls.certificate" in box.events("credentials.refused")[1]["error"]
    paths = _drop_many(box, 5)
    box.wait_signed(*paths)
    renewed = box.authority.issue("renewed")
    _replace(certificate, renewed.certificate.read_bytes())
    _replace(private_key, renewed.private_key.read_bytes())
    wait_until(partial(_more, box, "credentials.loaded", loaded), what="the good one")
    box.wait_idle()
    _assert_untroubled(box, *paths)


def test_a_password_that_is_too_long(box: Sandbox) -> None:
    """A password that OpenSSL does not take is refused, from the disk and by SIGHUP; the daemon goes on."""
    encrypted = box.authority.issue("encrypted", key_password=b"good")
    _use(box, encrypted)
    password = box.directory / "password"
    _replace(password, b"good")
    box.configure("tls", private_key_password_file=str(password))
    box.start_daemon()
    assert box.daemon is not None
    _replace(password, b"x" * 2000)
    wait_until(lambda: box.events("credentials.refused"), what="the refusal")
    box.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: box.events("daemon.reload_refused"), what="the refusal of the reload")
    for event in ("credentials.refused", "daemon.reload_refused"):
        assert "tls.private_key_password_file: password cannot be longer than" in box.events(event)[0]["error"]
    path = box.drop("file")
    box.wait_signed(path)
    box.wait_idle()
    _assert_untroubled(box, path)
    assert not box.events("daemon.defect")


def test_stop_while_a_large_file_is_examined(box: Sandbox) -> None:
    """A stop does not wait until a file is read to its end whose FILE.sign somebody else made."""
    path = box.drop("large")
    os.truncate(path, 1 << 40)  # a terabyte of holes
    box.sign_of(path).write_bytes(box.sign(b"whatever"))
    daemon = box.start_daemon()

    def is_read() -> bool:
        if box.lookup(path)["settling_reason"] != "its content is being read":
            return False
        open_files = Path(f"/proc/{daemon.pid}/fd").iterdir()
        return any(os.path.realpath(file) == str(path) for file in open_files)

    wait_until(is_read, PATIENCE, "its reading")
    assert box.stop_daemon() == 0
    assert box.sign_of(path).exists()
    assert not box.events("daemon.defect")
