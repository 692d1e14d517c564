"""A log with clicks and likes through the whole loop: labels, metrics of each kind, restarts, both policies."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from instep.pipeline import Pipeline
from instep.replay import replay
from instep.scorebook import HEADER, Records, Scorebook, of_kind, record
from instep.settings import Settings
from stream.events import Action, Event, Impression, encode_sample, key_of
from stream.files import FileSource, write_events
from stream.join import Dead, Joiner
from stream.log import MemoryLog
from stream.metrics import Metrics
from tests.worlds import LIKED, TWO_KINDS, liked, small
from trainer.checkpoint import CheckpointError
from trainer.loop import Step
from trainer.scored import decode_scored
from trainer.worker import SCORES, TrainerRules, TrainerWorker

N_SLATES = 240
N_LONG = 1_500
KINDS = ("click", "like")
POLICIES = ("window", "eager")
Found = dict[str, Any]


def two(towers: str = "shared", policy: str = "window", **model: Any) -> Settings:
    return small(stream={**TWO_KINDS, "policy": policy}, model={"towers": towers, **model})


def write(folder: Path, n_slates: int) -> Path:
    write_events(folder / "events.jsonl", liked(n_slates)[0])
    return folder / "events.jsonl"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("log"), N_SLATES)


def records_of(out: Path) -> Records:
    path = out / "scores.bin"
    return Scorebook(path, (path.stat().st_size - HEADER.size) // record(2).itemsize, 2).records()


def happened(sent: tuple[Event, ...], windows: dict[str, int]) -> dict[str, set[tuple[int, int]]]:
    """By kind: impression and item of every candidate to which it happened in time; each action against each slate."""
    shown = {e.id: e for e in sent if isinstance(e, Impression)}
    found: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for e in sent:
        if isinstance(e, Action) and e.impression in shown:
            slate = shown[e.impression]
            if 0 <= e.at_ms - slate.at_ms <= windows[e.kind]:
                found[e.kind].add((key_of("impression", slate.id), key_of("item", e.item)))
    return found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_labels_are_what_happened_within_the_window_of_each_kind(
    log: Path, tmp_path: Path, policy: str, share: float
) -> None:
    windows = {kind: round(ms * share) for kind, ms in LIKED.windows.items()}
    s = small(stream={"windows": windows, "policy": policy})
    found = replay(log, s, tmp_path)
    sent, truth = liked(N_SLATES)
    expected, records = happened(sent, windows), records_of(tmp_path)
    names = list(zip(records["impression"].tolist(), records["item"].tolist(), strict=True))
    assert len(names) == len(set(names)) == sum(len(e.candidates) for e in sent if isinstance(e, Impression))
    for kind, column in enumerate(KINDS):
        labels = of_kind(records, kind)[1]
        assert [int(name in expected[column]) for name in names] == labels.tolist()
        assert found["kinds"][column]["ctr"] == labels.mean() > 0.01
        total = truth.arrays(column)[1].sum()
        assert labels.sum() == total if share == 1 else 0 < labels.sum() < total
    assert expected["like"] - expected["click"] == set() or share < 1


def test_what_is_told_of_a_kind_is_what_was_scored_of_it(log: Path, tmp_path: Path) -> None:
    found = replay(log, two("mmoe"), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    assert list(found["kinds"]) == list(KINDS)
    first = found["kinds"]["click"]
    assert first == {name: found[name] for name in first}
    records = records_of(tmp_path)
    for kind, told in enumerate(found["kinds"].values()):
        p, y = (column.astype(float) for column in of_kind(records, kind))
        assert told["candidates"] == len(p) == found["candidates"]
        assert told["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-6)
        assert told["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-6)
        assert told["calibration"] == pytest.approx(p.sum() / y.sum(), abs=1e-6)
        assert all(0 < told["errors"][name] < 1 for name in ("auc", "ne", "gauc"))
        at = 0
        for window in told["windows"]:
            part = slice(at, at := at + window["candidates"])
            assert window["auc"] == pytest.approx(roc_auc_score(y[part], p[part]), abs=1e-6)
        assert at == len(p)


def popularity(item: NDArray[np.uint64], y: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How often a candidate's item was acted on before, a little drawn to the mean of all before."""
    shown: dict[int, int] = defaultdict(int)
    acted: dict[int, int] = defaultdict(int)
    p, n = np.empty(len(item)), 0
    for i, (one, label) in enumerate(zip(item.tolist(), y.tolist(), strict=True)):
        p[i] = (acted[one] + 5 * (n + 1) / (i + 20)) / (shown[one] + 5)
        shown[one] += 1
        acted[one] += label
        n += label
    return p


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("long"), N_LONG)


