"""Log lines, as text and as JSON."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from io import StringIO

import pytest

from stream.logs import configure


@pytest.fixture
def out() -> Iterator[StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield StringIO()
    root.handlers[:], root.level = handlers, level


def test_text_is_a_sentence_then_its_values(out: StringIO) -> None:
    configure(to=out)
    logging.getLogger("stream.x").info("state read back partition=%d n_users=%d", 3, 7)
    logging.getLogger("stream.x").debug("not shown")
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO stream\.x state read back partition=3 n_users=7\n"
    assert re.fullmatch(line, out.getvalue())


def test_json_has_the_values_under_their_keys_with_their_types(out: StringIO) -> None:
    configure(as_json=True, to=out)
    log = logging.getLogger("stream.x")
    log.warning("not available wait_s=%g error=%s is_new=%s", 1.5, ValueError('no "answer" a=b'), True)
    log.info("of a library: 100%% of %s", "it")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.exception("ended")
    first, second, third = map(json.loads, out.getvalue().splitlines())
    assert {k: v for k, v in first.items() if k != "at"} == {
        "level": "warning",
        "logger": "stream.x",
        "message": "not available",
        "wait_s": 1.5,
        "error": 'no "answer" a=b',
        "is_new": True,
    }
    assert second["message"] == "of a library: 100% of it"
    assert third["traceback"].endswith("RuntimeError: broken")
