"""Fixtures of the tests of the stream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stream import history


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    """So that histories of a few behaviours have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "BLOCK", 2)
        yield
