"""The status page: one HTML document with its style and script inside, and the policy that lets only those two run."""

import base64
import hashlib
from importlib.resources import files
from typing import Final


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline style or script (CSP level 3, hash-source)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE: Final = _read("page.css")
_SCRIPT: Final = _read("page.js")

HTML: Final = _read("page.html").replace("/* style */", _STYLE).replace("/* script */", _SCRIPT).encode()
"""The whole page, UTF-8."""

POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"style-src {_source(_STYLE)}",
        f"script-src {_source(_SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",  # the icon in the browser's tab, which shows the gate's state
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Its Content-Security-Policy."""
