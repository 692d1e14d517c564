"""Numba's ``njit`` with a type: a compiled function keeps its signature for mypy and its code on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def njit(function: F) -> F:
    """Compile without the GIL. No fastmath, no threads: a result is the same bits everywhere."""
    return compiled(function)


def compiled(function: F, **options: Any) -> F:
    """``numba.njit`` with these options besides, cached where an edit of any kernel makes a new start.

    Numba looks only at the file that a function stands in, and would go on using what it had inlined from others.
    """
    settings: Any = numba.config
    before, settings.CACHE_DIR = settings.CACHE_DIR, _CACHE or settings.CACHE_DIR
    try:
        decorate: Any = numba.njit(cache=True, nogil=True, **options)
        return cast(F, decorate(function))
    finally:
        settings.CACHE_DIR = before


def _cache_folder() -> str:
    """A folder named for the state of this package's sources: beside them, else where NUMBA_CACHE_DIR says, else ""."""
    here = Path(__file__).parent
    state = blake2b(digest_size=8)
    for path in sorted(here.rglob("*.py")):
        state.update(path.read_bytes())
    settings: Any = numba.config
    folder = here / "__pycache__" if os.access(here, os.W_OK) else settings.CACHE_DIR
    return str(Path(folder, f"jit-{state.hexdigest()}")) if folder else ""


_CACHE = _cache_folder()
