"""The command line as tests call it, and a small log for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from stream.events import Event
from stream.files import write_events

SMALL = """
[[features]]
name = "category"
of = "item"

[stream]
partitions = 2
windows = { click = 2000 }
lateness_ms = 500

[model]
dim = 8
heads = 2
mlp = [16, 8]
short = 4
top_k = 8

[trainer]
batch_samples = 8
batch_span_ms = 2000
checkpoint_ms = 250
"""


class Ran(NamedTuple):
    """How a command ended."""

    code: object
    out: str
    err: str


Run = Callable[..., Ran]
Refused = Callable[..., str]


def told(ran: Ran) -> str:
    """The one line on standard error."""
    assert ran.code == 2
    assert ran.err.endswith("\n")
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith("instep: ")
    return ran.err.removeprefix("instep: ").rstrip("\n")


def a_log(folder: Path, events: Iterable[Event | bytes], more: str = "") -> Path:
    """A log with settings of a small model beside it; ``more`` adds to the last section."""
    write_events(folder / "events.jsonl", events)
    (folder / "instep.toml").write_text(SMALL + more)
    return folder / "events.jsonl"


def metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found
