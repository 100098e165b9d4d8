"""esauth.py makes exactly the signatures of protocol.md, however its text is cut into pieces."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropsign import esauth

PATH = "/api/v1/sign_file"
VECTORS = json.loads((Path(__file__).parent / "es-auth-vectors.json").read_text("utf-8"))

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def content_of(vector: dict[str, Any]) -> bytes:
    if vector["content_hex"] is not None:
        return bytes.fromhex(vector["content_hex"])
    assert vector["name"] == "100000-zero-bytes"
    return bytes(100_000)


def plainly(application: esauth.Application, nonce: str, timestamp: str, content: bytes, path: str = PATH) -> str:
    """Do as protocol.md says, word for word."""
    body = json.dumps({"data": base64.b64encode(content).decode()}, separators=(",", ":"))
    text = f"POST{path}es-auth-appkey:{application.key}es-auth-nonce:{nonce}es-auth-timestamp:{timestamp}json={body}"
    return hashlib.sha256(quote(text + application.secret, safe="").encode()).hexdigest()


def pieces(text: bytes, cuts: list[int]) -> Iterator[bytes]:
    start = 0
    for cut in sorted(cut % (len(text) + 1) for cut in cuts):
        yield text[start:cut]
        start = cut
    yield text[start:]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    """Every vector of the independent implementation is met."""
    application = esauth.Application(vector["app_key"], vector["app_secret"])
    running = esauth.RequestSigner(application, PATH).begin(vector["nonce"], vector["timestamp"])
    running.feed(base64.b64encode(content_of(vector)))
    assert running.finish() == vector["es_auth_sign"]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["body"] is not None], ids=lambda vector: vector["name"])
def test_body(vector: dict[str, Any]) -> None:
    """Head, base64 and tail make the body that is sent, of the length that is announced."""
    content = content_of(vector)
    body = esauth.BODY_HEAD + base64.b64encode(content) + esauth.BODY_TAIL
    assert body == vector["body"].encode()
    assert len(body) == esauth.body_length(len(content))


@given(st.binary(max_size=400), st.lists(st.integers(0, 600), max_size=6), TEXT, TEXT, TEXT)
def test_any_pieces(content: bytes, cuts: list[int], key: str, secret: str, path: str) -> None:
    """Fed in any pieces, with any key, secret and path, it equals the plain implementation."""
    application = esauth.Application(key, secret)
    running = esauth.RequestSigner(application, path).begin("0123456789abcdef", "1700000000000")
    for piece in pieces(base64.b64encode(content), cuts):
        running.feed(piece)
    assert running.finish() == plainly(application, "0123456789abcdef", "1700000000000", content, path)


@given(TEXT)
def test_quote(text: str) -> None:
    """Only `A-Z a-z 0-9 _ . - ~` stay as they are."""
    assert esauth.quote(text.encode()) == quote(text, safe="").encode()


@given(st.binary())
def test_quote_base64(content: bytes) -> None:
    """The fast way for base64 equals the plain one."""
    text = base64.b64encode(content)
    assert esauth.quote_base64(text) == esauth.quote(text)


def test_attempts_do_not_mix() -> None:
    """Two requests begun from one signer, fed in turns, each get their own hash."""
    application = esauth.Application("k", "s")
    signer = esauth.RequestSigner(application, PATH)
    one, two = signer.begin("a" * 16, "1"), signer.begin("b" * 16, "2")
    one.feed(base64.b64encode(b"one"))
    two.feed(base64.b64encode(b"two"))
    assert one.finish() == plainly(application, "a" * 16, "1", b"one")
    assert two.finish() == plainly(application, "b" * 16, "2", b"two")


def test_nonces() -> None:
    """A nonce is 16 characters of [a-zA-Z0-9], all of which occur, and none comes twice."""
    nonces = [esauth.new_nonce() for _ in range(2000)]
    assert all(re.fullmatch("[a-zA-Z0-9]{16}", nonce) for nonce in nonces)
    assert len(set(nonces)) == len(nonces)
    assert len(set("".join(nonces))) == 62


def test_secret_is_not_shown() -> None:
    """The secret is in no repr, so in no traceback and no log."""
    assert "hush" not in repr(esauth.Application("key", "hush"))


def test_pieces_fit_together() -> None:
    """Content is cut into pieces that need no padding before the last."""
    assert esauth.PIECE % 3 == 0
