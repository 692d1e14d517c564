"""Where compiled code is kept."""

from __future__ import annotations

import os
from pathlib import Path

import numba
import pytest

from trainer import jit


def test_code_is_kept_beside_the_sources_else_where_numba_is_told_else_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beside = Path(jit._cache_folder())
    assert beside.parent.parent == Path(jit.__file__).parent
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert Path(jit._cache_folder()) == tmp_path / beside.name
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert jit._cache_folder() == ""
