"""The status page in a real browser: it says what the daemon says, at once, to everybody, and runs nobody's script."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.sandbox import SLOWNESS, Sandbox, free_port, wait_until

pytestmark = [pytest.mark.chromium, pytest.mark.timeout(300)]

SCREENSHOT_SECONDS: Final = float(os.environ.get("DROPSIGN_SCREENSHOTS", "0"))
"""For how long files are dropped before pictures are taken for docs/; none are taken without."""

DOCS: Final = Path(__file__).parent.parent / "docs"

PHONE: Final = {"width": 360, "height": 740}

HOSTILE: Final = [
    "<script>document.title='script'",
    "<img src=x onerror=alert(1)>",
    "\N{RIGHT-TO-LEFT OVERRIDE}fdp.exe",
]
"""Names of files that fail."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's chromium, which asks nobody but the page's own server."""
    options = ["gpu", "quic", "background-networking", "component-update", "sync"]
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{option}" for option in options)]
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments, timeout=60_000 * SLOWNESS
        )
        yield made
        made.close()


class Visit:
    """One person's look at the page, and all that went wrong in the browser meanwhile."""

    def __init__(self, browser: Browser, box: Sandbox, **options: Any) -> None:
        self.troubles: list[str] = []
        self.asked: set[str] = set()
        self.address = f"http://{box.settings['http']['listen']}"
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(60_000 * SLOWNESS)
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.goto(self.address)

    def await_gate(self, state: str) -> None:
        """Wait until the page shows the gate in a state."""
        self.page.wait_for_selector(f'body[data-gate="{state}"]')

    def await_text(self, selector: str, pattern: str) -> None:
        """Wait until an element's text matches."""
        self.page.locator(selector, has_text=re.compile(pattern)).wait_for()

    def number(self, name: str) -> int:
        """Return a figure as the page shows it."""
        return int(self.page.inner_text(f"#{name}").replace(",", ""))

    def colour(self, selector: str) -> tuple[int, int, int]:
        """Return an element's background as red, green and blue."""
        text = self.page.eval_on_selector(selector, "element => getComputedStyle(element).backgroundColor")
        red, green, blue = re.findall(r"\d+", text)[:3]
        return int(red), int(green), int(blue)


def serve(box: Sandbox) -> None:
    """Start the daemon with its page."""
    box.configure("http", listen=f"127.0.0.1:{free_port()}")
    box.start_daemon()


def fail(box: Sandbox, *names: str) -> None:
    """Have the service refuse some files."""
    box.misbehave("400:100%")
    for name in names:
        box.drop(name, name.encode())
    wait_until(lambda: box.status()["failed"] == len(names), what="the failures")
    box.misbehave("")


def test_the_page_says_what_the_status_says(box: Sandbox, browser: Browser) -> None:
    """Figures, failures and certificates are those of /api/status; a name that looks like HTML stays text."""
    serve(box)
    fail(box, *HOSTILE, "n" * 245)
    box.wait_signed(*[box.drop(f"f{number}", b"%d" % number) for number in range(40)])
    wait_until(lambda: box.status()["signed"] == 40, what="the records")
    visit = Visit(browser, box)
    page, status = visit.page, box.status()
    visit.await_gate("open")
    figures = {"backlog": 0, "in-flight": 0, "signed": 40, "failed": len(HOSTILE) + 1, "refused": 0}
    for name, expected in figures.items():
        assert visit.number(name) == expected == status[name.replace("-", "_")]
    names = page.locator("#failures tbody td:first-child").all_inner_texts()
    assert {name.replace("\\u{202e}", "\N{RIGHT-TO-LEFT OVERRIDE}") for name in names} == {*HOSTILE, "n" * 245}
    assert page.locator("#failures script, #failures img").count() == 0
    assert "http_400" in page.inner_text("#failures tbody tr:first-child")
    days = dict(
        zip(status["certificates"], page.locator("#certificates td:nth-child(2)").all_inner_texts(), strict=True)
    )
    for which, shown in days.items():
        assert abs(int(shown.replace(",", "")) - status["certificates_days_left"][which]) <= 1
    assert re.fullmatch(r"[\d.]+ m?s", page.inner_text("#signing td:nth-child(2)"))
    visit.await_text("#chart-text", "^40 signed")
    assert page.evaluate("document.getElementById('line').getBBox().height") > 10
    page.evaluate("document.head.append(Object.assign(document.createElement('script'), {text: 'foreign = 1'}))")
    assert page.evaluate("typeof foreign") == "undefined", "no script runs but the page's own"
    assert [trouble for trouble in visit.troubles if "script-src" not in trouble] == []
    asked = {url.removeprefix(visit.address).partition("?")[0] for url in visit.asked if not url.startswith("data:")}
    assert asked == {"/", "/api/status", "/api/throughput", "/api/files"}
    visit.context.close()


