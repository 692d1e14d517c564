"""SDIM against its equations, one candidate and one behaviour at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.trainer.lists import make_lists, make_unit, make_vectors
from trainer.model.interest import see
from trainer.model.sdim import WIDTH, signatures
from trainer.model.simhash import encode, make_planes

torch.set_num_threads(1)


def signature(code: NDArray[np.uint64], g: int) -> tuple[int, ...]:
    """The bits of signature g, looked up one by one."""
    bits = [int(word) >> b & 1 for word in code for b in range(64)]
    return tuple(bits[g + i * (len(bits) // WIDTH)] for i in range(WIDTH))


@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 6), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_it_is_the_mean_of_the_normalised_sums_of_what_collides(seed: int, counts: list[int]) -> None:
    unit, picked = make_unit("sdim", seed), make_lists(counts, seed)
    target, rows = make_vectors(2 * len(counts), seed)
    assert picked.codes is not None
    queries, keys = picked.codes
    if counts[0]:
        queries[0] = keys[0, 0]  # else hardly anything collides
    value, vectors = unit.state_dict()["value"].numpy(), rows.detach().numpy()
    for got in (unit(target, rows, picked), unit.read(see(target, rows, picked))):
        for n, r in enumerate(picked.of):
            total = np.zeros(target.shape[1])
            for g in range(64 // WIDTH):
                bucket = np.zeros(target.shape[1])
                for j in range(counts[r]):
                    if signature(keys[r, j], g) == signature(queries[n], g):
                        bucket += vectors[picked.index[r, j]].ravel()
                if bucket.any():
                    total += bucket / np.linalg.norm(bucket)
            np.testing.assert_allclose(got[n].detach().numpy(), value @ total / (64 // WIDTH), atol=1e-12)


@pytest.mark.parametrize("words", [1, 2])
def test_signatures_are_the_bits_of_the_code_that_lie_apart(words: int) -> None:
    codes = np.random.default_rng(words).integers(0, 2**64, (2, 3, words), np.uint64)
    found = signatures(codes)
    assert found.shape == (2, 3, 64 * words // WIDTH)
    for at in np.ndindex(2, 3):
        for g in range(found.shape[2]):
            assert tuple(int(found[(*at, g)]) >> i & 1 for i in range(WIDTH)) == signature(codes[at], g)


def test_a_behaviour_collides_as_often_as_its_angle_says() -> None:
    n, dim, bits = 4_000, 16, 64
    rng = np.random.default_rng(0)
    planes = make_planes(1, dim, bits, seed=1)[0]
    t = rng.normal(size=(n, dim)).astype(np.float32)
    x = t + 0.7 * rng.normal(size=(n, dim)).astype(np.float32)
    angle = np.arccos((t * x).sum(1) / np.linalg.norm(t, axis=1) / np.linalg.norm(x, axis=1))
    collides = (signatures(encode(t, planes)) == signatures(encode(x, planes))).mean(1)
    assert abs(float((collides - (1 - angle / np.pi) ** WIDTH).mean())) < 0.01


def test_the_kernels_gradient_is_that_of_plain_torch() -> None:
    unit, picked = make_unit("sdim"), make_lists([5, 0, 3])
    assert picked.codes is not None
    picked = replace(picked, codes=(picked.codes[1][picked.of, 0].copy(), picked.codes[1]))
    grads = []
    for run in (unit, lambda t, r, p: unit.read(see(t, r, p))):
        target, rows = make_vectors(6)
        run(target, rows, picked).square().sum().backward()
        assert rows.grad is not None
        grads.append(rows.grad)
    assert grads[0].any()
    torch.testing.assert_close(*grads)
