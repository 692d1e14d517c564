"""A log replayed: twice, in pieces, killed at random moments; the result is one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from instep.replay import Refresh, replay
from instep.scorebook import HEADER, RECORD, Scorebook
from instep.settings import SettingsError
from stream.events import Impression, key_of
from stream.files import write_events
from stream.log import LogError
from tests.worlds import damage, product, small
from trainer import checkpoint
from trainer.checkpoint import CheckpointError

ROOT = Path(__file__).parent.parent.parent
N_SLATES = 240
S = small()
Found = dict[str, Any]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "events.jsonl.zst"
    write_events(path, product(N_SLATES))
    return path


@pytest.fixture(scope="module")
def whole(log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Path]:
    """A run without interruption, and its folder."""
    out = tmp_path_factory.mktemp("whole")
    return replay(log, S, out), out


def scores(out: Path) -> bytes:
    return (out / "scores.bin").read_bytes()


@pytest.mark.parametrize("poll", [1, 7, 512])
def test_the_same_log_gives_the_same_weights_scores_and_metrics(
    log: Path, whole: tuple[Found, Path], tmp_path: Path, poll: int
) -> None:
    found = replay(log, S, tmp_path, poll=poll)
    assert found == whole[0]
    assert scores(tmp_path) == scores(whole[1])


def test_a_folder_of_parts_is_the_same_log(log: Path, whole: tuple[Found, Path], tmp_path: Path) -> None:
    sent = product(N_SLATES)
    for n, part in enumerate((sent[:1_000], sent[1_000:])):
        write_events(tmp_path / "log" / f"{n}.parquet", part)
    assert replay(tmp_path / "log", S, tmp_path / "out") == whole[0]


def test_what_is_written_is_what_was_scored(whole: tuple[Found, Path]) -> None:
    found, out = whole
    assert json.loads((out / "metrics.json").read_text()) == found
    shown = {key_of("impression", e.id): e for e in product(N_SLATES) if isinstance(e, Impression)}
    records = np.frombuffer(scores(out), RECORD, offset=HEADER.size)
    p, y, steps = records["p"].astype(float), records["label"], records["step"]
    assert found["candidates"] == len(records) == sum(len(e.candidates) for e in shown.values())
    assert found["samples"] == N_SLATES == found["counts"]["used.impression"]
    assert y.sum() > 100
    assert set(records["impression"].tolist()) == shown.keys()
    for row in records[::17]:
        e = shown[int(row["impression"])]
        assert row["user"] == key_of("user", e.user)
        assert row["at_ms"] == e.at_ms
        assert int(row["item"]) in {key_of("item", c.item) for c in e.candidates}
    assert (np.diff(steps) >= 0).all()
    assert str(found["version"]) == f"0.{steps[-1]}"
    assert found["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-6)
    assert found["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-6)
    rate = y.mean()
    prior = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert found["ne"] == pytest.approx(log_loss(y, p) / prior, abs=1e-6)
    assert found["calibration"] == pytest.approx(p.sum() / y.sum(), abs=1e-6)
    assert sum(w["candidates"] for w in found["windows"]) == len(records)
    at = 0
    for window in found["windows"]:
        part = slice(at, at + window["candidates"])
        at = part.stop
        assert window["auc"] == pytest.approx(roc_auc_score(y[part], p[part]), abs=1e-6)
        assert window["until_ms"] == records["at_ms"][at - 1]
    for name in ("auc", "ne", "gauc", "log_loss", "calibration"):
        assert 0 < found["errors"][name] < 1
    assert found["kinds"].keys() == {"click"}
    only = found["kinds"]["click"]
    assert only == {name: found[name] for name in only}
    assert {"auc", "errors", "windows"} < only.keys()


def test_run_again_it_goes_on_where_it_stopped(log: Path, whole: tuple[Found, Path], tmp_path: Path) -> None:
    """The log grows between two runs, and a third finds nothing new."""
    sent, out, path = product(N_SLATES), tmp_path / "out", tmp_path / "checkpoints"
    # where no batch is cut short by the end of the first part
    write_events(growing := tmp_path / "log.jsonl", sent[:1_500])
    first = replay(growing, S, out, checkpoint=path)
    assert first["candidates"] < whole[0]["candidates"]
    write_events(growing, sent)
    second = replay(growing, S, out, checkpoint=path)
    assert second["counts"] == whole[0]["counts"]
    assert second["candidates"] == whole[0]["candidates"]
    before = scores(out)
    assert replay(growing, S, out, checkpoint=path) == second
    assert scores(out) == before


KILLED = """
import sys
from pathlib import Path
from instep.replay import replay
from tests.worlds import small
log, out, path = map(Path, sys.argv[1:])
settings = small(trainer={"checkpoint_ms": 50, "keep": 4})
replay(
    log, settings, out, checkpoint=path, poll=4, on_progress=lambda now: print(now.n_candidates, flush=True)
)
"""


@pytest.mark.timeout(400)
def test_killed_at_ten_random_moments_it_ends_with_the_hash_of_one_that_was_not(
    log: Path, whole: tuple[Found, Path], tmp_path: Path
) -> None:
    out, path = tmp_path / "out", tmp_path / "checkpoints"
    rng, n_resumed = np.random.default_rng(11), 0
    for target in sorted(rng.integers(0, whole[0]["candidates"] * 9 // 10, 10).tolist()):
        n_resumed += bool(checkpoint.names(path))
        command = [sys.executable, "-c", KILLED, str(log), str(out), str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= target:
                    process.send_signal(signal.SIGKILL)  # it has gone on meanwhile
                    break
        assert process.returncode == -signal.SIGKILL
        assert not (out / "metrics.json").exists()
    assert n_resumed > 5
    assert replay(log, S, out, checkpoint=path) == whole[0]
    assert scores(out) == scores(whole[1])


def test_a_damaged_checkpoint_costs_time_and_nothing_else(
    log: Path, whole: tuple[Found, Path], tmp_path: Path
) -> None:
    out, path = tmp_path / "out", tmp_path / "checkpoints"

    class Stopped(Exception):
        pass

    def stop(now: Any) -> None:
        if now.n_candidates > whole[0]["candidates"] // 2:
            raise Stopped

    with pytest.raises(Stopped):
        replay(log, S, out, checkpoint=path, poll=8, on_progress=stop)
    names = checkpoint.names(path)
    assert len(names) > 1
    damage(path / names[-1] / "tensors.safetensors")
    assert replay(log, S, out, checkpoint=path) == whole[0]
    assert scores(out) == scores(whole[1])


def test_a_checkpoint_without_its_scores_is_refused(log: Path, tmp_path: Path) -> None:
    replay(log, S, tmp_path / "out", checkpoint=tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"scores\.bin: expected at least \d+ scores, got 0"):
        replay(log, S, tmp_path / "elsewhere", checkpoint=tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"expected the same \[model\] settings"):
        replay(log, small(model={"dim": 16}), tmp_path / "out", checkpoint=tmp_path / "checkpoints")


class TestRefresh:
    """Codes held back."""

    @pytest.mark.parametrize(
        "text",
        ["", "every", "every:0", "every:-1", "every:1.5", "frozen:1.1", "frozen:-0.1", "frozen:x", "often:3"],
    )
    def test_what_cannot_be_read_is_one_line(self, text: str) -> None:
        with pytest.raises(SettingsError, match=r"^--refresh: expected every:N or frozen:FRACTION"):
            Refresh.parse(text)

    def test_every_step_and_never_frozen_are_what_happens_anyway(
        self, log: Path, whole: tuple[Found, Path], tmp_path: Path
    ) -> None:
        for text in ("every:1", "frozen:1"):
            assert replay(log, S, tmp_path, refresh=Refresh.parse(text)) == whole[0] | {"refresh": text}

    def test_a_model_without_codes_scores_the_same(self, log: Path, tmp_path: Path) -> None:
        s = small(model={"unit": "exact"})
        expected = replay(log, s, tmp_path)
        for text in ("every:50", "frozen:0", "frozen:0.9"):
            found = replay(log, s, tmp_path, refresh=Refresh.parse(text))
            assert found["auc"] == expected["auc"]

    @pytest.mark.parametrize("text", ["every:5", "frozen:0", "frozen:0.93"])
    @pytest.mark.parametrize("poll", [3, 512])
    def test_held_back_codes_change_scores_and_survive_a_restart(
        self, log: Path, whole: tuple[Found, Path], tmp_path: Path, text: str, poll: int
    ) -> None:
        refresh = Refresh.parse(text)
        expected = replay(log, S, tmp_path / "whole", refresh=refresh)
        assert expected["auc"] != whole[0]["auc"]

        def stop(now: Any) -> None:
            if now.n_candidates > whole[0]["candidates"] * 3 // 4:
                raise KeyboardInterrupt

        path = tmp_path / "checkpoints"
        with pytest.raises(KeyboardInterrupt):
            replay(log, S, tmp_path, checkpoint=path, refresh=refresh, poll=poll, on_progress=stop)
        assert replay(log, S, tmp_path, checkpoint=path, refresh=refresh, poll=poll) == expected

    def test_frozen_codes_stay_as_they_were_from_then_on(
        self, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flipped: list[int] = []
        add = Scorebook.add

        def noted(book: Scorebook, step: Any) -> Any:
            flipped.append(step.predicted.n_flipped)
            return add(book, step)

        monkeypatch.setattr(Scorebook, "add", noted)
        for text in ("frozen:0", "frozen:0.93"):
            flipped.clear()
            replay(log, S, tmp_path, refresh=Refresh.parse(text))
            n_live = next((i for i in range(len(flipped)) if not any(flipped[i:])), len(flipped))
            assert (n_live == 0) == (text == "frozen:0")
            assert n_live < len(flipped) - 3
            assert all(flipped[:n_live])


def labels(out: Path) -> dict[tuple[int, int], int]:
    """By impression and item, of every candidate that was shown."""
    path = out / "scores.bin"
    records = Scorebook(path, (path.stat().st_size - HEADER.size) // RECORD.itemsize).records()
    assert len(records) == sum(len(e.candidates) for e in product(N_SLATES) if isinstance(e, Impression))
    return {(int(r["impression"]), int(r["item"])): int(r["label"]) for r in records}


def test_learned_at_once_or_later_the_labels_are_the_same(
    log: Path, whole: tuple[Found, Path], tmp_path: Path
) -> None:
    eager = replay(log, small(stream={"policy": "eager"}), tmp_path)
    assert eager["candidates"] == whole[0]["candidates"]
    assert labels(tmp_path) == labels(whole[1])
    assert eager["auc"] != whole[0]["auc"]


def test_a_log_in_which_nothing_was_shown_has_no_metrics(tmp_path: Path) -> None:
    write_events(tmp_path / "log.jsonl", (e for e in product(20) if not isinstance(e, Impression)))
    found = replay(tmp_path / "log.jsonl", S, tmp_path / "out", checkpoint=tmp_path / "checkpoints")
    assert (found["candidates"], found["samples"], found["version"]) == (0, 0, "0.0")
    assert found["auc"] is None
    assert replay(tmp_path / "log.jsonl", S, tmp_path / "out", checkpoint=tmp_path / "checkpoints") == found


def test_a_log_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"log\.jsonl"):
        replay(tmp_path / "log.jsonl", S, tmp_path / "out")
