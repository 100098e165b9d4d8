"""`dropsign check` finds what would keep the daemon from its work, all of it at once, each with its remedy."""

import base64
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dropsign.embedded.authority import Authority, Issued
from dropsign.preflight import Finding, Level, examine, exit_code
from dropsign.preflight.directories import is_deaf, mounted_at, names
from dropsign.preflight.inotify import QUEUED_EVENTS, limits


@dataclass
class Site:
    """A machine with everything in order, for tests to put something out of it."""

    directory: Path
    authority: Authority
    client: Issued

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    @property
    def outbox(self) -> Path:
        return self.directory / "outbox"

    def write(self, **changes: str) -> None:
        """Write the configuration; `section__key="value"` sets a key."""
        signing = self.authority.signing_key()
        keys = {
            "outbox__path": str(self.outbox),
            "service__url": "https://localhost:1",
            "service__app_key": "rehearsal",
            "service__app_secret_file": str(self.directory / "secret"),
            "tls__certificate": str(self.client.certificate),
            "tls__private_key": str(self.client.private_key),
            "tls__authority": str(self.authority.certificate),
            "verify__key": str(signing.public_key),
            "journal__path": str(self.directory / "state" / "journal.sqlite3"),
            "http__socket": str(self.directory / "control.sock"),
        } | changes
        lines: list[str] = []
        for section in dict.fromkeys(key.partition("__")[0] for key in keys):
            lines.append(f"[{section}]")
            prefix = f"{section}__"
            lines += [f"{k.removeprefix(prefix)} = {json.dumps(v)}" for k, v in keys.items() if k.startswith(prefix)]
        self.config.write_text("\n".join(lines), "utf-8")

    def check(self, *, probe: bool = False) -> list[Finding]:
        return list(examine(self.config, {}, probe=probe))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    authority = Authority(tmp_path / "authority")
    made = Site(tmp_path, authority, authority.issue("client", days=90))
    made.outbox.mkdir()
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "secret").chmod(0o600)
    made.write()
    return made


def bad(findings: list[Finding], level: Level = Level.FAIL) -> dict[str, str]:
    return {f.subject: f"{f.message}; {f.remedy}" for f in findings if f.level is level}


def test_all_is_well(site: Site) -> None:
    """With everything in order nothing fails, nothing is left behind, and every line has a subject and a message."""
    findings = site.check()
    assert bad(findings) == {}
    assert exit_code(findings) == 0
    assert all(finding.subject and finding.message for finding in findings)
    assert {"configuration", "tls.private_key", "outbox.path", "journal.path"} <= {f.subject for f in findings}
    assert list(site.outbox.iterdir()) == []
    assert not (site.directory / "state").exists()


def test_every_warning_has_a_remedy(site: Site) -> None:
    """Nobody is told of a trouble without being told what to do."""
    site.write(http__socket="/nonexistent/control.sock", verify__key="", tls__private_key="/nonexistent")
    findings = site.check()
    assert all(finding.remedy for finding in findings if finding.level is not Level.OK)
    assert {"http.socket", "verify.key"} <= set(bad(findings, Level.WARN))


def test_it_goes_on_after_a_failure(site: Site) -> None:
    """Faults of different kinds are found in one run."""
    site.outbox.rmdir()
    (site.directory / "secret").chmod(0o644)
    site.write(tls__authority="/nonexistent/authority.pem", http__socket=f"/{'x' * 120}")
    found = bad(site.check())
    assert {"outbox.path", "service.app_secret_file", "tls.authority", "http.socket"} == set(found)
    assert "chmod 600" in found["service.app_secret_file"]


def test_all_mistakes_of_the_configuration(site: Site) -> None:
    """A configuration that does not load is one failure for each mistake in it."""
    site.config.write_text('[outbox]\npath = 3\n[service]\nurl = "http://x"\nno_such_key = 1\n')
    findings = site.check()
    assert [finding.level for finding in findings] == [Level.FAIL] * 3
    assert exit_code(findings) == 2


def a_key_of_another(site: Site) -> None:
    site.write(tls__private_key=str(site.authority.issue("other").private_key))


def an_open_key(site: Site) -> None:
    site.client.private_key.chmod(0o644)


def an_expired_certificate(site: Site) -> None:
    site.authority.issue("client", days=-1)


