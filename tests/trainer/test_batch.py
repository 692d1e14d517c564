"""Batches are their samples side by side."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import Sample
from tests.trainer.samples import N_FIELDS, as_batch, make_samples
from trainer.batch import STAGES, make_batch


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), stage=st.sampled_from(STAGES))
@settings(max_examples=30, deadline=None)
def test_every_sample_stands_in_its_part_of_the_batch(seed: int, n: int, stage: str) -> None:
    samples = make_samples(n, seed, lengths=(0, 0, 1, 5), stage=stage)
    batch = as_batch(samples)
    assert batch.n_samples == n
    assert batch.first[0] == batch.start[0] == 0
    assert batch.n_candidates == batch.first[-1] == len(batch.labels)
    assert batch.start[-1] == len(batch.sequence) == len(batch.sequence_at)
    for b, s in enumerate(samples):
        c, t = slice(*batch.first[b : b + 2]), slice(*batch.start[b : b + 2])
        keys, at_ms = s.behaviours(N_FIELDS)
        assert batch.items[c].tobytes() == s.items
        assert batch.labels[c].tolist() == s.label_matrix(1).tolist()
        assert batch.sequence[t].tolist() == keys.tolist()
        assert batch.sequence_at[t].tolist() == at_ms.tolist()
        assert batch.side[b].tobytes() == s.side
        assert batch.at_ms[b] == s.at_ms
        assert STAGES[batch.stage[b]] == stage
        assert (batch.slate[c] == b).all()
    dtypes = {name: getattr(batch, name).dtype for name in ("side", "items", "sequence", "labels", "stage")}
    assert dtypes == dict(zip(dtypes, (np.uint64, np.uint64, np.uint64, np.float32, np.uint8), strict=True))


@pytest.mark.parametrize("n_fields", [1, 3, 4])
@pytest.mark.parametrize("n_candidates", [1, 2, 5])
def test_samples_joined_with_other_fields_are_refused_by_name(n_fields: int, n_candidates: int) -> None:
    def of_other_fields(s: Sample) -> Sample:
        items, labels = np.ones((n_candidates, n_fields), np.uint64), np.zeros(n_candidates, np.uint8)
        return msgspec.structs.replace(
            s, items=items.tobytes(), labels=labels.tobytes(), sequence=b"", sequence_at=b""
        )

    samples = make_samples(2)
    with pytest.raises(ValueError, match=r"sample Origin.*: expected 2 item fields and 1 kinds"):
        make_batch([samples[0], of_other_fields(samples[1])], N_FIELDS, 1)


@pytest.mark.parametrize("n_kinds", [2, 3])
def test_samples_joined_with_other_kinds_are_refused_by_name(n_kinds: int) -> None:
    with pytest.raises(ValueError, match=f"expected 2 item fields and {n_kinds} kinds, got"):
        make_batch(make_samples(3), N_FIELDS, n_kinds)