@pytest.mark.parametrize(("towers", "policy"), [("shared", "window"), ("mmoe", "window"), ("mmoe", "eager")])
def test_every_kind_is_learned(long_log: Path, tmp_path: Path, towers: str, policy: str) -> None:
    s = two(towers, policy, lr=0.003)
    replay(long_log, s, tmp_path)
    records = records_of(tmp_path)
    late = slice(len(records) // 2, None)
    truth = liked(N_LONG)[1]
    for kind, name in enumerate(KINDS):
        p, y = (column.astype(float) for column in of_kind(records, kind))
        by_item = popularity(records["item"], y.astype(np.uint8))
        rate = y[late].mean()
        prior = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
        ne, found = log_loss(y[late], p[late]) / prior, roc_auc_score(y[late], p[late])
        best = roc_auc_score(*reversed(truth.arrays(name)))
        told = f"{name}: NE {ne:.3f}, AUC {found:.3f}, at best {best:.3f}"
        assert ne < 0.85, told
        assert roc_auc_score(y[late], by_item[late]) + 0.08 < found < best, told


@pytest.mark.parametrize("policy", POLICIES)
def test_a_restart_arrives_at_the_same_bits(log: Path, tmp_path: Path, policy: str) -> None:
    s = two("mmoe", policy)
    expected = replay(log, s, tmp_path / "whole")

    def stop(now: Any) -> None:
        if now.n_candidates > expected["candidates"] // 2:
            raise KeyboardInterrupt

    args = log, s, tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        replay(*args, checkpoint=tmp_path / "c", poll=8, on_progress=stop)
    assert replay(*args, checkpoint=tmp_path / "c") == expected
    assert (tmp_path / "out" / "scores.bin").read_bytes() == (tmp_path / "whole" / "scores.bin").read_bytes()
    for other in (
        two("shared", policy),
        two("mmoe", policy, experts=3),
        two("mmoe", loss_weights={"like": 2.0}),
    ):
        with pytest.raises(CheckpointError, match=r"expected the same \[(model|stream)\] settings"):
            replay(log, other, tmp_path / "out", checkpoint=tmp_path / "c")


def test_what_a_trainer_writes_of_its_predictions_holds_every_kind(log: Path, tmp_path: Path) -> None:
    """The worker, on the samples of the same log: the same predictions as the pipeline's, message by message."""
    s = two("mmoe")
    book = Scorebook(n_kinds=2)

    def stepped(step: Step) -> None:
        book.add(step)

    pipeline = Pipeline(s, FileSource(log, 2), on_step=stepped)
    while pipeline.pump():
        pass
    samples, model, scores = MemoryLog(2), MemoryLog(1), MemoryLog(2)
    joiners = [Joiner(s.join_rules(), s.fields, p) for p in range(2)]
    for read in FileSource(log, 2).poll(10**6):
        for out in joiners[read.partition].apply(read):
            assert not isinstance(out, Dead)
            samples.append(read.partition, b"", encode_sample(out))
    rules = TrainerRules(s.learner_config(), s.loop_rules(), {}, str(tmp_path), capacity=s.trainer.capacity)
    sink = model.sink({SCORES: scores})
    worker = TrainerWorker(
        samples.source(), sink, model.source(), rules, Metrics("trainer"), now_ms=lambda: 0
    )
    while worker.step() or not worker.drained:
        pass
    told = [decode_scored(r.value) for p in range(2) for r in scores.read(p, 0, 10**6)]
    records = book.records()
    assert len(told) > N_SLATES // 2
    for one in told:
        mine = records[records["impression"] == key_of("impression", one.impression)]
        for kind in range(2):
            p, y = of_kind(mine, kind)
            assert one.predicted()[:, kind].tolist() == p.tolist()
            assert one.labelled()[:, kind].tolist() == y.tolist()