def a_certificate_of_tomorrow(site: Site) -> None:
    site.authority.issue("client", starts_in_days=1)


def a_certificate_for_servers(site: Site) -> None:
    site.authority.issue("client", server=True, days=90)


def a_chain_in_disorder(site: Site) -> None:
    with site.client.certificate.open("ab") as file:
        file.write(site.authority.issue("stranger").certificate.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "subject", "says"),
    [
        (a_key_of_another, "tls.private_key", "does not belong to"),
        (an_open_key, "tls.private_key", "can be read by everyone"),
        (an_expired_certificate, "tls.certificate", "expired"),
        (a_certificate_of_tomorrow, "tls.certificate", "is not valid before"),
        (a_certificate_for_servers, "tls.certificate", "is not for TLS clients"),
        (a_chain_in_disorder, "tls.certificate", "was not issued by"),
    ],
)
def test_credentials(site: Site, spoil: Callable[[Site], None], subject: str, says: str) -> None:
    """Each thing that a service would refuse us for is found before it does, and said once."""
    spoil(site)
    findings = site.check()
    assert [f.subject for f in findings if f.level is Level.FAIL] == [subject]
    assert says in bad(findings)[subject]
    assert exit_code(findings) == 2


def test_a_certificate_near_its_end(site: Site) -> None:
    """A certificate that ends within a month is warned of, and nothing fails yet."""
    site.authority.issue("client", days=3)
    findings = site.check()
    assert "expires on" in bad(findings, Level.WARN)["tls.certificate"]
    assert exit_code(findings) == 0


def test_intermediates(site: Site) -> None:
    """A chain in good order is fine."""
    issued = site.authority.intermediate("below").issue("client", days=90)
    site.write(tls__certificate=str(issued.certificate), tls__private_key=str(issued.private_key))
    findings = site.check()
    assert bad(findings) == {}
    assert any("1 intermediate" in finding.message for finding in findings)


def test_a_closed_directory(site: Site) -> None:
    """A directory that the user may not write is a failure; root, who may do anything, is warned of being root."""
    site.outbox.chmod(0o500)
    found = site.check()
    if os.geteuid() == 0:
        assert "user" in bad(found, Level.WARN)
    else:
        assert "writable" in bad(found)["outbox.path"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/srv/drop", "nfs4"),
        (b"/srv/drop/a/b", "nfs4"),
        (b"/srv/drops", "ext4"),
        (b"/with space/x", "fuse.sshfs"),
        (b"/over", "tmpfs"),
        (b"/", "ext4"),
    ],
)
def test_which_file_system(path: bytes, kind: str) -> None:
    """The longest mount point above a path counts, of two on the same point the later one."""
    mountinfo = (
        b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        b"30 22 0:40 / /srv/drop rw master:2 - nfs4 server:/drop rw\n"
        rb"31 22 0:41 / /with\040space rw - fuse.sshfs host:/ rw"
        b"\n32 22 0:42 / /over rw - ext4 /dev/sdb rw\n33 32 0:43 / /over rw - tmpfs tmpfs rw\n"
    )
    assert mounted_at(mountinfo, path) == kind


def test_which_are_deaf() -> None:
    """Network, fuse and overlay file systems hide what others change; local ones do not."""
    assert all(map(is_deaf, ("nfs", "nfs4", "cifs", "overlay", "fuse", "fuse.sshfs")))
    assert not any(map(is_deaf, ("ext4", "xfs", "btrfs", "tmpfs", "fuseblk")))


def test_limits_against_the_tree() -> None:
    """Half of the watches may be needed, no more; the remedy is a sysctl line with a value that suffices."""
    assert [f.level for f in limits(100, 200, QUEUED_EVENTS)] == [Level.OK, Level.OK]
    watches, queue = limits(50_000, 65_536, 16_384)
    assert (watches.level, queue.level) == (Level.WARN, Level.WARN)
    assert "max_user_watches=200000" in watches.remedy
    assert f"max_queued_events={QUEUED_EVENTS}" in queue.remedy


def test_the_tree_is_counted(site: Site) -> None:
    """Sub-directories count as far as the filters enter them."""
    (site.outbox / "a" / "b").mkdir(parents=True)
    (site.outbox / ".hidden" / "c").mkdir(parents=True)
    (site.outbox / "link").symlink_to("/usr")
    assert any("for 3 directories" in f.message for f in site.check() if f.subject == "inotify watches")


