"""The truth about a simulated log, written and read again."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from instep.cli import DriftName
from instep.drifts import DRIFTS
from instep.simulator import Truth, events
from instep.truth import NAME, Known, TruthError, beside, load, save
from stream.events import Impression, key_of
from tests.worlds import WORLD


def known(folder: Path, drift: str = "none") -> tuple[Known, Truth, list[Impression]]:
    truth = Truth()
    shown = [e for e in events(WORLD, 60, drifts=DRIFTS[drift], truth=truth) if isinstance(e, Impression)]
    save(truth, folder / NAME)
    return load(folder / NAME), truth, shown


def test_every_candidate_has_its_probability_again(tmp_path: Path) -> None:
    found, truth, shown = known(tmp_path)
    for e in reversed(shown):
        keys = np.full(len(e.candidates), key_of("impression", e.id), np.uint64)
        place = np.arange(len(e.candidates))
        assert found.p_of(keys, place).tolist() == truth.p[e.id].astype(np.float32).tolist()


def test_items_have_the_topics_they_ended_with_and_an_unknown_one_none(tmp_path: Path) -> None:
    found, truth, _ = known(tmp_path, "moved")
    keys = np.array([key_of("item", i) for i in truth.topics] + [3], np.uint64)
    assert found.topics_of(keys).tolist() == [*truth.topics.values(), -1]


def test_items_that_came_later_are_told(tmp_path: Path) -> None:
    found, truth, _ = known(tmp_path, "arrivals")
    assert truth.new_items
    assert set(found.new_items.tolist()) == {key_of("item", i) for i in truth.new_items}
    assert not len(known(tmp_path)[0].new_items)


def test_it_is_found_beside_a_file_and_in_a_folder(tmp_path: Path) -> None:
    assert beside(tmp_path) is beside(tmp_path / "events.jsonl") is None
    known(tmp_path)
    assert beside(tmp_path) == beside(tmp_path / "events.jsonl") == tmp_path / NAME


def test_another_file_or_another_log_is_refused(tmp_path: Path) -> None:
    found, *_ = known(tmp_path)
    with pytest.raises(TruthError, match="the impressions of the log beside it, got others"):
        found.p_of(np.array([5], np.uint64), np.array([0]))
    for content in (b"", b"PK", (tmp_path / NAME).read_bytes()[:-40]):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(TruthError, match=r"truth\.npz: expected what `instep simulate` writes, got: "):
            load(tmp_path / NAME)
    np.savez(tmp_path / NAME, format=np.array(2))
    with pytest.raises(TruthError, match="expected format 1, got 2"):
        load(tmp_path / NAME)


def test_the_command_line_names_the_drifts_there_are() -> None:
    assert set(get_args(DriftName)) == DRIFTS.keys()
