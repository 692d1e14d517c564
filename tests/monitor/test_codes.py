"""Codes: what a publication does to rows and bits, how bits are spread, and the search by codes beside the exact."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.codes import Codes, CodesWindow
from monitor.keys import levels
from monitor.sampled import MOST_BEHAVIOURS, Searched, draw_least, keep_least
from monitor.tally import Tally
from stream.events import Sample, Version, key_of
from tests.monitor.messages import DIM, PLANES, item_keys, make, publication
from trainer.model.simhash import encode, hamming

Vectors = NDArray[np.float32]
RNG = np.random.default_rng(0)
ROWS = np.arange(205)
"""Five categories and 200 items."""
VECTORS = RNG.normal(size=(205, DIM)).astype(np.float32)


def held(vectors: Vectors = VECTORS) -> Codes:
    codes = Codes(PLANES)
    codes.apply(publication(Version(0, 1), 1_000, ROWS, vectors, first=True), Tally())
    return codes


def after(codes: Codes, vectors: Vectors) -> CodesWindow:
    """The window of one publication."""
    window = CodesWindow()
    codes.apply(publication(Version(0, 2), 2_000, ROWS, vectors), window.tally)
    return window


def both_codes(vectors: Vectors) -> NDArray[np.uint64]:
    fields = (ROWS < 5).astype(int)
    return np.concatenate([encode(v[None], PLANES[f]) for v, f in zip(vectors, fields, strict=True)])


def test_what_a_publication_changes() -> None:
    moved = (VECTORS + RNG.normal(0, 0.2, VECTORS.shape)).astype(np.float32)
    values = after(held(), moved).values(60_000)
    norms = np.linalg.norm(VECTORS, axis=1)
    assert values["codes.rows"].value == pytest.approx(205 / 60)
    assert values["codes.row_norm"].value == pytest.approx(np.linalg.norm(moved, axis=1).mean(), rel=1e-4)
    change = np.linalg.norm(moved - VECTORS, axis=1) / norms
    assert values["codes.update_norm"].value == pytest.approx(change.mean(), rel=1e-4)
    flipped = hamming(both_codes(VECTORS), both_codes(moved)) / 32
    assert values["codes.flipped"].value == pytest.approx(flipped.mean(), rel=1e-4)
    assert values["codes.flipped"].error == pytest.approx(flipped.std(ddof=1) / np.sqrt(205), rel=1e-2)
    cosine = (moved * VECTORS).sum(1) / norms / np.linalg.norm(moved, axis=1)
    true = np.degrees(np.arccos(cosine)).mean()
    assert values["codes.angle"].value == pytest.approx(true, rel=0.1)


def test_embeddings_that_are_rotated_flip_half_of_the_bits_and_keep_their_norm() -> None:
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(DIM, DIM)))[0]
    codes = held()
    values = after(codes, (VECTORS @ rotation).astype(np.float32)).values(60_000)
    still = after(held(), VECTORS).values(60_000)
    assert (still["codes.flipped"].value, still["codes.angle"].value) == (0, 0)
    assert values["codes.angle"].value is not None
    assert values["codes.angle"].value > 40
    assert values["codes.row_norm"].value == pytest.approx(still["codes.row_norm"].value, rel=1e-4)


def test_bits_that_are_constant_and_codes_that_are_one() -> None:
    spread = held().look()
    bits = np.unpackbits(both_codes(VECTORS)[5:].view(np.uint8), axis=1, bitorder="little")[:, :32]
    assert spread["codes.balance"].value == pytest.approx(np.abs(bits.mean(0) - 0.5).mean())
    _, n = np.unique(both_codes(VECTORS)[5:, 0] & np.uint64(0xFFFF), return_counts=True)
    assert spread["codes.bucket_entropy"].value == pytest.approx(-(n / 200 * np.log2(n / 200)).sum())
    collapsed = held(np.tile(VECTORS[:1], (205, 1))).look()
    assert (collapsed["codes.balance"].value, collapsed["codes.bucket_entropy"].value) == (0.5, 0)
    assert Codes(PLANES).look()["codes.balance"].value is None


def slate(n_behaviours: int = 100, seed: int = 0) -> Searched:
    rng = np.random.default_rng(seed)
    items, sequence = item_keys(rng.integers(0, 200, 6)), item_keys(rng.integers(0, 200, n_behaviours))
    return Searched(b"", items.tobytes(), sequence.tobytes())


def overlap(codes: Codes, k: int, *slates: Searched) -> tuple[float | None, int]:
    window = CodesWindow()
    codes.search(slates, 2, k, window.tally)
    value = window.values(60_000)["codes.overlap"]
    return value.value, value.n


def test_the_overlap_is_that_of_brute_force() -> None:
    k, own = 10, slate()
    items, sequence = own.keys(2)
    place = {int(key): i for i, key in enumerate([key_of("category", str(r)) for r in range(5)])}
    place |= {key_of("item", str(i)): i + 5 for i in range(200)}
    codes = both_codes(VECTORS)
    queries, keys = ([[place[int(k)] for k in row] for row in of.tolist()] for of in (items, sequence))
    shares = []
    for q in queries:
        far = [int(hamming(codes[q[0]] | codes[q[1]], codes[a] | codes[b])) for a, b in keys]
        near = [float(VECTORS[q[0]] @ VECTORS[a] + VECTORS[q[1]] @ VECTORS[b]) for a, b in keys]
        latest = np.arange(len(keys))[::-1]  # ties to the most recent
        found = set(np.lexsort((latest, np.array(far)))[:k].tolist())
        exact = set(np.lexsort((latest, -np.array(near, np.float32)))[:k].tolist())
        shares.append(len(found & exact) / k)
    value, n = overlap(held(), k, own)
    assert n == 6
    assert value == pytest.approx(np.mean(shares), abs=0.02)  # equal products may be rounded apart


def test_a_search_of_codes_that_say_nothing_finds_little() -> None:
    slates = [slate(seed=s) for s in range(20)]
    good, n = overlap(held(), 10, *slates)
    rotated = held()
    rotated._codes[:] = RNG.integers(0, 2**63, rotated._codes.shape).astype(np.uint64)
    bad, _ = overlap(rotated, 10, *slates)
    assert n == 120
    assert good is not None
    assert bad is not None
    assert bad < 0.6 * good


def test_a_history_no_longer_than_k_and_rows_not_held_are_no_search() -> None:
    assert overlap(held(), 100, slate()) == (None, 0)
    assert overlap(Codes(PLANES), 10, slate()) == (None, 0)


def test_rows_held_are_bounded_by_level_and_gone_with_their_tombstones() -> None:
    codes = Codes(PLANES, most=64)
    codes.apply(publication(Version(0, 1), 1_000, ROWS, VECTORS, first=True), Tally())
    keys = np.array([key_of("item", str(i)) for i in range(200)], np.uint64)
    level = codes.encode().levels
    assert codes.n_rows == 5 + (levels(keys) >= level[0]).sum() <= 5 + 32
    assert (levels(keys) >= level[0] - 1).sum() > 32
    before = codes.n_rows
    gone = keys[levels(keys) >= level[0]][:3]
    codes.apply(publication(Version(0, 3), 3_000, ROWS[:0], VECTORS[:0], tombstones=gone.tolist()), Tally())
    assert codes.n_rows == before - 3


def test_what_was_kept_goes_on_in_the_same_way() -> None:
    codes, again = held(), Codes(PLANES)
    again.load(codes.encode())
    moved = (VECTORS * 0.9 + 0.1).astype(np.float32)
    assert after(codes, moved).values(60_000) == after(again, moved).values(60_000)
    assert codes.look() == again.look()
    assert overlap(codes, 10, slate()) == overlap(again, 10, slate())
    with pytest.raises(ValueError, match=r"expected rows of \(1, 4\)"):
        Codes(PLANES[:1]).load(codes.encode())


def test_the_slates_that_are_tried_do_not_depend_on_their_order() -> None:
    samples = [m for of in make(40).samples.values() for m in of if isinstance(m, Sample)]
    whole = draw_least(samples, 3)
    assert [s.draw for s in whole] == sorted(s.draw for s in whole)
    parts = keep_least([*draw_least(samples[90:], 3), *draw_least(samples[:90][::-1], 3)])
    assert parts == whole
    assert all(3 < len(s.keys(2)[1]) <= MOST_BEHAVIOURS for s in whole)
