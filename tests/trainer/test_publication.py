"""Publications arrive whole, or not at all."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import Version
from trainer.publication import BLOCK_ROWS, Assembler, Publication, TornPublicationError, encode

Messages = list[tuple[bytes, bytes]]


def make_publication(n: int, step: int = 7, n_gone: int = 3, seed: int = 0) -> Publication:
    rng = np.random.default_rng(seed + step)
    return Publication(
        version=Version(1, step),
        since=Version(1, step - 4) if step > 4 else None,
        at_ms=1_000 * step,
        keys=rng.integers(1, 2**64, n, np.uint64),
        fields=rng.integers(0, 4, n, np.uint8),
        steps=rng.integers(0, step, n),
        vectors=rng.normal(size=(n, 8)).astype(np.float32),
        tombstones=rng.integers(1, 2**64, n_gone, np.uint64),
        dense={
            "w": rng.normal(size=(3, 2)).astype(np.float32),
            "transposed.b": rng.normal(size=(3, 2)).astype(np.float32).T,
            "experts": rng.normal(size=(2, 3, 4)).astype(np.float32),
            "none": np.zeros((0, 5), np.float32),
        },
        offsets={0: 12, 3: step},
        journal=[{0: (3, 9)}, {0: (9, 12), 3: (0, step)}],
    )


def assert_same(a: Publication, b: Publication) -> None:
    for f in fields(Publication):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if f.name == "dense":
            assert x.keys() == y.keys()
        pairs = [(x[name], y[name]) for name in x] if f.name == "dense" else [(x, y)]
        for u, v in pairs:
            if isinstance(u, np.ndarray):
                assert (u.dtype, u.shape, u.tolist()) == (v.dtype, v.shape, v.tolist())
            else:
                assert u == v


def assembled(messages: Messages) -> list[Publication]:
    assembler = Assembler()
    return [p for m in messages if (p := assembler.add(*m)) is not None]


@pytest.mark.parametrize("n", [0, 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 5])
@pytest.mark.parametrize("n_gone", [0, 3])
def test_a_publication_comes_back_to_the_bit(n: int, n_gone: int) -> None:
    publication = make_publication(n, n_gone=n_gone)
    messages = encode(publication)
    assert [key for key, _ in messages] == [b"block"] * (max(1, -(-n // BLOCK_ROWS)) + 1) + [b"marker"]
    got = assembled(messages)
    assert len(got) == 1
    assert_same(publication, got[0])
    assert encode(got[0]) == messages


def test_publications_follow_each_other_and_the_first_has_no_since() -> None:
    publications = [make_publication(5, step) for step in (4, 8, 12)]
    got = assembled([m for p in publications for m in encode(p)])
    for p, q in zip(publications, got, strict=True):
        assert_same(p, q)
    assert got[0].since is None


WHOLE = encode(make_publication(2 * BLOCK_ROWS + 5))
N_BLOCKS = len(WHOLE) - 1


@pytest.mark.parametrize("lost", range(N_BLOCKS))
def test_a_missing_block_is_refused_and_the_next_publication_taken(lost: int) -> None:
    assembler = Assembler()
    for m in [*WHOLE[:lost], *WHOLE[lost + 1 : -1]]:
        assembler.add(*m)
    with pytest.raises(TornPublicationError, match=r"publication 1\.7: expected 4 blocks .*, got 3"):
        assembler.add(*WHOLE[-1])
    assert not assembler._blocks
    following = make_publication(3, step=11)
    got = [p for m in encode(following) if (p := assembler.add(*m)) is not None]
    assert_same(got[0], following)


@given(st.permutations(range(N_BLOCKS)))
@settings(max_examples=23, deadline=None)
def test_blocks_in_another_order_are_refused(order: list[int]) -> None:
    messages = [*(WHOLE[i] for i in order), WHOLE[-1]]
    if order == sorted(order):
        assert len(assembled(messages)) == 1
    else:
        with pytest.raises(TornPublicationError):
            assembled(messages)


@given(block=st.integers(0, N_BLOCKS - 1), byte=st.integers(0, 10**9), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_a_flipped_bit_in_a_block_is_refused(block: int, byte: int, bit: int) -> None:
    damaged = bytearray(WHOLE[block][1])
    damaged[byte % len(damaged)] ^= 1 << bit
    with pytest.raises(TornPublicationError):
        assembled([*WHOLE[:block], (b"block", bytes(damaged)), *WHOLE[block + 1 :]])


def test_blocks_of_a_writer_that_died_are_passed_over() -> None:
    publication = make_publication(3, step=11)
    got = assembled([*WHOLE[:2], *encode(publication)])
    assert len(got) == 1
    assert_same(got[0], publication)


def test_a_repeated_block_is_refused() -> None:
    with pytest.raises(TornPublicationError):
        assembled([WHOLE[0], WHOLE[2], *WHOLE[2:]])


def test_another_publications_marker_is_refused() -> None:
    other = encode(make_publication(2 * BLOCK_ROWS + 5, seed=1))
    with pytest.raises(TornPublicationError):
        assembled([*WHOLE[:-1], other[-1]])
