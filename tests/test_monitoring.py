"""Metrics, alerts and dashboard: what Prometheus reads, and that nothing in the kit asks for what does not exist."""

import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import require_part
from tests.support.sandbox import Sandbox, free_port, wait_until

DOCS: Final = Path(__file__).parent.parent / "docs"
KIT: Final = DOCS / "monitoring"

SCRAPED: Final = frozenset({"instance", "job"})
"""Labels that Prometheus itself adds."""


def scrape(box: Sandbox) -> str:
    """Return what Prometheus would read from a daemon that has signed, failed and refused."""
    port = free_port()
    box.configure("http", listen=f"127.0.0.1:{port}")
    box.start_daemon()
    box.misbehave("400:100%")
    box.drop("failed")
    wait_until(lambda: box.status()["failed"] == 1, what="the failure")
    box.misbehave("")
    box.wait_signed(box.drop("signed", b"x" * 1000))
    wait_until(lambda: box.status()["signed"] == 1, what="the record")
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = response.read().decode()
    connection.close()
    return text


def families(text: str) -> dict[str, Metric]:
    """Return what Prometheus' own parser reads, under the names that the contract gives them."""
    found = list(text_string_to_metric_families(text))
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in found}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return each metric of docs/metrics.md with its type and labels."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_what_prometheus_reads(box: Sandbox) -> None:
    """Names, types and labels are those of docs/metrics.md, and the numbers are true."""
    text = scrape(box)
    read = families(text)
    shown = {
        name: (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
        for name, family in read.items()
    }
    assert shown == documented()
    values = {
        (sample.name, *sample.labels.values()): sample.value for family in read.values() for sample in family.samples
    }
    assert values["dropsign_files_total", "signed"] == values["dropsign_files_total", "failed"] == 1
    assert values["dropsign_requests_total", "signed"] == values["dropsign_requests_total", "http_400"] == 1
    assert values["dropsign_drop_to_sign_seconds_count",] == 1
    assert values["dropsign_signing_seconds_count",] == 2
    assert values["dropsign_bytes_total",] == 1000
    assert values["dropsign_failed_files",] == values["dropsign_watcher_alive",] == 1
    assert values["dropsign_backlog_files",] == values["dropsign_in_flight_requests",] == 0
    assert all(sample.value == 0 for sample in read["dropsign_gate_closed"].samples)
    reasons = {sample.labels["reason"] for sample in read["dropsign_gate_closed"].samples}
    for page in ("why-not-signed.md", "metrics.md"):
        assert reasons <= set(re.findall(r"`(\w+)`", (DOCS / page).read_text("utf-8")))
    assert values["dropsign_certificate_expiry_timestamp_seconds", "client"] > 0


def test_the_gate_says_for_which_reason_it_is_closed(box: Sandbox) -> None:
    """Just the present reason is 1."""
    box.stop_service()
    text = ""

    def closed() -> list[str]:
        nonlocal text
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return [sample.labels["reason"] for sample in families(text)["dropsign_gate_closed"].samples if sample.value]

    port = free_port()
    box.configure("http", listen=f"127.0.0.1:{port}")
    box.start_daemon()
    wait_until(lambda: closed() == ["unreachable"], what="the gate's closing")
    box.start_service()
    wait_until(lambda: closed() == [], seconds=60, what="the gate's opening")


@pytest.mark.promtool
def test_promtool_has_nothing_to_say(box: Sandbox) -> None:
    """Prometheus' own checker accepts the exposition, and the alerts fire when they should, and only then."""
    promtool = require_part("promtool")
    linted = subprocess.run(
        [promtool, "check", "metrics"], input=scrape(box), text=True, capture_output=True, check=False
    )
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *arguments], cwd=KIT, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def dashboard_expressions() -> Iterator[str]:
    """Yield every query of the dashboard."""
    dashboard: dict[str, Any] = json.loads((KIT / "dashboard.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query")


def alert_expressions() -> list[str]:
    """Return every expression of the alerts."""
    return re.findall(r"^ +expr: (.*)$", (KIT / "alerts.yml").read_text("utf-8"), re.MULTILINE)


def alert_names(text: str) -> list[str]:
    """Return the alerts that a text tells of, in order."""
    return re.findall(r"\bDropsign\w+", text)


def test_every_expression_asks_for_what_exists(box: Sandbox) -> None:
    """Each metric and label in alerts and dashboard is one that a real daemon shows."""
    read = families(scrape(box))
    samples = {sample.name: set(sample.labels) for family in read.values() for sample in family.samples}
    expressions = [*dashboard_expressions(), *alert_expressions()]
    assert len(expressions) > 20
    asked = set()
    for expression in expressions:
        for name, selector in re.findall(r"\b(dropsign_\w+)(?:\{([^}]*)\})?", expression):
            assert name in samples, expression
            labels = set(re.findall(r"(\w+) *=~?", selector))
            for grouped in re.findall(r"by \(([^)]*)\)", expression):
                labels |= set(re.findall(r"\w+", grouped))
            assert labels <= samples[name] | SCRAPED, expression
            for outcome in re.findall(r'outcome="(\w+)"', selector):
                assert any(sample.labels["outcome"] == outcome for sample in read["dropsign_files_total"].samples)
            asked.add(re.sub("_bucket$", "", name))
    assert asked == set(read), "the dashboard shows every metric"
    alerts = [
        line.split(": ")[1] for line in (KIT / "alerts.yml").read_text("utf-8").splitlines() if "- alert:" in line
    ]
    assert alert_names((DOCS / "monitoring.md").read_text("utf-8")) == alerts
    assert set(alert_names((KIT / "alerts_test.yml").read_text("utf-8"))) == set(alerts)
