"""nginx terminating mutual TLS before the backend of strict_backend.py: a signing service that is not dropsign's."""

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.sandbox import APP_KEY, Sandbox, free_port, wait_until

_NGINX = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 100;
    upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name localhost;
        ssl_certificate {certificate};
        ssl_certificate_key {private_key};
        ssl_client_certificate {authority};
        ssl_verify_client on;
        ssl_protocols TLSv1.2 TLSv1.3;
        client_max_body_size 64m;
        location = /api/v1/sign_file {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location / {{ return 404; }}
    }}
}}
"""


class StrictPeer:
    """The running pair, at the port where a sandbox's configuration looks for the service."""

    def __init__(self, directory: Path, nginx: str, configuration: str, port: int) -> None:
        self.log = directory / "backend.jsonl"
        self.error_log = directory / "error.log"
        self._nginx = nginx
        self._usual = configuration
        self._file = directory / "nginx.conf"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, changes: dict[str, str] | None = None) -> None:
        """Start nginx, or start it again, with some texts of its usual configuration replaced."""
        self.stop()
        text = self._usual
        for usual, other in (changes or {}).items():
            assert usual in text
            text = text.replace(usual, other)
        self._file.write_text(text)
        self._process = subprocess.Popen([self._nginx, "-c", str(self._file), "-e", str(self.error_log)])
        wait_until(lambda: _listens(self._port), what=f"nginx; {self.error_log} says why not")

    def stop(self) -> None:
        """Stop nginx at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def requests(self) -> list[dict[str, Any]]:
        """Return what the backend noted of each request."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def times_signed(self) -> Counter[str]:
        """Return how often each content, by its SHA-256, was signed."""
        return Counter(request["sha256"] for request in self.requests() if request["status"] == 200)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextmanager
def strict_peer(box: Sandbox, nginx: str) -> Iterator[StrictPeer]:
    """Run nginx and the backend instead of the embedded service."""
    box.stop_service()
    directory = box.directory / "nginx"
    directory.mkdir()
    backend_port = free_port()
    configuration = _NGINX.format(
        directory=directory,
        backend=backend_port,
        port=box.port,
        certificate=box.server.certificate,
        private_key=box.server.private_key,
        authority=box.authority.certificate,
    )
    peer = StrictPeer(directory, nginx, configuration, box.port)
    script = Path(__file__).parent / "strict_backend.py"
    arguments = [backend_port, box.signing.private_key, APP_KEY, box.secret_file, peer.log]
    backend = subprocess.Popen([sys.executable, str(script), *map(str, arguments)])
    try:
        wait_until(lambda: _listens(backend_port), what="the backend")
        peer.serve()
        yield peer
    finally:
        peer.stop()
        backend.kill()
        backend.wait()
