"""Searches against a sort of everything."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.model.search import Found, category_top_k, hamming_top_k, inner_top_k, recent_top_k
from trainer.model.search_torch import hamming_top_k_torch
from trainer.model.simhash import hamming

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Near = NDArray[np.bool_]
EDGES = [0, 1, 5, 63, 64, 65, 255, 256, 257, 300, 520]


class Ragged(NamedTuple):
    """Slates whose sequences stand in any order, with gaps between them."""

    first: Ints
    start: Ints
    stop: Ints
    mask: Near | None
    n_queries: int
    length: int


def ragged(rng: np.random.Generator, lengths: list[int], masked: bool) -> Ragged:
    n = len(lengths)
    first = np.concatenate([[0], np.cumsum(rng.integers(0, 5, n))]).astype(np.int64)
    start, at = np.zeros(n, np.int64), 0
    for b in rng.permutation(n):
        at += int(rng.integers(0, 3))
        start[b] = at
        at += lengths[b]
    at += int(rng.integers(0, 3))
    mask = rng.random(at) < rng.choice([0.1, 0.6, 1.0]) if masked else None
    return Ragged(first, start, start + np.array(lengths, np.int64), mask, int(first[-1]), at)


def codes(rng: np.random.Generator, n: int, words: int, kind: str) -> NDArray[np.uint64]:
    """Random codes, or few bits set (many ties), or mostly the two extremes."""
    random = rng.integers(0, 2**64 - 1, (n, words), np.uint64, endpoint=True)
    if kind == "random":
        return random
    few = random
    for _ in range(4):
        few = few & rng.integers(0, 2**64 - 1, (n, words), np.uint64, endpoint=True)
    if kind == "ties":
        return few
    extremes = np.where(rng.random((n, 1)) < 0.5, np.uint64(0), np.uint64(2**64 - 1))
    return np.where(rng.random((n, 1)) < 0.8, extremes, few | extremes)


def by_sorting(at: Ragged, k: int, distance: NDArray[np.float64], near: list[Near]) -> Found:
    """All distances ``[N, T]``, sorted, ties to the most recent; ``near`` says what is counted."""
    positions = np.full((at.n_queries, k), -1, np.int32)
    counts = np.zeros((at.n_queries, len(near)), np.int32)
    for b in range(len(at.start)):
        there = [p for p in range(at.start[b], at.stop[b]) if at.mask is None or at.mask[p]]
        for q in range(at.first[b], at.first[b + 1]):
            best = sorted(there, key=lambda p: (distance[q, p], -p))[:k]
            best = sorted(p for p in best if np.isfinite(distance[q, p]))
            positions[q, : len(best)] = best
            counts[q] = [n[q, there].sum() for n in near]
    return Found(positions, counts)


def assert_same(ours: Found, theirs: Found) -> None:
    np.testing.assert_array_equal(ours.positions, theirs.positions)
    np.testing.assert_array_equal(ours.counts, theirs.counts)


cases = given(
    lengths=st.lists(st.sampled_from(EDGES), min_size=0, max_size=4),
    k=st.sampled_from([1, 2, 48, 64, 257, 600]),
    masked=st.booleans(),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["random", "ties", "extremes"]),
    width=st.integers(1, 4),
)


@cases
@settings(max_examples=80, deadline=None)
def test_hamming_search_finds_and_counts_what_sorting_finds(
    lengths: list[int], k: int, masked: bool, seed: int, kind: str, width: int
) -> None:
    rng = np.random.default_rng(seed)
    at = ragged(rng, lengths, masked)
    queries, keys = codes(rng, at.n_queries, width, kind), codes(rng, at.length, width, kind)
    distance = hamming(queries[:, None], keys[None])
    radii = (0, 3, 16 * width, 32 * width, 64 * width - 1, 64 * width, 10**6)
    found = hamming_top_k(queries, keys, at.first, at.start, at.stop, k, at.mask, radii)
    assert_same(found, by_sorting(at, k, distance.astype(np.float64), [distance <= r for r in radii]))


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@cases
@settings(max_examples=40, deadline=None)
def test_torch_agrees_exactly(
    device: str, lengths: list[int], k: int, masked: bool, seed: int, kind: str, width: int
) -> None:
    rng = np.random.default_rng(seed)
    at = ragged(rng, lengths, masked)
    queries, keys = codes(rng, at.n_queries, width, kind), codes(rng, at.length, width, kind)
    ours = hamming_top_k(queries, keys, at.first, at.start, at.stop, k, at.mask, (0, 20, 64))
    theirs = hamming_top_k_torch(
        torch.from_numpy(queries.view(np.int64)).to(device),
        torch.from_numpy(keys.view(np.int64)).to(device),
        torch.from_numpy(at.first).to(device),
        torch.from_numpy(at.start).to(device),
        torch.from_numpy(at.stop).to(device),
        k,
        mask=None if at.mask is None else torch.from_numpy(at.mask).to(device),
        radii=(0, 20, 64),
    )
    assert_same(ours, Found(theirs.positions.cpu().numpy(), theirs.counts.cpu().numpy()))


def products_in_order(queries: Floats, keys: Floats) -> Floats:
    sums = np.zeros((len(queries), len(keys)), np.float32)
    for d in range(keys.shape[1]):
        product: Floats = queries[:, d, None] * keys[None, :, d]
        sums += product
    return sums


@cases
@settings(max_examples=60, deadline=None)
def test_inner_search_finds_and_counts_what_sorting_finds(
    lengths: list[int], k: int, masked: bool, seed: int, kind: str, width: int
) -> None:
    rng = np.random.default_rng(seed)
    at = ragged(rng, lengths, masked)
    dim = 5 * width
    queries = rng.standard_normal((at.n_queries, dim)).astype(np.float32)
    keys = rng.standard_normal((at.length, dim)).astype(np.float32)
    if kind != "random":  # ties, zero vectors
        queries = queries.round() * (rng.random((at.n_queries, 1)) < 0.8).astype(np.float32)
        keys = keys.round() / np.float32(2)
    if kind == "extremes":
        keys *= np.exp2(rng.integers(-40, 40, (at.length, 1))).astype(np.float32)
    products = products_in_order(queries, keys)
    lengths_q = np.sqrt(products_in_order(queries**2, np.ones((1, dim), np.float32)))
    lengths_k = np.sqrt(products_in_order(np.ones((1, dim), np.float32), keys**2))
    scale = lengths_q * lengths_k
    scale[scale == 0] = 1e30
    cosines = (-1.5, -0.2, 0.0, 0.3, 0.9, 1.5)
    near = [products >= np.float32(c) * scale for c in cosines]
    found = inner_top_k(queries, keys, at.first, at.start, at.stop, k, at.mask, cosines)
    assert_same(found, by_sorting(at, k, -products.astype(np.float64), near))


@cases
@settings(max_examples=40, deadline=None)
def test_category_and_recency_search_take_the_last_of_what_matches(
    lengths: list[int], k: int, masked: bool, seed: int, kind: str, width: int
) -> None:
    rng = np.random.default_rng(seed)
    at = ragged(rng, lengths, masked)
    queries = rng.integers(0, 3 * width, at.n_queries).astype(np.uint64)
    keys = rng.integers(0, 3 * width, at.length).astype(np.uint64)
    same = queries[:, None] == keys[None]
    assert_same(
        category_top_k(queries, keys, at.first, at.start, at.stop, k, at.mask),
        by_sorting(at, k, np.where(same, 0.0, np.inf), [same]),
    )
    assert_same(
        recent_top_k(at.first, at.start, at.stop, k, at.mask),
        by_sorting(at, k, np.zeros(same.shape), [np.ones_like(same)]),
    )


@given(seed=st.integers(0, 2**32), words=st.integers(1, 4), n=st.integers(1, 600))
@settings(max_examples=30, deadline=None)
def test_what_is_masked_might_as_well_not_be_there(seed: int, words: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    queries, keys = codes(rng, 4, words, "ties"), codes(rng, n, words, "ties")
    mask = rng.random(n) < 0.5
    first, start = np.array([0, 4]), np.array([0])
    masked = hamming_top_k(queries, keys, first, start, np.array([n]), 48, mask, (5, 20))
    kept = np.flatnonzero(mask)
    without = hamming_top_k(queries, keys[mask], first, start, np.array([len(kept)]), 48, None, (5, 20))
    places = np.append(kept, -1)[without.positions]
    assert_same(masked, Found(places.astype(np.int32), without.counts))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_a_slate_finds_the_same_alone_and_in_a_batch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at = ragged(rng, rng.integers(0, 600, 5).tolist(), masked=True)
    queries, keys = codes(rng, at.n_queries, 2, "ties"), codes(rng, at.length, 2, "ties")
    batch = hamming_top_k(queries, keys, at.first, at.start, at.stop, 10, at.mask, (20,))
    for b in range(5):
        of = slice(at.first[b], at.first[b + 1])
        first = np.array([0, of.stop - of.start])
        alone = hamming_top_k(
            queries[of], keys, first, at.start[b : b + 1], at.stop[b : b + 1], 10, at.mask, (20,)
        )
        assert_same(alone, Found(batch.positions[of], batch.counts[of]))


def test_equally_near_behaviours_give_way_to_the_most_recent() -> None:
    keys = np.zeros((1000, 1), np.uint64)
    bounds = np.array([0, 1]), np.array([0]), np.array([1000])
    for found in (
        hamming_top_k(keys[:1], keys, *bounds, 48),
        inner_top_k(np.zeros((1, 8), np.float32), np.zeros((1000, 8), np.float32), *bounds, 48),
        category_top_k(keys[0], keys[:, 0], *bounds, 48),
        recent_top_k(*bounds, 48),
    ):
        np.testing.assert_array_equal(found.positions, [np.arange(952, 1000)])


def test_arrays_may_lie_in_memory_as_they_like() -> None:
    rng = np.random.default_rng(1)
    queries, keys = codes(rng, 4, 2, "random"), codes(rng, 300, 2, "random")
    bounds = np.array([0, 4]), np.array([0]), np.array([300])
    frozen = np.asfortranarray(keys)
    frozen.setflags(write=False)
    spread = np.repeat(queries, 2, axis=0)[::2]
    assert_same(hamming_top_k(spread, frozen, *bounds, 9), hamming_top_k(queries, keys, *bounds, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k of 1 or more, got 0"),
        ({"radii": (-1,)}, r"radii of 0 or more, got \(-1,\)"),
        ({"keys": np.zeros((9, 2), np.uint64)}, r"codes of 1\.\.4 words, got \(3, 1\) and \(9, 2\)"),
        ({"queries": np.zeros((3, 5), np.uint64), "keys": np.zeros((9, 5), np.uint64)}, r"1\.\.4 words"),
        ({"first": np.array([0, 2])}, r"from 0 to 3, got 0\.\.2"),
        ({"first": np.array([0, 1, 3])}, r"B \+ 1, B, B bounds, got 3, 1, 1"),
        ({"start": np.array([-1])}, r"0 <= start <= stop <= 9, got -1\.\.9"),
        ({"stop": np.array([10])}, r"0 <= start <= stop <= 9, got 0\.\.10"),
        ({"start": np.array([5]), "stop": np.array([4])}, r"0 <= start <= stop <= 9, got 5\.\.4"),
        ({"mask": np.ones(8, np.bool_)}, r"a mask of \[9\], got \(8,\)"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {
        "queries": np.zeros((3, 1), np.uint64),
        "keys": np.zeros((9, 1), np.uint64),
        "first": np.array([0, 3]),
        "start": np.array([0]),
        "stop": np.array([9]),
        "k": 2,
    }
    with pytest.raises(ValueError, match=message):
        hamming_top_k(**{**given, **change})  # type: ignore[arg-type]
