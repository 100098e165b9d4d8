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


class WrongError(Exception):
    pass


def require(true: object, problem: str) -> None:
    if not true:
        raise WrongError(problem)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Backend

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            content = self.check(body)
        except WrongError as error:
            self.server.note(400, str(error), None)
            self.answer(400, {"error": str(error)})
            return
        time.sleep(THINKING_SECONDS)
        signature = self.server.key.sign(content, ec.ECDSA(hashes.SHA256()))
        self.server.note(200, None, hashlib.sha256(content).hexdigest())
        self.answer(200, {"signData": base64.b64encode(signature).decode()})

    def check(self, body: bytes) -> bytes:
        """Return the content that a request carries.

        Raises:
            WrongError: the request is not as the protocol has it.
        """
        headers = self.headers
        require(self.path == PATH, f"path {self.path}")
        require(headers.get_all("Content-Type") == ["application/json"], "Content-Type")
        try:
            appkey, nonce, timestamp, claimed = (
                headers[f"es-auth-{name}"] for name in ("appkey", "nonce", "timestamp", "sign")
            )
            text = body.decode("ascii")
            content = base64.b64decode(json.loads(text)["data"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise WrongError(f"form: {error}") from None
        canonical = f'{{"data":"{base64.b64encode(content).decode()}"}}'
        require(text == canonical, "body is not compact, or its base64 not canonical")
        require(appkey == self.server.app_key, "appkey")
        require(re.fullmatch("[a-zA-Z0-9]{16}", nonce), "nonce")
        require(re.fullmatch("[0-9]{13}", timestamp), "timestamp")
        require(abs(int(timestamp) - time.time() * 1000) <= WINDOW_MS, "timestamp")
        whole = (
            f"POST{PATH}es-auth-appkey:{appkey}es-auth-nonce:{nonce}es-auth-timestamp:{timestamp}"
            f"json={text}{self.server.secret}"
        )
        quoted = urllib.parse.quote(whole, safe="", encoding="utf-8")
        require(hashlib.sha256(quoted.encode("ascii")).hexdigest() == claimed, "sign")
        with self.server.lock:
            require(nonce not in self.server.nonces, "nonce used before")
            self.server.nonces.add(nonce)
        return content

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
