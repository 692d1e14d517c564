"""Interest units: how a behaviour sequence becomes a vector for a candidate.

All share the network around them (``ctr.py``), the attention over the short part, and the features that say how many
behaviours were near, so that what differs is what is read of the long part:

=========  ==================================================================================================
eta        target attention over the k nearest by Hamming distance of SimHash codes (ETA, arXiv 2108.04468)
exact      the same over the k with the largest inner product
category   the same over the k most recent of the candidate's category (SIM(hard), arXiv 2006.05639)
full       target attention over all of it
short      nothing: the short part alone
average    mean of all behaviours, short and long, no attention (Covington et al. 2016, section 3.2)
=========  ==================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import cos, pi
from typing import Literal

from trainer.batch import Batch
from trainer.model.inputs import Finder, Located, Rows, Search
from trainer.model.search import category_top_k, hamming_top_k, inner_top_k
from trainer.model.simhash import item_codes

RADII = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)
"""Distances within which behaviours are counted, as parts of all bits; for vectors, the angle that they mean."""


@dataclass(frozen=True)
class Unit:
    """What a unit searches with and reads of the long part."""

    search: Search | None
    reads: Literal["nothing", "picked", "all"]
    attends: bool = True
    n_counts: int = len(RADII)


def hamming(table: Rows, batch: Batch, at: Located, young: bool, n_coded: int) -> Finder:
    """The k behaviours whose codes differ from the candidate's in the fewest bits."""
    fields = _compared(young, n_coded)
    queries = item_codes(table.codes, at.items[:, fields])
    keys = item_codes(table.codes, at.sequence[:, fields])
    radii = tuple(round(r * queries.shape[1] * 64) for r in RADII)
    return lambda start, stop, k: hamming_top_k(queries, keys, batch.first, start, stop, k, radii=radii)


def inner(table: Rows, batch: Batch, at: Located, young: bool, n_coded: int) -> Finder:
    """The k behaviours with the largest inner product of the same fields' vectors."""
    fields = _compared(young, n_coded)
    queries = table.rows[at.items[:, fields]].reshape(len(at.items), -1)
    keys = table.rows[at.sequence[:, fields]].reshape(-1, queries.shape[1])
    radii = tuple(cos(pi * r) for r in RADII)
    return lambda start, stop, k: inner_top_k(queries, keys, batch.first, start, stop, k, radii=radii)


def category(table: Rows, batch: Batch, at: Located, young: bool) -> Finder:
    """The k most recent behaviours in the candidate's category, the first item feature."""
    queries, keys = batch.items[:, 1], batch.sequence[:, 1]
    known = keys != 0  # two items without a category have nothing in common
    return lambda start, stop, k: category_top_k(queries, keys, batch.first, start, stop, k, mask=known)


def _compared(young: bool, n_coded: int) -> slice:
    """The item fields that a search compares: all that have codes, and of a young model all but the id.

    Until the network can tell behaviours apart, an id's vector is noise, and what it finds by it is what its gradient
    pulls it to: a bad beginning teaches itself (docs/log.md). Categories are few and learned at once.
    """
    return slice(1 if young and n_coded > 1 else 0, n_coded)


def make_unit(name: str, n_coded: int) -> Unit:
    """The unit of that name; ``n_coded`` item fields have codes.

    Raises
    ------
    ValueError
        If there is none.
    """
    by_code: Search = partial(hamming, n_coded=n_coded)
    by_vector: Search = partial(inner, n_coded=n_coded)
    units = {
        "eta": Unit(by_code, "picked"),
        "exact": Unit(by_vector, "picked"),
        "category": Unit(category, "picked", n_counts=1),
        "full": Unit(by_vector, "all"),
        "short": Unit(by_vector, "nothing"),
        "average": Unit(None, "all", attends=False, n_counts=0),
    }
    if name not in units:
        raise ValueError(f"model: expected one of {', '.join(units)}, got {name!r}")
    return units[name]


UNITS = ("eta", "exact", "category", "full", "short", "average")
