"""What is to be done about a path, from how it looks and what the journal knows: pure decisions.

The rules are those of the contract, sections 1 and 2.
"""

import os
import stat
from dataclasses import replace
from enum import StrEnum
from typing import Final

from dropsign.model import NAME_MAX, SIGN_SUFFIX, Entry, Fingerprint, Look, Notice, Stamp, State

_KINDS: Final = {
    stat.S_IFLNK: "symbolic_link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFDIR: "directory",
}


UNPUBLISHABLE: Final = "unpublishable"
"""Why a drop rests whose signature is in the history, but could not be written beside it."""


UNREADABLE: Final = "unreadable"
"""Why a drop rests whose content could not be read."""


class Verdict(StrEnum):
    """What to do about a path that has come to rest."""

    NOTHING = "nothing"
    FORGET = "forget"
    REFUSE = "refuse"
    EXAMINE = "examine"
    """Its content must be read to tell: it may be signed already, by us or by somebody else."""
    ADMIT = "admit"


def judge(look: Look, entry: Entry | None, *, republish_missing: bool) -> Verdict:
    """Decide about a path at rest.

    Args:
        look: how it is now.
        entry: what the journal knows.
        republish_missing: whether a FILE.sign that is missing is put back.
    """
    if look.fingerprint is None:
        return Verdict.NOTHING if entry is None else Verdict.FORGET
    if look.refusal is not None:
        known = entry is not None and entry.state is State.REFUSED and entry.fingerprint == look.fingerprint
        return Verdict.NOTHING if known else Verdict.REFUSE
    if entry is None:
        return Verdict.ADMIT if look.sign_mtime_ns is None else Verdict.EXAMINE
    if entry.fingerprint == look.fingerprint and entry.state is not State.REFUSED:
        if entry.state is not State.SIGNED or is_in_place(look.stamp, entry.stamp, republish_missing=republish_missing):
            return Verdict.NOTHING
        return Verdict.EXAMINE
    return Verdict.EXAMINE if _is_to_be_read(look, entry) else Verdict.ADMIT


def insist(verdict: Verdict, look: Look, entry: Entry | None, *, force: bool) -> Verdict:
    """Decide about a path that somebody asked for: what was given up is taken up again.

    Args:
        verdict: what is to be done about it if nobody asks.
        look: how it is now.
        entry: what the journal knows.
        force: sign it again, whatever is known.
    """
    if look.fingerprint is None or look.refusal is not None:
        return verdict
    if force:
        return Verdict.ADMIT
    if verdict is not Verdict.NOTHING or entry is None or not is_given_up(entry):
        return verdict
    is_signed = is_unpublished(entry) or (is_unread(entry) and _is_to_be_read(look, entry))
    return Verdict.EXAMINE if is_signed else Verdict.ADMIT


def _is_to_be_read(look: Look, entry: Entry) -> bool:
    """Tell whether only its content can show if a version is signed: by us, or by a FILE.sign never held against it."""
    assert look.fingerprint is not None, "what is read is there"
    is_foreign = is_unread(entry) and entry.signature_id is None and look.sign_mtime_ns is not None
    return is_foreign or may_be_signed(entry, look.fingerprint)


def is_in_place(found: Stamp | None, recorded: Stamp | None, *, republish_missing: bool) -> bool:
    """Tell whether nothing is to be done about the FILE.sign of a version that is signed.

    Args:
        found: the stamp of whatever has its name; None where nothing has.
        recorded: the stamp of what was published; None where that is not known.
        republish_missing: whether one that is missing is put back. One that somebody wrote over is in any case.
    """
    return found == recorded if found is not None else not republish_missing


def doubted(entry: Entry | None, notice: Notice) -> Entry | None:
    """Return what is known of a drop, but for its stamp where somebody was heard to write its FILE.sign.

    Before Linux 6.13, what is written in place within the clock's tick of our rename has the same stamp.
    """
    return entry if entry is None or notice is not Notice.BESIDE else replace(entry, stamp=None)


def may_be_signed(entry: Entry, fingerprint: Fingerprint) -> bool:
    """Tell whether a new version could have the very content that was signed last."""
    return entry.signature_id is not None and entry.signed_size == fingerprint.size


def is_stale(look: Look, entry: Entry | None, *, written: bool) -> bool:
    """Tell whether the FILE.sign beside a file that is not at rest yet is known not to match.

    A changed size shows it, or that content was written. A mere touch shows nothing: the content decides, once the
    file rests.
    """
    return (
        entry is not None
        and (entry.state is State.SIGNED or (is_unread(entry) and entry.signature_id is not None))
        and look.fingerprint is not None
        and look.sign_mtime_ns is not None
        and entry.fingerprint != look.fingerprint
        and (written or entry.fingerprint.size != look.fingerprint.size)
    )


def precedes_change(look: Look) -> bool:
    """Tell whether the FILE.sign beside a file was written before the file last changed.

    One that is published is newer than the change before it, as a file rests for longer than the clock's tick.
    """
    return (
        look.fingerprint is not None
        and look.sign_mtime_ns is not None
        and look.sign_mtime_ns <= look.fingerprint.ctime_ns
    )


def is_adoptable(look: Look) -> bool:
    """Tell whether a FILE.sign that the journal does not know is not older than its file."""
    return (
        look.fingerprint is not None
        and look.sign_mtime_ns is not None
        and look.sign_mtime_ns >= look.fingerprint.mtime_ns
    )


def kind_of(status: os.stat_result) -> str | None:
    """Return what something is that is no regular file; None for one that is."""
    if stat.S_ISREG(status.st_mode):
        return None
    return _KINDS.get(stat.S_IFMT(status.st_mode), "special_file")


def refusal_of(status: os.stat_result, name: bytes, max_bytes: float) -> str | None:
    """Return why a file can't be signed for what it is; None if it can.

    Args:
        status: of the file itself, links not followed.
        name: without its directory.
        max_bytes: of the largest file that is signed; 0 for no limit.
    """
    if (kind := kind_of(status)) is not None:
        return kind
    if len(name) + len(SIGN_SUFFIX) > NAME_MAX:
        return "name_too_long"
    if max_bytes and status.st_size > max_bytes:
        return "too_large"
    return None


def is_unpublished(entry: Entry) -> bool:
    """Tell whether a drop's signature is at hand, and only has to be written beside it."""
    return entry.state is State.DEFERRED and entry.reason == UNPUBLISHABLE and entry.signature_id is not None


def is_unread(entry: Entry) -> bool:
    """Tell whether a drop's content could not be read, so that a FILE.sign beside it may or may not be its own."""
    return entry.state is State.DEFERRED and entry.reason == UNREADABLE


def is_given_up(entry: Entry | None) -> bool:
    """Tell whether a drop is tried again only later, or if someone asks."""
    return entry is not None and entry.state in {State.FAILED, State.DEFERRED}
