"""How the embedded service misbehaves: `--fail 503:20%,hang:5%` and `--delay 20ms`, parsed and chosen by chance."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from dropsign.errors import ConfigurationError

KINDS: Final = (
    "hang",
    "reset",
    "badsig",
    "null",
    "text",
    "halfjson",
    "bigbody",
    "slowloris",
    "redirect",
)
"""Beside every status from 400 to 599: what can go wrong with a connection or an answer."""

_DURATION: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)(?P<unit>ms|s)", re.ASCII)
_STATUS: Final = re.compile(r"[45]\d\d", re.ASCII)
_SHARE: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)%", re.ASCII)
_ALL: Final = 100.0


@dataclass(frozen=True, slots=True)
class Faults:
    """Which faults, each in which share of the requests.

    Attributes:
        shares: (fault, per cent) in the order given; a fault is a status or one of `KINDS`.
    """

    shares: Sequence[tuple[str, float]] = ()

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """Read `503:20%,hang:5%`; a fault without a share is meant for every request.

        Raises:
            ConfigurationError: it does not read like that.
        """
        shares = tuple(_share(part.strip()) for part in text.split(",") if part.strip())
        total = math.fsum(share for _, share in shares)
        if total > _ALL:
            msg = f"--fail: the shares of {text} add up to {total:g}%; they must not pass 100%"
            raise ConfigurationError(msg)
        return cls(shares)

    def choose(self, chance: random.Random) -> str | None:
        """Return the fault for the next request, or None if it is to go well."""
        if not self.shares:
            return None
        point = chance.random() * _ALL
        limits = accumulate(share for _, share in self.shares)
        return next((fault for (fault, _), limit in zip(self.shares, limits, strict=True) if point < limit), None)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the service behaves for now.

    Attributes:
        faults: what goes wrong, and how often.
        delay_seconds: how long it thinks before it answers.
    """

    faults: Faults = Faults()
    delay_seconds: float = 0.0

    def changed_by(self, text: str) -> "Behaviour":
        """Return the behaviour that a faults file asks for, beyond this one.

        Args:
            text: lines `fail 503:20%` and `delay 20ms`; what is not named stays as it is.

        Raises:
            ConfigurationError: a line reads differently.
        """
        faults, delay_seconds = self.faults, self.delay_seconds
        for line in filter(None, map(str.strip, text.splitlines())):
            key, _, value = line.partition(" ")
            match key:
                case "fail":
                    faults = Faults.parse(value)
                case "delay":
                    delay_seconds = parse_delay(value.strip())
                case _:
                    msg = f"faults file: {line!r} is neither 'fail 503:20%,hang:5%' nor 'delay 20ms'"
                    raise ConfigurationError(msg)
        return Behaviour(faults, delay_seconds)


def parse_delay(text: str) -> float:
    """Return the seconds of `20ms` or `1.5s`.

    Raises:
        ConfigurationError: it does not read like that.
    """
    if text == "0":
        return 0.0
    duration = _DURATION.fullmatch(text)
    if duration is None:
        msg = f"--delay: {text!r} is no duration; give one such as 20ms or 1.5s"
        raise ConfigurationError(msg)
    seconds = float(duration["number"])
    return seconds / 1000 if duration["unit"] == "ms" else seconds


def _share(part: str) -> tuple[str, float]:
    fault, separator, share = part.partition(":")
    if fault not in KINDS and not _STATUS.fullmatch(fault):
        msg = f"--fail: {fault!r} is no fault; it is a status from 400 to 599, or one of {', '.join(KINDS)}"
        raise ConfigurationError(msg)
    if not separator:
        return fault, _ALL
    number = _SHARE.fullmatch(share)
    if number is None or float(number["number"]) > _ALL:
        msg = f"--fail: {share!r} is no share; give {fault}:5% or the like, at most 100%"
        raise ConfigurationError(msg)
    return fault, float(number["number"])
