"""The files of the page: what they are called, what is in them, and what they are when packed.

>>> asset("base.js")[:12]
'"use strict"'
>>> file = files()["base.css"]
>>> file.media_type, len(file.tag)
('text/css; charset=utf-8', 16)
"""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
ENGINE = "echarts.min.js"
STYLES = ("base.css", "page.css")
SCRIPTS = ("base.js", "words.js", "source.js", "charts.js", "figures.js", "lists.js", "strip.js", "page.js")
"""In the order in which they are to be run."""
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True)
class Asset:
    """One file as it is sent."""

    media_type: str
    tag: str
    """Of its bytes: other bytes, another tag."""
    raw: bytes
    packed: bytes
    """The same with gzip."""


def asset(name: str) -> str:
    """Text of a file of the page, or of the engine of its charts."""
    folder = "vendor" if name == ENGINE else "page"
    return (FOLDER / folder / name).read_text(encoding="utf-8")


@cache
def files() -> dict[str, Asset]:
    """Styles, scripts and engine by name."""
    found = {}
    for name in (*STYLES, *SCRIPTS, ENGINE):
        raw = asset(name).encode()
        # the same bytes on every machine: no time, no name in them
        found[name] = Asset(TYPES[Path(name).suffix], tag_of(raw), raw, gzip.compress(raw, 6, mtime=0))
    return found


def tag_of(raw: bytes) -> str:
    """Sixteen characters that other bytes do not have."""
    return hashlib.sha256(raw).hexdigest()[:16]


def inside_script(raw: bytes) -> str:
    """JSON as it may stand inside a script element: nothing in it ends one.

    >>> inside_script(b'["</script>"]')
    '["\\\\u003c/script\\\\u003e"]'
    """
    return re.sub(r"[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", raw.decode())
