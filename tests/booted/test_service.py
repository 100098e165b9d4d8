"""The service under systemd: started, asked, reloaded, stopped, killed, hung."""

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.booted.conftest import Installed, Person, systemctl
from tests.support.freeze import frozen, thread
from tests.support.sandbox import wait_until


def test_without_a_configuration(service: Installed) -> None:
    """What the package installs is not filled in: one line says so, and systemd does not try again."""
    service.settings["service"]["url"] = ""
    service.configure()
    assert systemctl("start", service.unit, check=False)
    assert service.ask_systemd("Result") == "exit-code"
    assert service.ask_systemd("ExecMainStatus") == "2"
    assert service.ask_systemd("NRestarts") == "0"
    assert any("service.url" in line for line in service.entries())


def test_what_is_dropped_is_signed(service: Installed) -> None:
    """Started, it is ready; what a dropper drops is signed, and who picks up may read and move both away."""
    dropper, fetcher = Person("dora", ["dropsign-drop"]), Person("pia", ["dropsign-pickup"])
    service.start()
    assert service.ask_systemd("ActiveState") == "active"
    dropper.does(f"umask 077; mkdir {service.outbox}/sub; echo report >{service.outbox}/sub/report.pdf")
    dropper.does(f"umask 022; echo letter >{service.outbox}/letter.pdf")
    for name in ("sub/report.pdf", "letter.pdf"):
        path = service.outbox / name
        service.wait_signed(path)
        fetcher.does(f"mkdir -p ~/got; cat '{path}' '{path}.sign' >/dev/null && mv '{path}' '{path}.sign' ~/got/")
    assert "active" in service.ask_systemd("StatusText") or "signed" in service.ask_systemd("StatusText")


def test_fields_in_the_journal(service: Installed) -> None:
    """Each event's fields can be matched in systemd's journal, with a priority of its own."""
    service.start()
    path = service.drop("a b.pdf")
    service.wait_signed(path)
    signed = wait_until(lambda: service.entries("DROPSIGN_EVENT=file.signed", "DROPSIGN_PATH=a b.pdf"))
    entry = json.loads(signed[0])
    assert (entry["PRIORITY"], entry["_SYSTEMD_UNIT"]) == ("6", "dropsign.service")


def test_members_of_the_group_may_ask(service: Installed) -> None:
    """`status` is for the daemon's group; who drops only is told who may."""
    service.start()
    assert "gate" in Person("otto", ["dropsign"]).does("dropsign status")
    refused = Person("dora", ["dropsign-drop"]).run("dropsign status")
    assert refused.returncode in {2, 3}
    assert "Traceback" not in refused.stdout
    assert "/run/dropsign" in refused.stdout


def test_reload(service: Installed) -> None:
    """`systemctl reload` takes up a new configuration, and refuses a broken one; nothing is interrupted."""
    service.start()
    pid = service.pid
    service.settings["outbox"]["exclude"] = ["*.log"]
    service.configure()
    systemctl("reload", service.unit)
    wait_until(lambda: service.events("daemon.reloaded"))
    service.config.write_text("[outbox\n")
    systemctl("reload", service.unit)
    wait_until(lambda: service.events("daemon.reload_refused"))
    service.drop("x.log")
    service.wait_signed(service.drop("x.pdf"))
    assert not (service.outbox / "x.log.sign").exists()
    assert (service.pid, service.ask_systemd("ActiveState")) == (pid, "active")


def test_stop_drains(service: Installed) -> None:
    """What is on its way when the stop comes is signed before the end, and the end is a good one."""
    service.misbehave("delay 2s\n")
    service.start()
    paths = [service.drop(f"{number}.bin", os.urandom(2000)) for number in range(20)]
    wait_until(lambda: service.status()["in_flight"] > 0, what="a request in flight")
    on_their_way = service.status()["in_flight"]
    systemctl("stop", service.unit)
    assert (service.ask_systemd("Result"), service.ask_systemd("ExecMainStatus")) == ("success", "0")
    signed = [path for path in paths if service.is_signed(path)]
    assert len(signed) >= min(on_their_way, len(paths))
    service.misbehave("")
    service.start()
    service.wait_signed(*paths)
    assert set(service.times_signed().values()) == {1}


def test_killed(service: Installed) -> None:
    """However often it is killed, it comes back, and everything ends up signed."""
    service.start()
    paths: list[Path] = []
    for round_ in range(3):
        paths += [service.drop(f"{round_}-{number}.bin", os.urandom(500)) for number in range(50)]
        pid = service.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(partial(service.is_restarted, pid), what="the restart")
    service.wait_signed(*paths)
    service.wait_idle()
    service.assert_exactly_signed(*paths)


@pytest.mark.parametrize("name", ["main", "watcher", "journal"])
def test_hung(service: Installed, name: str) -> None:
    """If the loop, the watcher or the journal hangs, systemd starts the daemon again, and nothing is lost."""
    service.drop_in("WatchdogSec=2")
    service.start()
    pid = service.pid
    with frozen(thread(pid, name)) as is_dead:
        path = service.drop("meanwhile.bin")
        wait_until(is_dead, 40, "the end of what hangs")
    wait_until(partial(service.is_restarted, pid), what="the restart")
    service.wait_signed(path)
    assert int(service.ask_systemd("NRestarts")) >= 1


def test_instances(service: Installed, tmp_path: Path) -> None:
    """Two instances of the template work side by side, each with its own outbox, journal, socket and credentials."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(Installed(tmp_path / name, name))
    for instance in made:
        owner = ["install", "-d", "-o", "dropsign", "-g", "dropsign-drop", "-m", "2770", str(instance.outbox)]
        subprocess.run(owner, check=True)
        instance.set_up()
        instance.start_service()
        instance.start()
    try:
        for instance in made:
            instance.wait_signed(instance.drop(f"{instance.name}.pdf"))
            instance.wait_idle()
            assert list(instance.known("signed")) == [f"{instance.name}.pdf".encode()]
    finally:
        for instance in made:
            instance.clean()
    assert service.ask_systemd("ActiveState") == "inactive"


def test_limits(service: Installed) -> None:
    """A burst of large files stays far below the unit's memory limit, and nobody kills the daemon."""
    service.start()
    pid = service.pid
    paths = [service.drop(f"{number}.bin", os.urandom(8 << 20)) for number in range(24)]
    service.wait_signed(*paths, seconds=60)
    assert service.pid == pid
    assert int(service.ask_systemd("MemoryCurrent")) < int(service.ask_systemd("MemoryMax"))
