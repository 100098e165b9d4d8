"""The systemd units say nothing that systemd does not understand, and keep the daemon as confined as promised."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dropsign.config import Daemon

UNITS = Path(__file__).parent.parent / "systemd"

NAMES = ("dropsign.service", "dropsign@.service")

MOST_EXPOSURE = 11
"""Tenths: 1.1 of 10."""

pytestmark = pytest.mark.systemd


@pytest.fixture(params=NAMES)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a copy of a unit whose program exists on this machine, as systemd demands."""
    name: str = request.param
    copy = tmp_path / name.replace("@.", "@one.")
    text = (UNITS / name).read_text("utf-8")
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text), "utf-8")
    return copy


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def settings(name: str) -> list[str]:
    lines = (UNITS / name).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_systemd_has_nothing_to_say(unit: Path) -> None:
    """`systemd-analyze verify` exits 0 even on unknown keys: only silence is approval."""
    done = analyze("verify", "--man=no", unit)
    assert (done.returncode, done.stdout) == (0, "")


def test_verify_would_notice(unit: Path) -> None:
    """The silence above means something: a misspelt key is not met with it."""
    unit.write_text(unit.read_text("utf-8").replace("ProtectSystem=", "ProtectSistem="), "utf-8")
    assert "ProtectSistem" in analyze("verify", "--man=no", unit).stdout


def test_exposure(unit: Path) -> None:
    """The whole list of restrictions is in force."""
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", unit)
    assert done.returncode == 0, done.stdout


def test_both_units_confine_alike() -> None:
    """The template differs in names and paths only."""
    plain, template = (
        {line.partition("=")[0] + "=" + line.partition("=")[2].replace("%i", "") for line in settings(name)}
        for name in NAMES
    )
    differing = {line.partition("=")[0] for line in plain ^ template}
    assert differing == {
        "Description",
        "Environment",
        "ExecStart",
        "LoadCredential",
        "RuntimeDirectory",
        "RuntimeDirectoryPreserve",
        "StateDirectory",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_may_take_its_grace(name: str) -> None:
    """Systemd must not kill the daemon while requests on their way may still end."""
    limit = next(line for line in settings(name) if line.startswith("TimeoutStopSec="))
    assert float(limit.partition("=")[2]) > Daemon().grace_seconds


def test_exposure_with_fixed_addresses(unit: Path) -> None:
    """The drop-in for a service whose address never changes brings it down to 1.0."""
    drop_in = (UNITS / "fixed-addresses.conf").read_text("utf-8")
    threshold = f"--threshold={MOST_EXPOSURE - 1}"
    assert analyze("security", "--offline=true", threshold, unit).returncode, "it is the drop-in that does it"
    unit.write_text(unit.read_text("utf-8") + "\n" + drop_in, "utf-8")
    assert analyze("verify", "--man=no", unit).stdout == ""
    done = analyze("security", "--offline=true", threshold, unit)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("kind", "file"), [("service", NAMES[0]), ("instances", NAMES[1])])
def test_the_verb_names_its_own_program(kind: str, file: str) -> None:
    """`dropsign unit` prints the unit as it is here, but for the program, which is the one that was asked."""
    program = Path(sys.prefix, "bin", "dropsign")
    done = subprocess.run([program, "unit", kind], capture_output=True, text=True, check=True)
    assert f"ExecStart={program} " in done.stdout
    assert done.stdout.replace(str(program), "/usr/bin/dropsign") == (UNITS / file).read_text("utf-8")
