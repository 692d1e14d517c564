"""SimHash: the sign of a vector against random hyperplanes, packed into words.

The only implementation there is: trainer, indexer, ranker and monitor call this one. A code is the same bits
on any machine, on a GPU and in any batch: products are added in the order of the dimensions, each rounded
before it is added. That rules out fused multiply-adds and matrix libraries, and costs little, since the sums
of 64 bits are made side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.jit import njit
from trainer.model.lanes import popcount, signs

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Codes = NDArray[np.uint64]
WORD = 64


def make_planes(n_fields: int, dim: int, bits: int, seed: int) -> Floats:
    """Normal hyperplanes, block-diagonal by field, fixed by the seed; they stand in the checkpoint all the same.

    Each field has ``bits / n_fields`` bits of the code to itself and zeros elsewhere, so the code of an item, whose
    vector is that of its fields side by side, is the bitwise or of its fields' codes, and a row that moved changes its
    own bits only::

        [item; category] x  | A 0 |   ->  code = item's bits, category's bits
                            | 0 B |

    Fewer bits than a word stand in it as often as they fit: distances are that many times as large, so what is nearest,
    what is as near, and radii that are parts of all bits are those of the short code::

        16 bits a   ->  word = a a a a

    Parameters
    ----------
    bits
        Of an item's code, a multiple of ``n_fields``, and of 64 or a whole part of it.

    Returns
    -------
    float32 ``[n_fields, dim, bits]``, 64 in the place of fewer ``bits``.

    Raises
    ------
    ValueError
        If ``bits`` is no such multiple.
    """
    if bits < 1 or WORD % bits:
        _check_bits(bits)
    if n_fields < 1 or bits % n_fields:
        raise ValueError(f"simhash: expected bits to be a multiple of {n_fields} fields, got {bits}")
    generator = np.random.Generator(np.random.PCG64(seed))
    planes = np.zeros((n_fields, dim, bits), np.float32)
    each = bits // n_fields
    for f in range(n_fields):
        planes[f, :, f * each : (f + 1) * each] = generator.standard_normal((dim, each), dtype=np.float32)
    return np.tile(planes, max(1, WORD // bits))


@njit
def item_codes(codes: Codes, rows: NDArray[np.int64]) -> Codes:
    """Codes of items from those of their fields.

    Parameters
    ----------
    codes
        uint64 ``[capacity, words]`` by row of a table.
    rows
        int64 ``[n, F]``, of one field at least.

    Returns
    -------
    uint64 ``[n, words]``.
    """
    out = np.empty((rows.shape[0], codes.shape[1]), np.uint64)
    for i in range(rows.shape[0]):
        for w in range(codes.shape[1]):
            word = codes[rows[i, 0], w]
            for f in range(1, rows.shape[1]):
                word |= codes[rows[i, f], w]
            out[i, w] = word
    return out


def encode(vectors: Floats, planes: Floats) -> Codes:
    """Sign of each vector against each plane, packed: near vectors get codes that differ in few bits.

    Parameters
    ----------
    vectors
        float32 ``[n, dim]``.
    planes
        float32 ``[dim, bits]``, ``bits`` a multiple of 64.

    Returns
    -------
    uint64 ``[n, bits / 64]``; bit ``b`` of a code is 1 where ``vectors @ planes[:, b] > 0``.

    Raises
    ------
    ValueError
        If the dims differ, or ``bits`` is no multiple of 64.

    Notes
    -----
    Two vectors at angle ``t`` differ in each bit with probability ``t / pi`` (Charikar 2002; ETA, arXiv
    2108.04468, section 3.2).

    >>> planes = np.repeat(np.float32([[1], [-1]]), 64, axis=1)
    >>> encode(np.float32([[2, 1], [1, 2]]), planes) == [[2**64 - 1], [0]]
    array([[ True],
           [ True]])
    """
    _check(vectors.shape, planes.shape)
    codes = np.empty((vectors.shape[0], planes.shape[1] // WORD), np.uint64)
    _encode(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(planes, np.float32), codes)
    return codes


@njit
def encode_row(vector: Floats, planes: Floats, out: Codes) -> None:
    """``encode`` for kernels: float32 ``[dim]`` into uint64 ``[bits / 64]``; contiguous, unchecked."""
    for word in range(out.size):
        out[word] = signs(vector, planes, word * WORD)


@njit
def _encode(vectors: Floats, planes: Floats, codes: Codes) -> None:
    for i in range(codes.shape[0]):
        encode_row(vectors[i], planes, codes[i])


def encode_torch(vectors: Tensor, planes: Tensor) -> Tensor:
    """``encode`` on any device, with exactly its bits; a word is an int64 of the same 64 bits.

    Parameters
    ----------
    vectors
        float32 ``[n, dim]``.
    planes
        float32 ``[dim, bits]``, on the same device.

    Returns
    -------
    int64 ``[n, bits / 64]``; ``.cpu().numpy().view(np.uint64)`` equals ``encode`` of the same numbers.
    """
    import torch

    _check(tuple(vectors.shape), tuple(planes.shape))
    sums = torch.zeros(vectors.shape[0], planes.shape[1], dtype=torch.float32, device=vectors.device)
    for d in range(planes.shape[0]):
        sums += vectors[:, d, None] * planes[d]  # two operations, so that the product is rounded
    places = torch.arange(WORD, device=vectors.device)
    bits = (sums > 0).to(torch.int64).view(vectors.shape[0], -1, WORD)
    return (bits << places).sum(dim=2)


def hamming(a: Codes, b: Codes) -> NDArray[np.int64]:
    """In how many bits codes differ: uint64 ``[..., words]`` against its like, broadcast; int64 ``[...]``.

    >>> int(hamming(np.uint64([7, 1]), np.uint64([5, 0])))
    2
    """
    bits: NDArray[np.int64] = np.bitwise_count(np.bitwise_xor(a, b)).sum(axis=-1, dtype=np.int64)
    return bits


def _check(vectors: tuple[int, ...], planes: tuple[int, ...]) -> None:
    if len(vectors) != 2 or len(planes) != 2 or vectors[1] != planes[0]:
        raise ValueError(
            f"simhash: expected vectors [n, dim] and planes [dim, bits], got {vectors} and {planes}"
        )
    _check_bits(planes[1])


def _check_bits(bits: int) -> None:
    if bits < WORD or bits % WORD:
        raise ValueError(f"simhash: expected bits to be a multiple of {WORD}, got {bits}")


__all__ = ["encode", "encode_row", "encode_torch", "hamming", "item_codes", "make_planes", "popcount"]
