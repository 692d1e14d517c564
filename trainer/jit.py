"""Numba's ``njit`` with a type: a compiled function keeps its signature for mypy and its code on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def njit(function: F) -> F:
    """Compile without the GIL. No fastmath, no threads: a result is the same bits everywhere."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
