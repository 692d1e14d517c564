"""The searches by name: what each compares, and within which distances near behaviours are counted.

=========  ==================================================================================================
hamming    the k nearest by Hamming distance of SimHash codes (ETA, arXiv 2108.04468)
inner      the k with the largest inner product of the same fields' vectors
category   the k most recent of the candidate's category (SIM(hard), arXiv 2006.05639)
recent     the k most recent, whatever the candidate
none       no search: all of them
attention  the unit's own way: the largest weights in its attention (TWIN), or in that of a model beside it (SIM(soft))
=========  ==================================================================================================
"""

from __future__ import annotations

from functools import partial
from math import cos, pi
from typing import Literal, Protocol, runtime_checkable

from trainer.batch import Batch
from trainer.model.inputs import Finder, Located, Rows, Search, compared
from trainer.model.search import category_top_k, hamming_top_k, inner_top_k
from trainer.model.simhash import item_codes

SearchName = Literal["hamming", "inner", "category", "recent", "none", "attention"]

RADII = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)
"""Distances within which behaviours are counted, as parts of all bits; for vectors, the angle that they mean."""

N_COUNTS = {"hamming": len(RADII), "inner": len(RADII), "category": 1}
"""How many counts of near behaviours a search gives."""


@runtime_checkable
class Searching(Protocol):
    """A unit that finds behaviours itself."""

    def search(self, table: Rows, batch: Batch, at: Located, young: bool) -> Finder: ...


def make_search(name: str, n_coded: int, dim: int | None = None) -> Search:
    """The search of that name, over ``n_coded`` item fields; ``dim`` of each row are the network's, None for all.

    Raises
    ------
    KeyError
        For another name.
    """
    searches: dict[str, Search] = {
        "hamming": partial(hamming, n_coded=n_coded),
        "inner": partial(inner, n_coded=n_coded, dim=dim),
        "category": category,
    }
    return searches[name]


def hamming(table: Rows, batch: Batch, at: Located, young: bool, n_coded: int) -> Finder:
    """The k behaviours whose codes differ from the candidate's in the fewest bits."""
    fields = compared(young, n_coded)
    queries = item_codes(table.codes, at.items[:, fields])
    keys = item_codes(table.codes, at.sequence[:, fields])
    radii = tuple(round(r * queries.shape[1] * 64) for r in RADII)
    return lambda start, stop, k: hamming_top_k(queries, keys, batch.first, start, stop, k, radii=radii)


def inner(
    table: Rows, batch: Batch, at: Located, young: bool, n_coded: int, dim: int | None = None
) -> Finder:
    """The k behaviours with the largest inner product of the same fields' vectors."""
    fields = compared(young, n_coded)
    queries = table.rows[at.items[:, fields]][:, :, :dim].reshape(len(at.items), -1)
    keys = table.rows[at.sequence[:, fields]][:, :, :dim].reshape(-1, queries.shape[1])
    radii = tuple(cos(pi * r) for r in RADII)
    return lambda start, stop, k: inner_top_k(queries, keys, batch.first, start, stop, k, radii=radii)


def category(table: Rows, batch: Batch, at: Located, young: bool) -> Finder:
    """The k most recent behaviours in the candidate's category, the first item feature."""
    queries, keys = batch.items[:, 1], batch.sequence[:, 1]
    known = keys != 0  # two items without a category have nothing in common
    return lambda start, stop, k: category_top_k(queries, keys, batch.first, start, stop, k, mask=known)
