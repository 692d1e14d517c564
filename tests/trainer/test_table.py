"""EmbeddingTable against dicts and plain numpy, and what must hold of it at any size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.model.simhash import make_planes
from trainer.table import EmbeddingTable, TableFull

DIM, WORDS, N_CODED, N_FIELDS = 5, 2, 2, 3
PLANES = make_planes(N_CODED, DIM, 64 * WORDS, seed=3)
SETTINGS: dict[str, Any] = {"seed": 9, "capacity": 64}
ITEMS, PARENTS = list(range(1, 15)), [101, 102, 2**64 - 1]


def mixed(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def drawn(seed: int, key: int, init_std: float, dim: int) -> NDArray[np.float32]:
    """A newborn vector, as the docstring of ``draw`` has it."""
    golden, row = 0x9E3779B97F4A7C15, []
    state = mixed(mixed((seed + golden) % 2**64) ^ key)
    for d in range(dim):
        words = [mixed((state + golden * (3 * d + j + 1)) % 2**64) for j in range(3)]
        total = sum((w >> 16 * n) % 2**16 for w in words for n in range(4))
        row.append(np.float32(total - 12 * (2**16 - 1) // 2) * (np.float32(init_std) / np.float32(2**16)))
    return np.array(row, np.float32)


def coded(vector: NDArray[np.float32], field_number: int) -> list[int]:
    """A code, summed in the order of the dimensions."""
    if field_number >= N_CODED:
        return [0] * WORDS
    sums = np.zeros(64 * WORDS, np.float32)
    for d in range(DIM):
        sums += vector[d] * PLANES[field_number, d]
    code: list[int] = np.packbits(sums > 0, bitorder="little").view("<u8").tolist()
    return code


@dataclass
class Row:
    slot: int
    field: int
    vector: NDArray[np.float32]
    accumulator: np.float32
    code: list[int]
    sightings: int
    last_seen_ms: int
    changed: int


@dataclass
class Plain:
    """The table as one would write it down first."""

    admit_after: int
    from_parent: bool
    rows: dict[int, Row] = field(default_factory=dict)
    waiting: dict[int, tuple[int, int]] = field(default_factory=dict)
    gone: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    used: int = 1

    def find(self, key: int, parent: int = 0) -> int:
        row = self.rows.get(key, self.rows.get(parent))
        return row.slot if row else 0

    def meet(self, key: int, number: int, parent: int, at_ms: int, step: int, known: bool) -> int:
        if key == 0:
            return 0
        row = self.rows.get(key)
        if row is not None:
            if not known:
                row.sightings += 1
                row.last_seen_ms = max(row.last_seen_ms, at_ms)
            return row.slot
        n, last = self.waiting.pop(key, (0, 0))
        if n + 1 < self.admit_after:
            self.waiting[key] = n + 1, max(last, at_ms)
            return self.find(parent)
        vector = drawn(SETTINGS["seed"], key, 0.05, DIM)
        if self.from_parent and parent in self.rows:
            vector = vector + self.rows[parent].vector
        self.born(key, number, vector, np.float32(1e-6), n + 1, max(last, at_ms), step)
        return self.rows[key].slot

    def born(
        self, key: int, number: int, vector: Any, accumulator: np.float32, n: int, at_ms: int, step: int
    ) -> None:
        slot = self.free.pop() if self.free else self.used
        self.used = max(self.used, slot + 1)
        self.gone.pop(key, None)
        code = coded(vector, number)
        self.rows[key] = Row(slot, number, vector, accumulator, code, n, at_ms, step)

    def learn(self, key: int, grad: NDArray[np.float32], lr: float, step: int, encode: bool) -> None:
        row, total = self.rows[key], np.float32(0)
        for g in grad:
            total += g * g
        row.accumulator = row.accumulator + total / np.float32(DIM)
        row.vector = row.vector - np.float32(lr) / np.sqrt(row.accumulator) * grad
        row.changed = step
        if encode:
            row.code = coded(row.vector, row.field)

    def remove(self, key: int, step: int | None) -> None:
        if key in self.rows:
            self.free.append(self.rows.pop(key).slot)
            if step is not None:
                self.gone[key] = step

    def expire(self, before_ms: int, step: int) -> list[int]:
        self.waiting = {k: (n, at) for k, (n, at) in self.waiting.items() if at >= before_ms}
        idle = [k for k in self.by_slot() if self.rows[k].last_seen_ms < before_ms]
        for key in idle:
            self.remove(key, step)
        return idle

    def by_slot(self) -> list[int]:
        return sorted(self.rows, key=lambda key: self.rows[key].slot)


def agree(table: EmbeddingTable, plain: Plain) -> None:
    keys = plain.by_slot()
    rows = [plain.rows[key] for key in keys]
    slots = np.array([row.slot for row in rows], np.int64)
    assert table.n_rows == len(rows)
    assert table.n_waiting == len(plain.waiting)
    assert np.flatnonzero(table.keys).tolist() == slots.tolist()
    assert table.keys[slots].tolist() == keys
    assert table.fields[slots].tolist() == [row.field for row in rows]
    assert table.rows[slots].tobytes() == b"".join(row.vector.tobytes() for row in rows)
    assert table.accumulators[slots].tolist() == [row.accumulator for row in rows]
    assert table.codes[slots].tolist() == [row.code for row in rows]
    assert table.sightings[slots].tolist() == [row.sightings for row in rows]
    assert table.last_seen_ms[slots].tolist() == [row.last_seen_ms for row in rows]
    for step in (-1, 3, 8):
        changed, gone = table.changed_since(step)
        assert changed.tolist() == [row.slot for row in rows if row.changed > step]
        assert gone.tolist() == sorted(key for key, when in plain.gone.items() if when > step)
    empty = np.setdiff1d(np.arange(table.capacity), slots)
    assert not table.rows[empty].any()
    assert not table.codes[empty].any()
    for parent in (0, *PARENTS):
        everything = [0, *ITEMS, *PARENTS, 77]
        expected = [plain.find(key, parent) if key else 0 for key in everything]
        if parent == 0:
            assert table.find(np.array(everything, np.uint64)).tolist() == expected
        else:
            expected[0] = plain.find(parent)
            assert table.find(np.array(everything, np.uint64), np.uint64(parent)).tolist()[1:] == expected[1:]


sightings = st.lists(
    st.tuples(
        st.sampled_from([0, *ITEMS, *PARENTS]),
        st.integers(0, N_FIELDS - 1),
        st.sampled_from([0, *PARENTS, 5]),
        st.integers(0, 50),
    ),
    max_size=12,
)
calls = st.one_of(
    st.tuples(st.sampled_from(["see", "meet"]), sightings),
    st.tuples(st.sampled_from(["learn", "hold", "put"]), st.integers(0, 2**32)),
    st.tuples(st.sampled_from(["expire", "forget"]), st.integers(0, 50)),
    st.tuples(st.sampled_from(["remove", "bury"]), st.lists(st.sampled_from(ITEMS), max_size=5)),
    st.tuples(st.just("restore"), st.none()),
)


def apply(table: EmbeddingTable, plain: Plain, name: str, argument: Any, step: int) -> EmbeddingTable:
    if name in ("see", "meet"):
        columns = [list(column) for column in zip(*argument, strict=True)] or [[]] * 4
        keys, fields, parents, at_ms = (np.array(c, np.uint64) for c in columns)
        got = getattr(table, name)(keys, fields.astype(np.int64), parents, at_ms.astype(np.int64), step)
        assert got.tolist() == [
            plain.meet(key, number, parent, at, step, name == "meet") for key, number, parent, at in argument
        ]
    elif name in ("learn", "hold"):
        rng = np.random.default_rng(argument)
        chosen = [key for key in plain.by_slot() if rng.random() < 0.5]
        grads = (rng.standard_normal((len(chosen) + 1, DIM)) * 10.0 ** rng.integers(-4, 2)).astype(np.float32)
        slots = np.array([*(plain.rows[key].slot for key in chosen), 0])
        before = {key: plain.rows[key].code for key in chosen}
        for key, grad in zip(chosen, grads, strict=False):
            plain.learn(key, grad, 0.03, step, name == "learn")
        flipped = sum(
            (a ^ b).bit_count() for k in chosen for a, b in zip(before[k], plain.rows[k].code, strict=True)
        )
        assert table.learn(slots, grads, 0.03, step, name == "learn") == flipped
    elif name == "put":
        rng = np.random.default_rng(argument)
        keys = rng.choice(np.array(ITEMS, np.uint64), 3)
        vectors = rng.standard_normal((3, DIM)).astype(np.float32)
        for key, vector in zip(keys.tolist(), vectors, strict=True):
            plain.waiting.pop(key, None)
            if key not in plain.rows:
                plain.born(key, 1, vector, np.float32(0.5), 0, 7, step)
            row = plain.rows[key]
            row.vector, row.code, row.changed = vector, coded(vector, row.field), step
            row.accumulator, row.last_seen_ms = np.float32(0.5), max(row.last_seen_ms, 7)
        assert table.put(keys, 1, vectors, 0.5, step, at_ms=7).tolist() == [
            plain.find(k) for k in keys.tolist()
        ]
    elif name == "expire":
        assert table.expire(argument, step).tolist() == plain.expire(argument, step)
    elif name == "forget":
        table.forget_tombstones(step - 2)
        plain.gone = {key: when for key, when in plain.gone.items() if when > step - 2}
    elif name in ("remove", "bury"):
        tombstone = step if name == "bury" else None
        assert table.remove(argument, tombstone) == len(plain.rows.keys() & set(argument))
        for key in argument:
            plain.remove(key, tombstone)
    else:
        state = {key: value.copy() for key, value in table.state().items()}
        table = EmbeddingTable.restore(state, capacity=SETTINGS["capacity"])
        again = table.state()
        assert list(again) == list(state)
        assert all(np.array_equal(again[key], state[key]) for key in state)
    return table


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(calls, max_size=14), st.sampled_from([1, 2, 4]), st.booleans())
def test_any_calls_leave_the_bits_that_dicts_and_numpy_leave(
    made: list[tuple[str, Any]], admit_after: int, from_parent: bool
) -> None:
    plain = Plain(admit_after, from_parent)
    table = EmbeddingTable(
        DIM, N_FIELDS, PLANES, admit_after=admit_after, born_from_parent=from_parent, **SETTINGS
    )
    for step, (name, argument) in enumerate(made, 1):
        table = apply(table, plain, name, argument, step)
        agree(table, plain)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(calls, max_size=14), st.sets(st.integers(1, 14)))
def test_a_mirror_that_takes_what_changed_holds_the_same_rows(
    made: list[tuple[str, Any]], publish: set[int]
) -> None:
    plain = Plain(1, True)
    table = EmbeddingTable(DIM, N_FIELDS, PLANES, **SETTINGS)
    mirror = EmbeddingTable(DIM, N_FIELDS, PLANES, **SETTINGS)
    at = 0
    tracked = [(name, argument) for name, argument in made if name not in ("hold", "forget", "remove")]
    for step, (name, argument) in enumerate(tracked, 1):
        table = apply(table, plain, name, argument, step)
        if step in publish or step == len(tracked):
            slots, gone = table.changed_since(at)
            mirror.remove(gone)
            mirror.put(table.keys[slots], table.fields[slots], table.rows[slots], step=step)
            at = step
    keys = np.array([0, *ITEMS, *PARENTS], np.uint64)
    assert mirror.rows[mirror.find(keys)].tobytes() == table.rows[table.find(keys)].tobytes()
    assert mirror.codes[mirror.find(keys)].tobytes() == table.codes[table.find(keys)].tobytes()
    assert mirror.n_rows == table.n_rows


def test_a_newborn_row_depends_on_seed_and_key_alone() -> None:
    keys = np.random.default_rng(1).integers(1, 2**64, 5000, np.uint64)
    one, other, seeded = (
        EmbeddingTable(DIM, 1, PLANES[:0], seed=seed, capacity=10_000) for seed in (4, 4, 5)
    )
    one.see(keys, 0, 0, 1, 1)
    for part in np.array_split(np.random.default_rng(2).permutation(keys), 7):
        other.meet(part, 0, 0, 9, 2)
        seeded.meet(part, 0, 0, 9, 2)
    assert one.rows[one.find(keys)].tobytes() == other.rows[other.find(keys)].tobytes()
    assert not (one.rows[one.find(keys)] == seeded.rows[seeded.find(keys)]).all(axis=1).any()


def test_newborn_rows_are_normal_and_independent_of_each_other() -> None:
    n = 40_000
    table = EmbeddingTable(DIM, 1, PLANES[:0], seed=0, init_std=0.05, capacity=n + 1)
    table.see(np.arange(1, n + 1, dtype=np.uint64), 0, 0, 1, 1)
    x = table.rows[1:].astype(np.float64) / 0.05
    assert abs(x.mean()) < 4 / np.sqrt(x.size)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / x.size)
    assert abs((x**4).mean() - 2.9) < 4 * np.sqrt(96 / x.size)  # of a sum of twelve: 3 - 6 / 5 / 12
    assert abs((np.abs(x) > 2).mean() - 0.0455) < 0.002
    within, between = (x.T @ x / n)[np.triu_indices(DIM, 1)], (x[1:] * x[:-1]).mean(0)
    assert max(np.abs(within).max(), np.abs(between).max()) < 4.5 / np.sqrt(n)


def test_a_step_is_adagrad_with_one_sum_a_row() -> None:
    rng = np.random.default_rng(8)
    table = EmbeddingTable(32, 1, PLANES[:0, :0].reshape(0, 32, 64), seed=2, capacity=100)
    slots = table.see(np.arange(1, 41, dtype=np.uint64), 0, 0, 1, 1)
    rows = torch.from_numpy(table.rows[slots].astype(np.float64)).requires_grad_()
    total = torch.full((40, 1), 1e-6, dtype=torch.float64)
    for step in range(5):
        grads = rng.standard_normal((40, 32)).astype(np.float32)
        loss = (rows * torch.from_numpy(grads)).sum()
        (grad,) = torch.autograd.grad(loss, rows)
        total += (grad**2).mean(1, keepdim=True)
        rows = (rows - 0.05 * grad / total.sqrt()).detach().requires_grad_()
        table.learn(slots, grads, 0.05, step)
    np.testing.assert_allclose(table.rows[slots], rows.detach().numpy(), rtol=0, atol=1e-6)


def test_growing_moves_nothing_and_a_view_stays_valid() -> None:
    table = EmbeddingTable(DIM, 1, PLANES[:1], seed=1)
    view, first = table.rows, table.see([5], 0, 0, 1, 1)
    vector = view[first].copy()
    for start in range(10, 100_000, 10_000):
        table.see(np.arange(start, start + 10_000, dtype=np.uint64), 0, 0, 1, 1)
    assert np.shares_memory(view, table.rows)
    assert (view[table.find([5])] == vector).all()
    assert table.n_rows == 100_001
    counted = 4 * DIM + 4 + 8 * WORDS + 8 + 1 + 4 + 8 + 8
    assert counted + 32 <= table.bytes_per_row <= counted + 65


def test_a_full_table_says_so_and_keeps_what_it_has() -> None:
    table = EmbeddingTable(DIM, 1, PLANES[:1], seed=1, capacity=4)
    with pytest.raises(TableFull, match="at most 3 rows"):
        table.see([1, 2, 3, 4, 5], 0, 0, 1, 1)
    assert table.find([1, 2, 3, 4]).tolist() == [1, 2, 3, 0]
    assert table.expire(2, 2).tolist() == [1, 2, 3]
    assert (table.see([4, 5, 6], 0, 0, 3, 3) > 0).all()
    with pytest.raises(TableFull, match="at most 3 rows"):
        EmbeddingTable.restore(table.state(), capacity=3)


def test_a_key_that_is_put_waits_no_more() -> None:
    table = EmbeddingTable(DIM, N_FIELDS, PLANES, admit_after=3, **SETTINGS)
    table.see([1, 2, 1], 0, 0, 5, 1)
    table.put([1], 0, np.ones((1, DIM), np.float32), step=2)
    assert (table.n_rows, table.n_waiting) == (1, 1)
    table.remove([1])
    assert table.see([1, 1, 1], 0, 0, 6, 3).tolist() == [0, 0, 1]


def test_shapes_broadcast_and_stay() -> None:
    table = EmbeddingTable(DIM, N_FIELDS, PLANES, **SETTINGS)
    keys = np.array([[101, 1], [101, 2], [102, 0]], np.uint64)
    slots = table.see(keys, [1, 0], np.where([False, True], keys[:, :1], np.uint64(0)), [[5], [6], [7]], 1)
    assert slots.tolist() == [[1, 2], [1, 3], [4, 0]]
    assert np.abs(table.rows[3] - table.rows[1]).max() <= np.float32(0.3)  # its parent's, and noise
    assert table.fields[:5].tolist() == [0, 1, 0, 0, 1]
    assert table.last_seen_ms[:5].tolist() == [0, 6, 5, 6, 7]
    assert table.meet(keys[:, 1], 0, keys[:, 0], 9, 2).tolist() == [2, 3, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"admit_after": 0}, "admit_after: expected 1..1023, got 0"),
        ({"accumulator": 0.0}, "accumulator: expected more than 0, got 0.0"),
        ({"dim": 4}, "expected planes"),
        ({"planes": PLANES[:, :, :60]}, "expected planes"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    given_settings: dict[str, Any] = {"dim": DIM, "n_fields": 3, "planes": PLANES, **SETTINGS}
    with pytest.raises(ValueError, match=message):
        EmbeddingTable(**given_settings | change)


def test_arguments_that_cannot_work_are_refused() -> None:
    table = EmbeddingTable(DIM, N_FIELDS, PLANES, **SETTINGS)
    with pytest.raises(ValueError, match=r"fields 0..2, got up to 3"):
        table.see([1, 2], [0, 3], 0, 1, 1)
    with pytest.raises(ValueError, match="0 ms or more, got -1"):
        table.see([1], 0, 0, -1, 1)
    with pytest.raises(ValueError, match=r"grads \[1, 5\], got \[1, 4\]"):
        table.learn(np.array([0]), np.zeros((1, 4), np.float32), 0.1, 1)
    with pytest.raises(ValueError, match="keys other than 0"):
        table.put([0], 0, np.zeros((1, DIM), np.float32))
    assert table.n_rows == 0
