"""The package itself: what it installs, an upgrade under way, its end."""

import grp
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
from functools import partial
from pathlib import Path

from tests.booted.conftest import Installed, install, package, systemctl
from tests.support.sandbox import wait_until


def remade(directory: Path, version: str) -> Path:
    """Return the same package with another version."""
    subprocess.run(["dpkg-deb", "--raw-extract", str(package()), str(directory / "tree")], check=True)
    control = directory / "tree" / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
    made = directory / "next.deb"
    build = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(directory / "tree"), str(made)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(directory / "tree")
    return made


def test_what_is_installed(machine: None) -> None:  # noqa: ARG001 - installed by it
    """Account, groups, folder and completions are there; nothing is enabled before it is configured."""
    assert pwd.getpwnam("dropsign").pw_shell.endswith("nologin")
    assert "dropsign" in grp.getgrnam("dropsign-drop").gr_mem
    outbox = Path("/srv/dropsign/outbox").stat()
    assert (outbox.st_uid, stat.S_IMODE(outbox.st_mode)) == (pwd.getpwnam("dropsign").pw_uid, 0o2770)
    assert systemctl("is-enabled", "dropsign", check=False) == "disabled"
    version = subprocess.run(["dropsign", "--version"], capture_output=True, text=True, check=True).stdout
    assert version.split()[0] == "dropsign"
    assert Path("/usr/share/bash-completion/completions/dropsign").stat().st_size
    listed = json.loads(Path("/usr/share/doc/dropsign/sbom.cdx.json").read_text())
    assert {"aiohttp", "cryptography"} <= {component["name"] for component in listed["components"]}


def test_it_reads_nothing_of_the_machine_s_python(machine: None, tmp_path: Path) -> None:  # noqa: ARG001
    """A PYTHONPATH, or a module in the working directory, does not become part of it."""
    (tmp_path / "typer.py").write_text("raise SystemExit('taken in')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(["dropsign", "--version"], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0


def test_an_upgrade_loses_nothing(service: Installed, tmp_path: Path) -> None:
    """The daemon is started anew with what is dropped meanwhile, and nothing is signed twice for it."""
    service.start()
    pid = service.pid
    service.misbehave("delay 300ms\n")
    paths = [service.drop(f"{number}.bin", os.urandom(500)) for number in range(60)]
    install(remade(tmp_path, "0.1.1"))
    paths += [service.drop(f"more-{number}.bin", os.urandom(500)) for number in range(20)]
    wait_until(partial(service.is_restarted, pid), what="the restart")
    service.wait_signed(*paths)
    service.wait_idle()
    service.assert_exactly_signed(*paths)
    assert set(service.times_signed().values()) == {1}
    install(package())


def test_its_end(service: Installed) -> None:
    """Removed, it leaves configuration, journal and drops; purged, the drops alone."""
    service.start()
    path = service.drop("kept.pdf")
    service.wait_signed(path)
    subprocess.run(["dpkg", "--remove", "dropsign"], check=True, stdout=subprocess.DEVNULL)
    assert service.journal.exists()
    assert service.config.exists()
    assert not Path("/usr/bin/dropsign").exists()
    assert systemctl("is-active", "dropsign", check=False) in {"inactive", "unknown"}
    subprocess.run(["dpkg", "--purge", "dropsign"], check=True, stdout=subprocess.DEVNULL)
    assert not service.journal.parent.exists()
    assert not service.config.exists()
    assert service.is_signed(path)
    install(package())
