"""Whether the threads that the daemon cannot do without still do their work, and not only exist."""

from typing import TYPE_CHECKING

from dropsign.journal import Journal
from dropsign.watchkeeper import WatchKeeper

if TYPE_CHECKING:
    from concurrent.futures import Future


class Liveness:
    """Asks each thread for a sign of life, and looks later whether it came; nobody waits for one that hangs."""

    def __init__(self, journal: Journal, keeper: WatchKeeper) -> None:
        self._journal = journal
        self._keeper = keeper
        self._asked: Future[None] | None = None
        self.is_proven = True
        """Whether all that was asked for at the last check but one had come by the last."""

    def check(self) -> bool:
        """Tell whether all answered since the last check, and ask again."""
        read = self._asked is None or self._asked.done()
        watching = self._keeper.has_answered
        self.is_proven = read and watching
        if read:
            self._asked = self._journal.ping()
        self._keeper.ping()
        return self.is_proven