def test_the_gate_turns_red_and_green_again(box: Sandbox, browser: Browser) -> None:
    """Without reloading: red with the reason while the service is away, green when it is back, grey with no daemon."""
    serve(box)
    visit = Visit(browser, box)
    visit.await_gate("open")
    red, green, _ = visit.colour(".gate")
    assert green > red
    box.stop_service()
    box.drop("waits")
    visit.await_gate("closed")
    red, green, _ = visit.colour(".gate")
    assert red > green
    assert "unreachable" in visit.page.inner_text("#gate-state")
    assert "unreachable" in visit.page.title()
    visit.await_text("#backlog", "^1$")
    box.start_service()
    visit.await_gate("open")
    visit.await_text("#signed", "^1$")
    assert box.stop_daemon() == 0
    visit.await_gate("unknown")
    visit.context.close()


def test_on_a_phone_in_the_dark_and_read_aloud(box: Sandbox, browser: Browser) -> None:
    """360 pixels need no scrolling sideways; dark mode is dark; a screen reader finds names, tables and changes."""
    serve(box)
    fail(box, "n" * 245, "a file.pdf")
    box.wait_signed(box.drop("signed"))
    visit = Visit(browser, box, viewport=PHONE, color_scheme="dark")
    page = visit.page
    visit.await_gate("open")
    page.wait_for_selector("#failures tbody tr")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert max(visit.colour("body")) < 64
    page.get_by_role("status").filter(has_text="Gate open").wait_for()
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"
    page.get_by_role("img", name=re.compile("Signed per second .*")).wait_for()
    assert page.get_by_role("table", name=re.compile("Latency")).get_by_role("columnheader").count() >= 3
    assert page.get_by_role("table", name="Certificates").get_by_role("rowheader").all_inner_texts() == [
        "authority",
        "client",
    ]
    failures = page.get_by_role("table", name="Failed files")
    assert failures.get_by_role("row").count() == 3
    assert failures.get_by_role("columnheader").all_inner_texts() == ["File", "Reason", "Attempts", "Since"]
    assert failures.get_by_role("cell").count() == 8
    page.emulate_media(color_scheme="light")
    assert min(visit.colour("body")) > 192
    visit.context.close()


@pytest.mark.may_be_skipped
@pytest.mark.skipif(not SCREENSHOT_SECONDS, reason="DROPSIGN_SCREENSHOTS=SECONDS takes them, after dropping that long")
@pytest.mark.timeout(3600)
def test_pictures_for_the_documentation(box: Sandbox, browser: Browser) -> None:
    """The page as it looks after a while of work, written into docs/."""
    serve(box)
    fail(box, "invoices/2024-03.pdf", "release/dropsign <1.0>.tar.gz")
    end, number = time.monotonic() + SCREENSHOT_SECONDS, 0
    while (left := end - time.monotonic()) > 0:
        number += 1
        box.drop(f"batch/{number:06}.txt", os.urandom(200))
        time.sleep(0.04 + 0.16 * ((left / 60) % 4 > 1.5) + (0.3 if left % 200 < 25 else 0))
    visits = {
        "status-page.png": Visit(browser, box, viewport={"width": 1100, "height": 700}),
        "status-page-dark.png": Visit(browser, box, viewport={"width": 1100, "height": 700}, color_scheme="dark"),
        "status-page-phone.png": Visit(browser, box, viewport=PHONE, device_scale_factor=2),
    }
    for name, visit in visits.items():
        visit.await_gate("open")
        visit.page.wait_for_timeout(500)
        visit.page.screenshot(path=DOCS / name, full_page=True)
    box.stop_service()
    wait_until(partial(box.drop, f"batch/{number}.late"))
    closed = visits["status-page-phone.png"]
    closed.await_gate("closed")
    closed.page.wait_for_timeout(500)
    closed.page.screenshot(path=DOCS / "status-page-closed.png")
