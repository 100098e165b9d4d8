"""Takes up credentials that change on disk, if they are good, and warns of certificates that end soon."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from dropsign import credentials
from dropsign.config import Configuration
from dropsign.credentials import Credentials
from dropsign.errors import DropsignError, Fault, SigningError
from dropsign.log import Log
from dropsign.metrics import Metrics
from dropsign.signer import Signer

EXPIRY_WARNING_DAYS: Final = 14


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why credentials on disk are not taken up, and since when (seconds since the epoch)."""

    error: str
    since: float


class Rotation:
    """Knows the credentials in use, and replaces them."""

    def __init__(
        self,
        configuration: Configuration,
        environment: Mapping[str, str],
        *,
        log: Log,
        metrics: Metrics,
        on_defect: Callable[[Exception], None],
    ) -> None:
        """Load the credentials; those that have expired will do, and keep the gate shut until others lie there.

        Args:
            configuration: names the files.
            environment: for `$CREDENTIALS_DIRECTORY`.
            log: where to tell of them.
            metrics: get their ends.
            on_defect: told of errors that nobody foresaw.

        Raises:
            CredentialsError: they cannot be used.
        """
        self.configuration = configuration
        self._environment = environment
        self._log = log
        self._metrics = metrics
        self._on_defect = on_defect
        self._warned: set[str] = set()
        self._turn = asyncio.Lock()
        self._refused: credentials.Stamp | None = None
        self.current = credentials.load(configuration, environment, untimely=True)
        self.refusal: Refusal | None = None
        """What is wrong with those on disk, if others than these lie there."""
        self._announce()

    @property
    def expired(self) -> bool:
        """Tell whether a certificate in use has ended."""
        return any(ends <= datetime.now(UTC) for ends in self.current.certificates.values())

    def warn_of_expiry(self) -> None:
        """Say, once for each, which certificates end soon."""
        for which, ends in self.current.certificates.items():
            days = (ends - datetime.now(UTC)).days
            if days < EXPIRY_WARNING_DAYS and self._is_news(f"expiry of {which}"):
                self._log.warning("credentials.expiring", which=which, days=days, expires=ends.isoformat())

    async def check(self, signer: Signer, *, trial: Callable[[], bool]) -> bool:
        """Use the credentials that now lie on disk, if they are others and good; refuse them otherwise.

        Files that are replaced one after the other do not fit in between: only what stays so is refused aloud.

        Args:
            signer: gets them.
            trial: whether a handshake must succeed with them first; during an outage none can.

        Returns:
            Whether others are in use now.
        """
        async with self._turn:
            if (stamp := self.current.changed_on_disk()) is None:
                self.refusal = None  # or they are just being replaced, and the next check says so again
                return False
            try:
                fresh = await asyncio.to_thread(credentials.load, self.configuration, self._environment)
                if trial():
                    await signer.handshake(fresh)
            except Exception as error:  # noqa: BLE001 - whatever lies there, those in use are good
                if stamp == self._refused:
                    self._refuse(error)
                self._refused = stamp
                return False
            await self._use(fresh, signer)
            return True

    def _refuse(self, error: Exception) -> None:
        text = str(error)
        if self.refusal is None or self.refusal.error != text:
            self.refusal = Refusal(text, time.time())
        if self._is_news(text):
            self._log.error("credentials.refused", error=text)
            if not isinstance(error, DropsignError):
                self._on_defect(error)

    async def reload(self, configuration: Configuration, signer: Signer, *, trial: bool) -> None:
        """Use another configuration and its credentials, after a trial handshake that the service may sit out.

        Raises:
            CredentialsError: they cannot be used.
            SigningError: the service does not take them, or they do not take the service.
        """
        async with self._turn:
            fresh = await asyncio.to_thread(credentials.load, configuration, self._environment)
            try:
                if trial:
                    await signer.handshake(fresh)
            except SigningError as error:
                if error.fault is Fault.CREDENTIALS or error.reason == "tls":
                    raise
            self.configuration = configuration
            await self._use(fresh, signer)

    async def _use(self, fresh: Credentials, signer: Signer) -> None:
        self.current, self.refusal = fresh, None
        self._warned.clear()
        await signer.renew(fresh)
        self._announce()

    def _announce(self) -> None:
        ends = {which: end.isoformat() for which, end in self.current.certificates.items()}
        self._log.info("credentials.loaded", expires=ends)
        for which, end in self.current.certificates.items():
            self._metrics.expiry.labels(which=which).set(end.timestamp())

    def _is_news(self, text: str) -> bool:
        news = text not in self._warned
        self._warned.add(text)
        return news
