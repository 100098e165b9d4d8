"""Filters take names as git would, on bytes, and never take what dropsign writes itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec

from dropsign.config import Outbox
from dropsign.errors import ConfigurationError
from dropsign.filters import Filters, is_ours

EXCLUDE = Outbox.model_fields["exclude"].default
DEFAULT = Filters(Outbox.model_fields["include"].default, EXCLUDE)

PATTERNS = [
    "*.log",
    "!keep.log",
    "/top",
    "sub/",
    "a/b",
    "**/x",
    "a/**/z",
    "[a-c]?.t",
    "!a/b",
    "sub/*",
    "é*",
    "#c",
    r"\#d",
]
PARTS = ["a", "b", "x", "z", "top", "sub", "keep.log", "y.log", "a1.t", "d1.t", "été", "#c", "#d", ".hidden"]


@pytest.mark.parametrize(
    "path",
    [
        b"file",
        b"sub/sub/file.pdf",
        b"no utf-8 \xff\xfe",
        b"new\nline",
        b"ends in newline.tmp\n",
        b"-dash",
        b"file.sign.txt",
        b"a~b",
        b"tmp",
        b"part.of",
    ],
)
def test_drops_by_default(path: bytes) -> None:
    """Ordinary names are drops, however odd their bytes."""
    assert DEFAULT.accepts(path)


@pytest.mark.parametrize(
    "path",
    [
        b".hidden",
        b"sub/.hidden",
        b".hidden/file",
        b"a.tmp",
        b"a.part",
        b"a.partial",
        b"a.crdownload",
        b"a.filepart",
        b".a.swp",
        b"a.swp",
        b"a~",
        b"\xff.tmp",
        b"new\nline.tmp",
        b".new\nline",
        b"sub\n/x.part",
    ],
)
def test_no_drops_by_default(path: bytes) -> None:
    """Hidden and unfinished files are none, also with odd bytes in their names."""
    assert not DEFAULT.accepts(path)


@pytest.mark.parametrize("name", [b"a.sign", b".sign", b"a.sign-error", b".dropsign-0123456789ab-1f.tmp", b"\xff.sign"])
def test_ours(name: bytes) -> None:
    """What dropsign writes is never a drop, whatever the patterns say."""
    assert is_ours(name)
    filters = Filters(["**", "*.sign", ".*"], [])
    assert not filters.accepts(name)
    assert not filters.accepts(b"sub/" + name)


@pytest.mark.parametrize(
    "name", [b"sign", b"a.sign.bak", b"a.SIGN", b"a.sign\n", b".dropsign-0123456789ab-1f.tmp\n", b".dropsign-x.tmp"]
)
def test_not_ours(name: bytes) -> None:
    """Names that only look like them are others'."""
    assert not is_ours(name)
    assert Filters(["**"], []).accepts(name)


def test_include() -> None:
    """With patterns to include, only what they name is a drop, less what is excluded."""
    filters = Filters(["*.pdf", "/reports/**", "!draft.pdf"], ["*.tmp"])
    assert filters.accepts(b"a.pdf")
    assert filters.accepts(b"sub/a.pdf")
    assert filters.accepts(b"reports/2024/a.csv")
    assert not filters.accepts(b"a.csv")
    assert not filters.accepts(b"sub/reports/a.csv")
    assert not filters.accepts(b"draft.pdf")
    assert not filters.accepts(b"reports/a.tmp")


def test_directories() -> None:
    """A directory that is excluded as a whole is not entered; others are, as their files may be drops."""
    filters = Filters(["*.pdf"], ["work/", "/top", "*.tmp"])
    assert not filters.enters(b"work")
    assert not filters.enters(b"a/work")
    assert not filters.enters(b"top")
    assert not filters.enters(b"x.tmp")
    assert filters.enters(b"a/top")
    assert filters.enters(b"a")
    assert filters.accepts(b"work.pdf")


def test_nothing_below_an_excluded_directory() -> None:
    """As for git, nothing below an excluded directory is brought back, so events and scans agree."""
    filters = Filters(["**"], ["build", "!build/keep", "*.log", "!keep.log"])
    assert not filters.enters(b"build")
    assert not filters.enters(b"build/sub")
    assert not filters.accepts(b"build/keep")
    assert filters.accepts(b"keep.log")
    assert not filters.accepts(b"a.log")


@given(st.lists(st.sampled_from(PATTERNS), max_size=5), st.lists(st.sampled_from(PARTS), min_size=1, max_size=4))
def test_as_pathspec(patterns: list[str], parts: list[str]) -> None:
    """A path is excluded if pathspec's own matching excludes it, or a directory on its way."""
    spec = GitIgnoreSpec.from_lines(patterns)
    path = "/".join(parts)
    ways = [path, *("/".join(parts[:depth]) + "/" for depth in range(1, len(parts)))]
    assert Filters(["**"], patterns).accepts(path.encode()) == (not any(map(spec.match_file, ways)))


@given(st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name and not name.startswith(b"/")))
def test_any_bytes(path: bytes) -> None:
    """No name is too odd to be decided on; it is a drop only if its directories may be entered."""
    accepted = DEFAULT.accepts(path)
    parts = path.split(b"/")
    if accepted:
        assert all(DEFAULT.enters(b"/".join(parts[:depth])) for depth in range(1, len(parts)))


@pytest.mark.parametrize("pattern", ["!", "a\\"])
def test_bad_patterns(pattern: str) -> None:
    """A pattern that is none is refused with its key."""
    for key, lists in ("include", ([pattern], [])), ("exclude", (["**"], [pattern])):
        with pytest.raises(ConfigurationError, match=f"^outbox.{key}: is not a list of patterns"):
            Filters(*lists)
