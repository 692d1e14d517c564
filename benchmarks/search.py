"""What a search costs: by codes against torch's exact inner product and topk, one thread, in one run.

python -m benchmarks.search
"""

from __future__ import annotations

import json
from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.model.search import category_top_k, hamming_top_k, inner_top_k, recent_top_k
from trainer.model.simhash import encode, make_planes

LENGTHS = (256, 512, 1024, 2048, 4096)


def run(
    n_candidates: int = 200, length: int = 1024, dim: int = 32, k: int = 48, seconds: float = 0.5
) -> dict[str, float]:
    """One slate against one sequence, in microseconds: the fastest of many calls, taken in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _compare(n_candidates, length, dim, k, seconds)
    finally:
        torch.set_num_threads(threads)


def _compare(n_candidates: int, length: int, dim: int, k: int, seconds: float) -> dict[str, float]:
    rng = np.random.default_rng(0)
    first = np.array([0, n_candidates])
    queries = rng.standard_normal((n_candidates, dim), np.float32)
    keys = rng.standard_normal((max(LENGTHS), dim), np.float32)
    planes = make_planes(1, dim, 256, 0)[0]
    codes = {
        bits: (encode(queries, planes[:, :bits]), encode(keys, planes[:, :bits])) for bits in (64, 128, 256)
    }
    wanted = rng.integers(0, 20, n_candidates).astype(np.uint64)
    categories = rng.integers(0, 20, length).astype(np.uint64)
    bounds = first, np.array([0]), np.array([length])

    def by_codes(bits: int, length: int, radii: tuple[int, ...] = ()) -> Callable[[], object]:
        a, b = codes[bits]
        return lambda: hamming_top_k(a, b, first, np.array([0]), np.array([length]), k, radii=radii)

    # torch at its best: keys transposed beforehand, nothing sorted, the result written to the same memory
    turned = torch.from_numpy(keys[:length]).T.contiguous()
    vectors, scores = torch.from_numpy(queries), torch.empty(n_candidates, length)
    values, places = torch.empty(n_candidates, k), torch.empty(n_candidates, k, dtype=torch.int64)

    def by_torch() -> object:
        return torch.topk(torch.mm(vectors, turned, out=scores), k, sorted=False, out=(values, places))

    calls: dict[str, Callable[[], object]] = {
        "torch_exact_us": by_torch,
        "hamming_64_us": by_codes(64, length),
        "hamming_64_with_5_radii_us": by_codes(64, length, (4, 8, 12, 16, 24)),
        "hamming_128_us": by_codes(128, length),
        "hamming_256_us": by_codes(256, length),
        "inner_us": lambda: inner_top_k(queries, keys[:length], *bounds, k),
        "category_us": lambda: category_top_k(wanted, categories, *bounds, k),
        "recent_us": lambda: recent_top_k(*bounds, k),
        **{f"hamming_64_at_{n}_us": by_codes(64, n) for n in LENGTHS},
        **{f"encode_4096_rows_to_{b}_us": _encoder(keys, planes, b) for b in (64, 128)},
    }
    took = _fastest(calls, seconds)
    return {
        "times_as_fast_as_torch": took["torch_exact_us"] / took["hamming_64_us"],
        **took,
        "ns_per_pair_at_4096": took["hamming_64_at_4096_us"] * 1e3 / n_candidates / 4096,
        **{f"encoded_rows_per_s_{b}": 4096e6 / took[f"encode_4096_rows_to_{b}_us"] for b in (64, 128)},
    }


def _encoder(vectors: NDArray[np.float32], planes: NDArray[np.float32], bits: int) -> Callable[[], object]:
    some = np.ascontiguousarray(planes[:, :bits])
    return lambda: encode(vectors, some)


def _fastest(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    for call in calls.values():
        call()  # compiles
    took = dict.fromkeys(calls, float("inf"))
    until = perf_counter() + seconds * len(calls)
    while perf_counter() < until:
        for name, call in calls.items():
            for _ in range(5):  # the first finds the caches as another call left them
                began = perf_counter()
                call()
                took[name] = min(took[name], (perf_counter() - began) * 1e6)
    return took


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
