"""The list of verbs, in the order in which --help shows them."""

from collections.abc import Callable
from typing import Any

from dropsign.cli.audit import audit
from dropsign.cli.bundle import bundle
from dropsign.cli.check import check
from dropsign.cli.demo import demo
from dropsign.cli.explain import explain
from dropsign.cli.keygen import keygen
from dropsign.cli.logs import logs
from dropsign.cli.retry import retry
from dropsign.cli.run import run
from dropsign.cli.service import service
from dropsign.cli.sign import sign
from dropsign.cli.status import status
from dropsign.cli.unit import unit
from dropsign.cli.verify import verify
from dropsign.cli.wait import wait

ALL: list[Callable[..., Any]] = [
    run, demo, sign, verify, wait, bundle, status, explain, retry, logs, audit, check, keygen, unit, service,
]  # fmt: skip