@contextmanager
def service(site: Site, *, status: int = 200, seconds_ahead: float = 0, sign_with: str = "signing") -> Iterator[None]:
    """Serve what a signing service answers, over mutual TLS."""
    key = load_pem_private_key(site.authority.signing_key(sign_with).private_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issued = site.authority.issue("server", server=True)

    def sign(content: bytes) -> str:
        return base64.b64encode(key.sign(content, ec.ECDSA(hashes.SHA256()))).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps({"signData": sign(base64.b64decode(body["data"]))}).encode()
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + seconds_ahead, usegmt=True))
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.private_key)
    context.load_verify_locations(site.authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            site.write(service__url=f"https://localhost:{server.server_port}")
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_probe(site: Site) -> None:
    """The probe shakes hands, gets a signature, verifies it and compares the clocks."""
    with service(site):
        findings = site.check(probe=True)
    assert bad(findings) == {}
    said = [f"{finding.subject}: {finding.message}" for finding in findings]
    assert any("TLSv1.3 with localhost" in line for line in said)
    assert any("a signature of" in line for line in said)
    assert "verify.key: the service's signature verifies with it" in said
    assert any(line.startswith("clock: ") for line in said)


def test_a_probe_of_nothing(site: Site) -> None:
    """Where nobody answers, and all else is in order, the exit code is 3."""
    findings = site.check(probe=True)
    assert list(bad(findings)) == ["service.url"]
    assert exit_code(findings) == 3


def test_a_probe_that_is_refused(site: Site) -> None:
    """A service that refuses our credentials can be reached: exit code 2."""
    with service(site, status=401):
        findings = site.check(probe=True)
    assert "app_secret" in bad(findings)["service.url"]
    assert exit_code(findings) == 2


def test_a_probe_of_a_stranger(site: Site) -> None:
    """A service whose certificate is another authority's is not trusted."""
    with service(site):
        url = next(line for line in site.config.read_text().splitlines() if line.startswith("url"))
        stranger = Authority(site.directory / "stranger").certificate
        site.write(service__url=url.partition('"')[2].rstrip('"'), tls__authority=str(stranger))
        findings = site.check(probe=True)
    assert "tls.authority" in bad(findings)["service.url"]
    assert exit_code(findings) == 2


def test_a_probe_signed_with_another_key(site: Site) -> None:
    """A signature that verify.key does not fit would keep every file from being signed."""
    with service(site, sign_with="other"):
        assert "does not verify" in bad(site.check(probe=True))["verify.key"]


@pytest.mark.parametrize(("ahead", "level"), [(30, Level.WARN), (-600, Level.FAIL)])
def test_clock_skew(site: Site, ahead: float, level: Level) -> None:
    """The service takes no request that is off by minutes, so its clock is compared with ours."""
    with service(site, seconds_ahead=ahead):
        assert "timedatectl" in bad(site.check(probe=True), level)["clock"]


def dropsign(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dropsign", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_lines_for_people(site: Site) -> None:
    """Each line begins with its level, and ends with its remedy."""
    site.client.private_key.chmod(0o644)
    done = dropsign("--config", site.config, "check")
    assert done.returncode == 2
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(line.startswith(("OK   ", "WARN ", "FAIL ")) for line in lines)
    assert [line for line in lines if line.startswith("FAIL tls.private_key: ") and "chmod 600" in line]


def test_json_for_programs(site: Site) -> None:
    """`--json` prints one object with the exit code and all findings."""
    done = dropsign("--config", site.config, "check", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["exit_code"]) == (0, 0)
    assert {tuple(finding) for finding in answer["findings"]} == {
        ("level", "subject", "message", "remedy", "unreachable")
    }


def test_no_configuration(tmp_path: Path) -> None:
    """Without a configuration there is one clear line."""
    done = dropsign("--config", tmp_path / "none.toml", "check")
    assert done.returncode == 2
    assert done.stdout.startswith(f"FAIL {tmp_path / 'none.toml'}: there is no such file")


def test_file_system_with_short_names() -> None:
    """Where names may have fewer than 255 bytes (eCryptfs: 143), the longest that a drop may have is named."""
    assert names(255).level is Level.OK
    short = names(143)
    assert (short.level, "138 bytes" in short.remedy) == (Level.WARN, True)
