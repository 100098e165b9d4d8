"""Baseline A, the script that people write first: everything read up front, quoted whole, gathered at once.

Usage: baseline_a.py URL AUTHORITY CERTIFICATE KEY DIRECTORY; prints the seconds it took.
"""

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import quote

import aiohttp

PATH = "/api/v1/sign_file"


async def sign(session: aiohttp.ClientSession, url: str, content: bytes) -> str:
    """Have one file signed."""
    body = json.dumps({"data": base64.b64encode(content).decode()}, separators=(",", ":"))
    nonce, timestamp = secrets.token_hex(8), str(int(time.time() * 1000))
    text = f"POST{PATH}es-auth-appkey:kes-auth-nonce:{nonce}es-auth-timestamp:{timestamp}json={body}s"
    headers = {
        "Content-Type": "application/json",
        "es-auth-appkey": "k",
        "es-auth-nonce": nonce,
        "es-auth-timestamp": timestamp,
        "es-auth-sign": hashlib.sha256(quote(text, safe="").encode()).hexdigest(),
    }
    async with session.post(url + PATH, data=body, headers=headers) as response:
        answer = await response.json()
        return str(answer["signData"])


def read_all(directory: Path) -> list[tuple[Path, bytes]]:
    """Read everything up front, as such scripts do."""
    return [(path, path.read_bytes()) for path in sorted(directory.iterdir())]


async def main(url: str, authority: str, certificate: str, key: str, directory: str) -> None:
    """Sign a directory."""
    started = time.monotonic()
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    files = read_all(Path(directory))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        signatures = await asyncio.gather(*(sign(session, url, content) for _, content in files))
    for (path, _), signature in zip(files, signatures, strict=True):
        path.with_name(path.name + ".sign").write_text(signature)
    print(time.monotonic() - started)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
