"""SimHash: the sign of a sum whose every rounding is prescribed."""

from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.jit import njit
from trainer.model.searches import RADII
from trainer.model.simhash import (
    encode,
    encode_row,
    encode_torch,
    hamming,
    item_codes,
    make_planes,
    popcount,
)

Floats = NDArray[np.float32]


def oracle(vectors: Floats, planes: Floats) -> NDArray[np.uint64]:
    """numpy, one rounded product after the other."""
    sums = np.zeros((len(vectors), planes.shape[1]), np.float32)
    for d in range(planes.shape[0]):
        product: Floats = vectors[:, d, None] * planes[d]
        sums = sums + product
    return np.packbits(sums > 0, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def draw(n: int, dim: int, seed: int) -> Floats:
    """Vectors of many magnitudes."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)) * np.exp2(rng.integers(-12, 12, (n, dim)))
    return vectors.astype(np.float32)


def near_ties(n: int, dim: int, bits: int, seed: int) -> tuple[Floats, Floats]:
    """Vectors and planes whose sums cancel but for rounding, so that every last bit shows in a sign."""
    vectors, planes = draw(n, dim, seed), draw(dim, bits, seed + 1)
    half = dim // 2
    vectors[:, half : 2 * half] = vectors[:, :half] * np.float32(1.1)
    planes[half : 2 * half] = -planes[:half] / np.float32(1.1)
    return vectors, planes


@njit
def encode_each(
    vectors: Floats, planes: Floats, fields: NDArray[np.int64], codes: NDArray[np.uint64]
) -> None:
    for i in range(fields.size):
        encode_row(vectors[i], planes[fields[i]], codes[i])


@njit
def count_one(word: np.uint64) -> int:
    return int(popcount(word))


@given(
    n=st.integers(0, 9),
    dim=st.integers(1, 40),
    bits=st.sampled_from([64, 128, 192, 256]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_codes_are_the_signs_of_sums_rounded_in_order(n: int, dim: int, bits: int, seed: int) -> None:
    vectors, planes = near_ties(n, dim, bits, seed)
    np.testing.assert_array_equal(encode(vectors, planes), oracle(vectors, planes))


def test_a_fused_multiply_add_would_give_other_codes() -> None:
    vectors, planes = near_ties(200, 2, 64, 0)
    exact = vectors.astype(np.float64)[:, 1, None] * planes.astype(np.float64)[1]
    fused = (vectors[:, 0, None] * planes[0]).astype(np.float64) + exact
    codes = np.packbits(fused > 0, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    assert (codes != encode(vectors, planes)).any()
    np.testing.assert_array_equal(encode(vectors, planes), oracle(vectors, planes))


@given(cut=st.integers(0, 50), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_code_does_not_depend_on_the_batch(cut: int, seed: int) -> None:
    vectors, planes = draw(50, 32, seed), make_planes(1, 32, 64, seed)[0]
    whole = encode(vectors, planes)
    np.testing.assert_array_equal(
        np.concatenate([encode(vectors[:cut], planes), encode(vectors[cut:], planes)]), whole
    )
    np.testing.assert_array_equal(encode(vectors[::-1], planes)[::-1], whole)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@given(dim=st.integers(1, 40), bits=st.sampled_from([64, 128, 256]), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_torch_gives_the_same_bits(device: str, dim: int, bits: int, seed: int) -> None:
    vectors, planes = near_ties(30, dim, bits, seed)
    codes = encode_torch(torch.from_numpy(vectors).to(device), torch.from_numpy(planes).to(device))
    np.testing.assert_array_equal(codes.cpu().numpy().view(np.uint64), encode(vectors, planes))


def test_a_kernel_encodes_one_row_as_a_batch_does() -> None:
    planes, vectors = make_planes(2, 24, 128, 3), draw(10, 24, 4)
    fields, codes = np.arange(10) % 2, np.zeros((10, 2), np.uint64)
    encode_each(vectors, planes, fields, codes)
    for field in (0, 1):
        of_field = fields == field
        np.testing.assert_array_equal(codes[of_field], encode(vectors[of_field], planes[field]))


def test_codes_do_not_depend_on_how_arrays_lie_in_memory() -> None:
    vectors, planes = draw(20, 32, 5), make_planes(1, 32, 128, 6)[0]
    spread = np.repeat(vectors, 2, axis=1)[:, ::2]
    frozen = planes.copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(encode(spread, np.asfortranarray(planes)), encode(vectors, planes))
    np.testing.assert_array_equal(encode(vectors, frozen), encode(vectors, planes))


def test_bits_differ_with_the_angle_over_pi() -> None:
    rng = np.random.default_rng(7)
    planes = make_planes(1, 16, 256, 8)[0]
    for angle in (0.2, 0.7, 1.5, 2.6):
        a, b = rng.standard_normal((2, 2000, 16))
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        b -= (a * b).sum(axis=1, keepdims=True) * a
        b = np.cos(angle) * a + np.sin(angle) * b / np.linalg.norm(b, axis=1, keepdims=True)
        codes = encode(a.astype(np.float32), planes), encode(b.astype(np.float32), planes)
        share = hamming(*codes).mean() / 256
        # the planes are shared by all pairs, so the error is that of 256 planes at least: 4 deviations
        assert abs(share - angle / pi) < 4 * np.sqrt(angle / pi * (1 - angle / pi) / (256 * 16))


def test_scaling_a_vector_by_a_power_of_two_keeps_its_code_and_a_zero_vector_has_code_0() -> None:
    vectors, planes = draw(20, 32, 9), make_planes(1, 32, 64, 10)[0]
    np.testing.assert_array_equal(encode(vectors * np.float32(8), planes), encode(vectors, planes))
    assert not encode(np.zeros((3, 32), np.float32), planes).any()


def test_planes_are_normal_and_follow_from_the_seed() -> None:
    planes = make_planes(2, 32, 128, 11)
    assert planes.dtype == np.float32
    assert planes.shape == (2, 32, 128)
    own = np.concatenate([planes[0, :, :64], planes[1, :, 64:]])
    assert abs(own.mean()) < 4 / np.sqrt(own.size)
    assert abs(own.std() - 1) < 4 / np.sqrt(2 * own.size)
    np.testing.assert_array_equal(planes, make_planes(2, 32, 128, 11))
    other = make_planes(2, 32, 128, 12)
    assert (own != np.concatenate([other[0, :, :64], other[1, :, 64:]])).all()


@given(n_fields=st.sampled_from([1, 2, 4]), bits=st.sampled_from([64, 128, 256]), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_an_items_code_is_that_of_its_fields_side_by_side(n_fields: int, bits: int, seed: int) -> None:
    planes, rows = make_planes(n_fields, 16, bits, seed), draw(30, 16, seed)
    fields = np.arange(30) % n_fields
    codes = np.zeros((30, bits // 64), np.uint64)
    for field in range(n_fields):
        codes[fields == field] = encode(rows[fields == field], planes[field])
    items = np.stack([np.flatnonzero(fields == field)[:7] for field in range(n_fields)], axis=1)
    whole = encode(rows[items].reshape(7, -1), planes.reshape(-1, bits))
    np.testing.assert_array_equal(item_codes(codes, items), whole)
    moved = rows.copy()
    moved[items[0, 0]] *= -1
    flipped = encode(moved[items].reshape(7, -1), planes.reshape(-1, bits)) ^ whole
    assert np.bitwise_count(flipped).sum() == bits // n_fields


@given(n_fields=st.sampled_from([1, 2, 4]), bits=st.sampled_from([16, 32]), seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_a_short_code_is_found_as_that_of_so_many_planes_by_hand(n_fields: int, bits: int, seed: int) -> None:
    """Against signs of those planes alone, compared bit by bit: distances, and what lies within each radius."""
    planes, vectors = make_planes(n_fields, 16, bits, seed), draw(40, n_fields * 16, seed)
    assert planes.shape == (n_fields, 16, 64)
    own = planes.reshape(-1, 64)[:, :bits]
    signs = vectors.astype(np.float64) @ own.astype(np.float64) > 0
    far = (signs[:, None] != signs).sum(axis=-1)
    codes = encode(vectors, planes.reshape(-1, 64))
    measured = hamming(codes[:, None], codes)
    np.testing.assert_array_equal(measured * bits, far * 64)
    for radius in RADII:
        np.testing.assert_array_equal(measured <= round(radius * 64), far <= round(radius * bits))
    for f in range(n_fields):
        each = bits // n_fields
        assert (own.reshape(n_fields, 16, bits)[f].any(axis=0) == (np.arange(bits) // each == f)).all()


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=8))
@settings(deadline=None)
def test_hamming_counts_the_bits_that_differ(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side, np.uint64) for side in zip(*pairs, strict=True))
    assert hamming(a, b) == sum((x ^ y).bit_count() for x, y in pairs)
    np.testing.assert_array_equal(hamming(a[:, None], b[:, None]), [(x ^ y).bit_count() for x, y in pairs])
    assert count_one(a[0]) == pairs[0][0].bit_count()


def test_what_does_not_fit_is_refused_with_the_shapes() -> None:
    with pytest.raises(ValueError, match="multiple of 64, got 100"):
        make_planes(1, 8, 100, 0)
    with pytest.raises(ValueError, match="multiple of 3 fields, got 128"):
        make_planes(3, 8, 128, 0)
    with pytest.raises(ValueError, match="multiple of 64, got 0"):
        encode(np.zeros((1, 8), np.float32), np.zeros((8, 0), np.float32))
    with pytest.raises(ValueError, match=r"got \(1, 7\) and \(8, 64\)"):
        encode(np.zeros((1, 7), np.float32), np.zeros((8, 64), np.float32))
    with pytest.raises(ValueError, match=r"got \(1, 7\) and \(8, 64\)"):
        encode_torch(torch.zeros(1, 7), torch.zeros(8, 64))
