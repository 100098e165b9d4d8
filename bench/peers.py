"""What the benchmarks run against: nginx that demands a client certificate and answers every file the same."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.sandbox import Sandbox, wait_until

SIGNATURE = "MEUCIQ" + "Abcdefghij" * 9

_NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 10000000;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl; client_max_body_size 0;
        ssl_certificate {certificate}; ssl_certificate_key {private_key};
        ssl_client_certificate {authority}; ssl_verify_client on;
        location / {{ default_type application/json; return 200 '{answer}'; }}
    }}
}}
"""


@contextmanager
def nginx(box: Sandbox, directory: Path) -> Iterator[None]:
    """Run nginx in the signing service's place."""
    directory.mkdir()
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _NGINX.format(
            directory=directory,
            port=box.port,
            certificate=box.server.certificate,
            private_key=box.server.private_key,
            authority=box.authority.certificate,
            answer=json.dumps({"signData": SIGNATURE}),
        )
    )
    process = subprocess.Popen(["nginx", "-c", str(configuration)])
    try:
        wait_until((directory / "nginx.pid").exists, what="nginx")
        time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()
