"""The stretch of an alert, run again: the very predictions that were made there, from whichever beginning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from instep.replay import Refresh, replay
from instep.scorebook import HEADER, RECORD, Records
from instep.stretch import StretchError, replay_stretch
from monitor.alert import Alert, decode_alert
from stream.events import Impression, Sample, Tick, decode_event, encode_event, key_of
from stream.files import FileSource, write_events
from stream.join import Joiner
from tests.monitor.alerts import alert
from tests.worlds import product, small

N_SLATES = 240
S = small()
SENT = product(N_SLATES)


def about(offsets: Mapping[int, tuple[int, int]]) -> Alert:
    return msgspec.structs.replace(alert(1), offsets=dict(offsets))


def scores(out: Path) -> Records:
    return np.frombuffer((out / "scores.bin").read_bytes(), RECORD, offset=HEADER.size)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "events.jsonl.zst"
    write_events(path, SENT)
    return path


@pytest.fixture(scope="module")
def whole(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    replay(log, S, out)
    return out


@pytest.fixture(scope="module")
def ends(log: Path) -> Mapping[int, int]:
    return FileSource(log, S.stream.partitions).end()


def stretches(ends: Mapping[int, int]) -> list[dict[int, tuple[int, int]]]:
    n0, n1 = ends[0], ends[1]
    return [
        {0: (n0 * 8 // 10, n0 * 9 // 10), 1: (n1 * 8 // 10, n1 * 9 // 10)},
        {0: (0, n0), 1: (0, n1)},
        {1: (n1 * 9 // 10, n1)},
        {0: (n0 // 2, n0), 1: (n1 * 7 // 10, n1 * 7 // 10)},
    ]


def completed(log: Path, stretch: Mapping[int, tuple[int, int]]) -> set[int]:
    """Keys of the impressions whose samples the joiner gives out with a record of the stretch."""
    joiners = {p: Joiner(S.join_rules(), S.fields, p) for p in range(S.stream.partitions)}
    found = set()
    for r in FileSource(log, S.stream.partitions).poll(10**9):
        start, end = stretch.get(r.partition, (0, 0))
        for out in joiners[r.partition].apply(r):
            if isinstance(out, Sample) and start <= r.offset < end:
                found.add(key_of("impression", out.impression))
    return found


@pytest.mark.parametrize("n", range(4))
@pytest.mark.parametrize("poll", [7, 512])
def test_it_scores_what_its_records_completed_as_it_was_scored_then(
    log: Path, whole: Path, ends: Mapping[int, int], tmp_path: Path, n: int, poll: int
) -> None:
    stretch = stretches(ends)[n]
    found = replay_stretch(log, S, about(stretch), tmp_path / "out", poll=poll)
    got, every = scores(tmp_path / "out"), scores(whole)
    assert found["candidates"] == len(got) > 0
    assert set(got["impression"].tolist()) == completed(log, stretch)
    assert got.tobytes() == every[np.isin(every["impression"], got["impression"])].tobytes()
    records = FileSource(log, S.stream.partitions).poll(10**9)
    inside = [r for r in records if (s := stretch.get(r.partition)) and s[0] <= r.offset < s[1]]
    kept = [decode_event(line) for line in (tmp_path / "out" / "events.jsonl").read_bytes().splitlines()]
    of_users = [decode_event(r.value) for r in inside if r.key]
    assert [e for e in kept if not isinstance(e, Tick)] == of_users
    ticks = sorted(encode_event(e) for e in kept if isinstance(e, Tick))
    assert ticks == sorted({r.value for r in inside if not r.key})
    if n == 1:
        assert len(got) == len(every)
        assert found["weights_sha256"] == json.loads((whole / "metrics.json").read_text())["weights_sha256"]


def test_what_is_written_says_which_alert_it_is_of(
    log: Path, ends: Mapping[int, int], tmp_path: Path
) -> None:
    which = about(stretches(ends)[0])
    found = replay_stretch(log, S, which, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    assert found["alert"] == which.id
    assert decode_alert((tmp_path / "alert.json").read_bytes()) == which


def test_from_a_checkpoint_before_it_it_is_the_same_and_the_checkpoint_stays(
    log: Path, ends: Mapping[int, int], tmp_path: Path
) -> None:
    stretch = {p: (end * 9 // 10, end) for p, end in ends.items()}
    replay_stretch(log, S, about(stretch), tmp_path / "straight")
    first = next(n for n, e in enumerate(SENT) if isinstance(e, Impression))
    write_events(tmp_path / "part.jsonl", SENT[: first + (len(SENT) - first) // 4])
    settings, path = small(trainer={"checkpoint_ms": 50}), tmp_path / "checkpoints"
    # the last checkpoint of a run that ended is of a batch cut short: one that was killed has none such
    replay_until_killed(tmp_path / "part.jsonl", settings, path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert before
    replay_stretch(log, S, about(stretch), tmp_path / "again", checkpoint=path)
    assert scores(tmp_path / "again").tobytes() == scores(tmp_path / "straight").tobytes()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    with pytest.raises(
        StretchError, match=r"checkpoints: expected a checkpoint at or before record 0 of partition 0"
    ):
        replay_stretch(log, S, about({0: (0, 10)}), tmp_path / "late", checkpoint=path)


def replay_until_killed(log: Path, settings: object, checkpoint: Path) -> None:
    from instep.pipeline import Pipeline
    from instep.settings import Settings

    assert isinstance(settings, Settings)
    pipeline = Pipeline(settings, FileSource(log, settings.stream.partitions), checkpoint)
    while pipeline.pump(64):
        pass


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ({0: (0, 10), 2: (0, 5)}, "expected a stretch of partitions 0..1, got 0..5 of partition 2"),
        ({0: (5, 4)}, "expected a stretch of partitions 0..1, got 5..4 of partition 0"),
        ({0: (5, 5)}, "expected a stretch with records in it, got none"),
        ({}, "expected a stretch with records in it, got none"),
        (
            {0: (5, 10**6)},
            "expected a log of at least 1000000 records of partition 0, as the alert has seen, got ",
        ),
    ],
)
def test_a_stretch_that_the_log_does_not_have_is_refused(
    log: Path, tmp_path: Path, offsets: dict[int, tuple[int, int]], message: str
) -> None:
    with pytest.raises(StretchError) as e:
        replay_stretch(log, S, about(offsets), tmp_path)
    assert str(e.value).startswith(f"{log}: {message}")


def test_codes_cannot_be_frozen_at_a_part_of_what_is_not_read(log: Path, tmp_path: Path) -> None:
    with pytest.raises(StretchError, match="expected --refresh every:N"):
        replay_stretch(log, S, about({0: (0, 10)}), tmp_path, refresh=Refresh(frozen=0.5))
