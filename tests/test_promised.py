"""What is promised beside the main path, told by a real daemon: warnings, metrics that age, the memory it may take."""

import time

from tests.support.sandbox import Sandbox, wait_until


def test_what_is_deferred_has_waited_since_it_came_to_rest(box: Sandbox) -> None:
    """Neither a further try nor a restart makes a file younger, and the oldest of all is told, deferred or queued."""
    box.misbehave("badsig")
    box.configure("service", attempts=100)
    box.configure("verify", key=str(box.signing.public_key))
    box.start_daemon()
    path = box.drop("first")

    def since(tries: int) -> float:
        def is_deferred() -> bool:
            known = box.lookup(path)
            return bool(known["state"] == "deferred" and known["attempts"] >= tries)

        wait_until(is_deferred, 60, f"{tries} tries")
        found: float = box.lookup(path)["since"]
        return found

    began = since(1)
    assert since(3) == began
    box.stop_daemon()
    box.start_daemon()
    assert since(4) == began
    waited = time.time() - began
    assert box.status()["oldest_waiting_seconds"] >= waited
    assert box.metric("dropsign_oldest_waiting_seconds") >= waited
    box.misbehave("")
    box.wait_signed(path, seconds=60)
    wait_until(lambda: box.metric("dropsign_oldest_waiting_seconds") == 0, what="nothing that waits")
    wait_until(lambda: box.metric("dropsign_drop_to_sign_seconds_sum") >= waited, what="all of its time counted")
