"""A replay that a monitor watches: the same windows and alerts however it is read and wherever it is stopped."""

from __future__ import annotations

from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest

from instep.drifts import DeadClicks
from instep.replay import Progress, replay
from instep.simulator import events
from monitor.folder import Folder
from monitor.record import read_alerts
from monitor.row import SIZES_MS, Row
from stream.files import write_events
from tests.worlds import WORLD, small

S = small(trainer={"checkpoint_ms": 30_000, "publish_ms": 5_000})
WORLD_OF_MINUTES = changed(WORLD, slates_per_s=2, n_users=300, n_items=400, history_median=60)
Seen = tuple[dict[int, list[Row]], list[str]]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 minutes; in the last five no click is written."""
    path = tmp_path_factory.mktemp("log") / "events.jsonl.zst"
    write_events(path, events(WORLD_OF_MINUTES, 3_000, drifts=(DeadClicks(0.8, 1.0),)))
    return path


def seen(out: Path) -> Seen:
    """Windows but for how far the stages had come, and alerts, as they are kept."""
    board = Folder(out).board()
    rows = {size: [r for r in board.rows(size) if r.source != "freshness"] for size in SIZES_MS}
    assert [a.id for a in board.alerts] == list(
        dict.fromkeys(a.id for a in reversed(read_alerts(Folder(out).alerts)))
    )
    return rows, [a.id for a in board.alerts]


@pytest.fixture(scope="module")
def whole(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    out = tmp_path_factory.mktemp("whole")
    replay(log, S, out, watch=True)
    assert sorted(p.name for p in out.iterdir()) == [
        *("alerts.jsonl", "metrics.json", "monitor.html", "monitor.msgpack", "scores.bin")
    ]
    return seen(out)


def test_it_sees_every_minute_and_that_the_clicks_stop(whole: Seen) -> None:
    rows, alerts = whole
    by_source = {
        source: [r for r in rows[60_000] if r.source == source] for source in ("data", "quality", "codes")
    }
    assert {source: len(of) >= 23 for source, of in by_source.items()} == {
        "data": True,
        "quality": True,
        "codes": False,
    }
    assert len(by_source["codes"]) >= 19  # held from then on
    assert any(alert.startswith("clicks-stopped:data.coverage.click:") for alert in alerts)


@pytest.mark.parametrize("poll", [3, 100])
def test_polls_change_no_window_and_no_alert(log: Path, whole: Seen, tmp_path: Path, poll: int) -> None:
    replay(log, S, tmp_path, watch=True, poll=poll)
    assert seen(tmp_path) == whole


def test_stopped_and_gone_on_with_it_has_seen_the_same(log: Path, whole: Seen, tmp_path: Path) -> None:
    out, path, rng = tmp_path / "out", tmp_path / "checkpoints", np.random.default_rng(3)
    for target in sorted(rng.integers(2_000, 29_000, 6).tolist()):

        def stop(now: Progress, target: int = target) -> None:
            if now.n_candidates > target:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            replay(log, S, out, checkpoint=path, poll=20, watch=True, on_progress=stop)
    replay(log, S, out, checkpoint=path, watch=True)
    assert seen(out) == whole


def test_another_run_in_the_same_folder_is_forgotten(log: Path, whole: Seen, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl.zst"
    write_events(other, events(WORLD_OF_MINUTES, 2_000, drifts=(DeadClicks(0.8, 1.0),)))
    replay(other, S, tmp_path, watch=True)
    assert seen(tmp_path)[1]
    assert not set(seen(tmp_path)[1]) & set(whole[1])
    replay(log, S, tmp_path, watch=True)
    assert seen(tmp_path) == whole


def test_a_run_that_was_not_watched_is_watched_from_where_it_goes_on(log: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "checkpoints"

    def stop(now: Progress) -> None:
        if now.n_candidates > 15_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(log, S, out, checkpoint=path, on_progress=stop)
    assert not Folder(out).has_board
    replay(log, S, out, checkpoint=path, watch=True)
    rows, _ = seen(out)
    starts = [r.start_ms for r in rows[60_000] if r.source == "quality"]
    assert 10 <= len(starts) <= 14
    assert starts == list(range(starts[0], starts[-1] + 1, 60_000))
