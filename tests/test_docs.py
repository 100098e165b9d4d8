"""The documents say what the program says: verbs, events, failpoints, tests, links."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer.main

from dropsign.cli import app
from dropsign.failpoints import NAMES

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]

EVENT = re.compile(r"(daemon|credentials|scan|watch|file|gate|audit)\.[a-z_]+")
"""The names of the log's events; keys of the configuration begin otherwise, but for those of [daemon]."""


def verbs() -> dict[str, str]:
    """Return each verb with its first line of help, in the order of --help."""
    group = typer.main.get_command(app)
    return {name: (command.help or "").splitlines()[0] for name, command in group.commands.items()}  # type: ignore[attr-defined]


def test_readme_lists_the_verbs_of_help() -> None:
    """The README's table has each verb, in the order of --help, with the words of --help (and perhaps more)."""
    section = (PROJECT / "README.md").read_text("utf-8").partition("\n## Verbs\n")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE))
    assert list(listed) == list(verbs())
    for verb, text in verbs().items():
        assert listed[verb].split(";")[0].rstrip(".") == text.split(";")[0].rstrip("."), verb


def test_exit_codes_name_every_verb_that_has_more_than_0_and_2() -> None:
    """No verb is listed that there is not; those left out end with 0 or 2 alone."""
    page = (PROJECT / "docs" / "exit-codes.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert listed <= set(verbs())
    assert set(verbs()) - listed == {"keygen", "logs", "service", "unit"}


def events_in_the_code() -> Iterator[str]:
    for path in (PROJECT / "daemon" / "dropsign").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(first := node.args[0], ast.Constant):
                yield from filter(EVENT.fullmatch, [first.value] if isinstance(first.value, str) else [])


def test_every_event_is_documented() -> None:
    """docs/log-events.md has each event that the code can log, and no other."""
    page = (PROJECT / "docs" / "log-events.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    assert documented == set(events_in_the_code())


def test_crash_table_has_every_failpoint() -> None:
    """The crash table of docs/architecture.md says of each failpoint what is on disk if the process dies there."""
    page = (PROJECT / "docs" / "architecture.md").read_text("utf-8")
    section = page.partition("\n## If the process dies\n")[2].partition("\n## ")[0]
    points = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    assert set(NAMES) == {name for row in points for name in re.findall(r"`([a-z_]+)`", row)}


def test_every_test_module_is_documented() -> None:
    """docs/testing.md says of each module of tests what it proves, and names none that there is not."""
    page = (PROJECT / "docs" / "testing.md").read_text("utf-8")
    rows = re.findall(r"^\| (`test_[^|]+) \|", page, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    assert documented == {path.stem for path in (PROJECT / "tests").glob("test_*.py")}


def test_links_lead_somewhere() -> None:
    """Each relative link of a page leads to a file, and its anchor to a heading."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
            name, _, anchor = target.partition("#")
            file = (page.parent / name) if name else page
            assert file.exists(), (page.name, target)
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, (page.name, target)
