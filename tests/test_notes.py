"""FILE.sign-error: put back where it is missing, and swept away once nobody wants it any more."""

from tests.support.sandbox import Sandbox, wait_until


def test_notes_come_back_and_go_for_good(box: Sandbox) -> None:
    """A scan puts a note back; the first scan without error_files removes it, and leaves what is no note of ours."""
    box.configure("outbox", error_files=True)
    box.misbehave("413")
    box.start_daemon()
    path, other = box.drop("file"), box.drop("other.sign-error", b"somebody's")
    note = path.with_name("file.sign-error")
    wait_until(note.exists, what="the note")
    box.rescan()
    assert "413" in note.read_text()
    note.unlink()
    box.rescan()
    wait_until(note.exists, what="the note put back")
    assert box.stop_daemon() == 0
    box.configure("outbox", error_files=False)
    box.start_daemon()
    wait_until(lambda: not note.exists(), what="the note's end")
    assert box.lookup(path)["state"] == "failed"
    assert other.read_bytes() == b"somebody's"
    assert len(box.requests()) == 1
