"""Between when a certificate of ours, or of whom we trust, may be used; pure, with time as an argument."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from dropsign.errors import Fault, SigningError


@dataclass(frozen=True, slots=True)
class Validity:
    """When the certificates of one file hold.

    Attributes:
        key: of the configuration that the file is named by.
        path: of the file.
        starts: of its first certificate to hold; seconds since the epoch.
        ends: of its last.
        reason: why the gate closes while it does not hold.
    """

    key: str
    path: Path
    starts: float
    ends: float
    reason: str

    @classmethod
    def of(cls, key: str, path: Path, certificates: Sequence[x509.Certificate], reason: str) -> "Validity":
        """Return the validity of a file of which one certificate that holds is enough."""
        starts = min(certificate.not_valid_before_utc for certificate in certificates)
        ends = max(certificate.not_valid_after_utc for certificate in certificates)
        return cls(key, path, starts.timestamp(), ends.timestamp(), reason)

    def objection(self, now: float) -> SigningError | None:
        """Say why it does not hold at a time (seconds since the epoch); None if it does."""
        if self.starts <= now < self.ends:
            return None
        if now < self.starts:
            text = f"is not valid before {_utc(self.starts):%Y-%m-%d %H:%M} UTC; check this machine's clock"
        else:
            text = f"expired on {_utc(self.ends):%Y-%m-%d}; ask the authority for a new one (dropsign keygen)"
        fault = Fault.CREDENTIALS if self.reason == "credentials" else Fault.SERVICE
        return SigningError(fault, self.reason, f"{self.key}: {self.path} {text}")


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
