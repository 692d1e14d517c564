"""Plain values as TOML: what a command writes for people to read, and to change."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def to_toml(values: Mapping[str, Any]) -> str:
    """A table of strings, numbers, booleans, lists and tables as TOML, which `tomllib` reads back as it was.

    >>> print(to_toml({"name": "a", "parts": [{"of": "item"}], "stream": {"lateness_ms": 0, "windows": {"click": 5}}}))
    name = "a"
    <BLANKLINE>
    [[parts]]
    of = "item"
    <BLANKLINE>
    [stream]
    lateness_ms = 0
    <BLANKLINE>
    [stream.windows]
    click = 5
    <BLANKLINE>
    """
    return "\n".join(_table(values, "")).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], path: str) -> list[str]:
    """Its lines: what is no table first, since all that follows the head of a table belongs to that."""
    lines = [f"{_key(k)} = {_value(v)}" for k, v in values.items() if not _has_heads(v)]
    for key, value in values.items():
        name = f"{path}{_key(key)}"
        if not _has_heads(value):
            continue
        if isinstance(value, Mapping):
            # A table of tables alone needs no head, one of nothing does.
            if not value or any(not _has_heads(v) for v in value.values()):
                lines += ["", f"[{name}]"]
            lines += _table(value, f"{name}.")
        else:
            for one in value:
                lines += ["", f"[[{name}]]", *_table(one, f"{name}.")]
    return lines


def _has_heads(value: Any) -> bool:
    """Whether it is written under a head: a table, or a list of nothing but tables."""
    is_list = isinstance(value, list | tuple) and bool(value)
    return isinstance(value, Mapping) or (is_list and all(isinstance(v, Mapping) for v in value))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    raise TypeError(f"expected what TOML has, got {type(value).__name__}")


def _text(value: str) -> str:
    """What JSON escapes, TOML reads; besides, it wants DEL escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
