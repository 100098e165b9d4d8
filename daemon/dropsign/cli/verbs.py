"""The list of verbs, in the order in which --help shows them."""

from collections.abc import Callable
from typing import Any

from dropsign.cli.audit import audit
from dropsign.cli.bundle import bundle
from dropsign.cli.check import check
from dropsign.cli.demo import demo
from dropsign.cli.keygen import keygen
from dropsign.cli.logs import logs
from dropsign.cli.run import run
from dropsign.cli.service import service
from dropsign.cli.sign import sign
from dropsign.cli.status import status
from dropsign.cli.verify import verify

ALL: list[Callable[..., Any]] = [run, demo, sign, verify, bundle, status, logs, audit, check, keygen, service]
