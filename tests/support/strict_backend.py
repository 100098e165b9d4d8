"""A signing service that shares nothing with dropsign: plain http.server, es-auth checked over the whole quoted text.

    python strict_backend.py PORT SIGNING_KEY APP_KEY SECRET_FILE LOG

TLS is the business of whoever stands before it. Each request gets one JSON line in LOG.
"""

import base64
import binascii
import hashlib
import json
import re
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PATH = "/api/v1/sign_file"
WINDOW_MS = 300_000
THINKING_SECONDS = 0.02


class Backend(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int, key: Path, app_key: str, secret: str, log: Path) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        self.key = loaded
        self.app_key = app_key
        self.secret = secret
        self.log = log.open("a", buffering=1)
        self.nonces: set[str] = set()
        self.lock = threading.Lock()

    def note(self, status: int, problem: str | None, sha256: str | None) -> None:
        with self.lock:
            self.log.write(json.dumps({"status": status, "problem": problem, "sha256": sha256}) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Backend

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        problem, content = self.check(body)
        if content is None or problem is not None:
            self.server.note(400, problem, None)
            self.answer(400, {"error": problem})
            return
        time.sleep(THINKING_SECONDS)
        signature = self.server.key.sign(content, ec.ECDSA(hashes.SHA256()))
        self.server.note(200, None, hashlib.sha256(content).hexdigest())
        self.answer(200, {"signData": base64.b64encode(signature).decode()})

    def check(self, body: bytes) -> tuple[str | None, bytes | None]:
        """Return what is wrong with a request, or the content that it carries."""
        headers = self.headers
        if self.path != PATH:
            return f"path {self.path}", None
        if headers.get_all("Content-Type") != ["application/json"]:
            return "Content-Type", None
        try:
            appkey, nonce, timestamp, claimed = (
                headers[f"es-auth-{name}"] for name in ("appkey", "nonce", "timestamp", "sign")
            )
            text = body.decode("ascii")
            data = json.loads(text)["data"]
            content = base64.b64decode(data, validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            return f"form: {error}", None
        if text != f'{{"data":"{base64.b64encode(content).decode()}"}}':
            return "body is not compact, or its base64 not canonical", None
        if appkey != self.server.app_key:
            return "appkey", None
        if not re.fullmatch("[a-zA-Z0-9]{16}", nonce):
            return "nonce", None
        if not re.fullmatch("[0-9]{13}", timestamp) or abs(int(timestamp) - time.time() * 1000) > WINDOW_MS:
            return "timestamp", None
        whole = (
            f"POST{PATH}es-auth-appkey:{appkey}es-auth-nonce:{nonce}es-auth-timestamp:{timestamp}"
            f"json={text}{self.server.secret}"
        )
        quoted = urllib.parse.quote(whole, safe="", encoding="utf-8")
        if hashlib.sha256(quoted.encode("ascii")).hexdigest() != claimed:
            return "sign", None
        with self.server.lock:
            if nonce in self.server.nonces:
                return "nonce used before", None
            self.server.nonces.add(nonce)
        return None, content

    def answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


def main() -> None:
    port, key, app_key, secret_file, log = sys.argv[1:]
    secret = Path(secret_file).read_text("utf-8")
    Backend(int(port), Path(key), app_key, secret, Path(log)).serve_forever()


if __name__ == "__main__":
    main()
