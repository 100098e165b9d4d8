"""What is wrong in the demo's outbox, if anything: every signature verified, nothing sent twice, nothing left over."""

import hashlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pybase64

from dropsign.embedded.demo_files import DemoFile
from dropsign.embedded.demo_site import Site
from dropsign.verifier import Verifier

SCHEME: Final = "ecdsa-sha256"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one file."""

    name: bytes
    what: str


class Verification:
    """Looks at the files of one installation, with the service's public key."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._verifier = Verifier.load(site.public_key, SCHEME)

    def problem(self, file: DemoFile) -> Problem | None:
        """Say what is wrong with a file's signature, if anything."""
        try:
            text = file.sign_at(self._site.outbox).read_bytes()
        except FileNotFoundError:
            return Problem(file.name, "has no signature")
        with file.at(self._site.outbox).open("rb") as opened:
            fits = self._verifier.verify_file(opened, text)
        return None if fits else Problem(file.name, "has a signature that does not fit it")

    def not_withdrawn(self, changed: Sequence[DemoFile]) -> Iterator[Problem]:
        """Find files that were changed and kept their old signature until the new one came."""
        withdrawn = self._site.withdrawn()
        for file in changed:
            if file.name not in withdrawn:
                yield Problem(file.name, "was changed, but its stale signature was not withdrawn")

    def sent_twice(self, files: Sequence[DemoFile]) -> Iterator[Problem]:
        """Find contents that the service has signed more than once; a touched file's above all."""
        counts = Counter(self._site.signed_digests())
        twice = {digest for digest, count in counts.items() if count > 1}
        for file in files if twice else ():
            with file.at(self._site.outbox).open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if digest in twice:
                yield Problem(file.name, f"was sent {counts[digest]} times, though its content was the same")

    def left_over(self, files: Sequence[DemoFile]) -> Iterator[Problem]:
        """Find what lies in the outbox and should not."""
        outbox = self._site.outbox
        expected = {path for file in files for path in (file.at(outbox), file.sign_at(outbox))}
        for path in outbox.rglob("*"):
            if path not in expected and not path.is_dir():
                yield Problem(os.fsencode(path.relative_to(outbox)), "is neither a file dropped nor its .sign")

    def openssl_accepts(self, file: DemoFile) -> bool | None:
        """Tell whether the openssl command line accepts a file's signature; None where there is none to ask."""
        openssl = shutil.which("openssl")
        if openssl is None:
            return None
        arguments = ["dgst", "-sha256", "-verify", str(self._site.public_key), "-signature", "/dev/stdin"]
        told = subprocess.run(  # noqa: S603 - a signature of our own that openssl is to judge
            [openssl, *arguments, file.at(self._site.outbox)],
            input=pybase64.b64decode(file.sign_at(self._site.outbox).read_bytes()),
            capture_output=True,
            check=False,
        )
        return told.returncode == 0
