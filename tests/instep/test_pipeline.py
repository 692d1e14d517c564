"""The whole loop in one process: the same log, the same bits; stopped anywhere, and gone on from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.faults import Faults, lines
from instep.pipeline import Pipeline, TooManyDeadError
from instep.settings import Settings
from instep.simulator import events
from monitor.row import Row
from monitor.watch import Watch
from stream.events import Event, Impression, Tick, Version, encode_event
from stream.files import FileSource, write_events
from stream.log import MemoryLog
from tests.worlds import WORLD, damage, make_log, product, small
from trainer import checkpoint
from trainer.canary import Canary
from trainer.checkpoint import CheckpointError, DamagedCheckpoint, weights_sha256
from trainer.loop import Step
from trainer.model.simhash import encode, hamming

N_SLATES = 160
SENT = product(N_SLATES)
S = small()
LOG = make_log(SENT, 2)
N_RECORDS = sum(LOG.end().values())
N_BEFORE = sum(make_log(takewhile(lambda e: not isinstance(e, Impression), SENT), 2).end().values())
"""Records of the users' histories, before the first slate."""


EXPIRY = {
    "stream": {"history_ttl_ms": 6_000},
    "trainer": {"row_ttl_ms": 6_000, "publish_ms": 2_000, "batch_samples": 2},
}
"""Rows go, not with every batch, and their tombstones wait to be published."""


class Run:
    """A pipeline and all that it said."""

    def __init__(self, log: MemoryLog = LOG, s: Settings = S, path: Path | None = None, **more: Any) -> None:
        self.steps: list[Step] = []
        self.pipeline = Pipeline(s, log.source(), path, self.steps.append, **more)

    def pumps(self, *polls: int) -> Iterator[int]:
        """Read polls of these sizes, over and over; gives the number of records read so far, also by those before."""
        sizes = cycle(polls)
        while self.pipeline.pump(next(sizes)):
            yield sum(self.pipeline.source.offsets.values())

    def until(self, n_records: int, poll: int = 8) -> Run:
        """Stop there, without a word."""
        for n in self.pumps(poll):
            if n >= n_records:
                break
        return self

    def finish(self, *polls: int) -> Run:
        for _ in self.pumps(*(polls or (512,))):
            pass
        self.pipeline.finish()
        return self

    @property
    def sha256(self) -> str:
        return weights_sha256(self.pipeline.learner.state())

    @property
    def said(self) -> list[tuple[Version, list[str], bytes]]:
        return [(s.version, [x.impression for x in s.samples], s.predicted.p.tobytes()) for s in self.steps]


@pytest.fixture(scope="module")
def whole() -> Run:
    return Run().finish()


def test_every_impression_is_learned_once_and_every_record_is_accounted_for(whole: Run) -> None:
    learned = [s.impression for step in whole.steps for s in step.samples]
    assert sorted(learned) == sorted(e.id for e in SENT if isinstance(e, Impression))
    counts = whole.pipeline.counts()
    assert counts.pop("in") == sum(LOG.end().values()) == counts.total()
    assert counts["used.impression"] == whole.pipeline.loop.n_samples == N_SLATES
    assert whole.pipeline.n_candidates == sum(s.batch.n_candidates for s in whole.steps)
    assert sum(s.batch.labels.sum() for s in whole.steps) == counts["used.label"] > 0


@settings(deadline=None, max_examples=6, derandomize=True)
@given(polls=st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_the_sizes_of_polls_do_not_matter(whole: Run, polls: list[int]) -> None:
    run = Run().finish(*polls)
    assert run.said == whole.said
    assert run.sha256 == whole.sha256


@pytest.mark.parametrize("polls", [(4096,), (7, 300, 90)])
def test_a_watch_is_told_of_everything_once(polls: tuple[int, ...]) -> None:
    slow = replace(WORLD, slates_per_s=1, tail_s=130)
    log = make_log(events(slow, 200), 2)
    watch = Watch(S.watch_rules())
    run = Run(log, watch=watch).finish(*polls)
    assert run.sha256 == Run(log).finish().sha256
    assert watch.offsets["samples"] == run.pipeline.samples.end()
    assert sum(watch.offsets["scores"].values()) == run.pipeline.loop.n_samples == 200
    assert not watch.ahead
    rows: dict[str, list[Row]] = {"data": [], "quality": [], "codes": [], "freshness": []}
    for row in watch.take():
        rows[row.source].append(row)
    minutes = [r for r in rows["quality"] if r.size_ms == 60_000]
    said = [(s.closed_ms, p) for step in run.steps for s, p in zip(step.samples, _slates(step), strict=True)]
    for row in minutes:
        inside = [p for closed_ms, p in said if row.start_ms <= closed_ms < row.end_ms]
        assert row.values["quality.ne.click"].n == sum(map(len, inside)) > 0
        assert row.values["quality.held"].n == len(inside)
    assert len(minutes) >= 3
    assert {r.start_ms for r in minutes} <= {r.start_ms for r in rows["data"] if r.size_ms == 60_000}
    assert rows["codes"][0].values["codes.overlap"].n > 0
    ages = [r.values for r in rows["freshness"] if r.start_ms in {m.start_ms for m in minutes[1:-1]}]
    assert ages
    for now in ages:  # batches of two seconds, and publications of one
        assert all(0 <= (now[f"freshness.{stage}"].value or 0) < 10 for stage in ("trained", "indexed"))
        assert (now["freshness.behind"].value or 0) <= 1


def _slates(step: Step) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    return np.split(step.predicted.p, step.batch.first[1:-1])


def test_another_seed_or_another_event_is_another_hash(whole: Run) -> None:
    assert Run(s=small(model={"seed": 2})).finish().sha256 != whole.sha256
    fewer = make_log(SENT[: 9 * len(SENT) // 10], 2)
    assert Run(fewer).finish().sha256 != whole.sha256


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"unit": "short", "admit_after": 3}},
        {"stream": {"policy": "eager", "max_history": 12, "lateness_ms": 500}},
        EXPIRY,
    ],
    ids=["as it is", "admission", "eager", "expiry"],
)
def test_stopped_anywhere_it_goes_on_to_the_same_end(tmp_path: Path, changes: dict[str, Any]) -> None:
    s = small(**changes)
    expected = Run(s=s).finish()
    said = {version: rest for version, *rest in expected.said}
    closed_ms: dict[Version | None, int] = {x.version: x.samples[-1].closed_ms for x in expected.steps}
    closed_ms[None] = 0
    rng, resumed = np.random.default_rng(8), set()
    for n_records in sorted(rng.integers(N_BEFORE, N_RECORDS - 40, 5).tolist()):
        run = Run(s=s, path=tmp_path)
        resumed.add(at := run.pipeline.resumed_at)
        assert run.pipeline.loop.at_ms == closed_ms[at]
        run.until(n_records)
        assert all(said[version] == rest for version, *rest in run.said)
    last = Run(s=s, path=tmp_path).finish()
    assert last.sha256 == expected.sha256
    assert last.steps
    assert last.said == expected.said[-len(last.steps) :]
    assert last.pipeline.counts() == expected.pipeline.counts()
    assert last.pipeline.n_candidates == expected.pipeline.n_candidates
    assert last.pipeline.loop.n_samples == expected.pipeline.loop.n_samples
    assert len(resumed) > 2
    index, other = last.pipeline.index.load(), expected.pipeline.index.load()
    assert index is not None
    assert other is not None
    assert index.version == other.version
    followed = next(filter(None, (expected.pipeline.index.since(version) for version, *_ in expected.said)))
    n_gone = sum(len(u.tombstones) for u in followed)
    assert (n_gone > 0) == (changes is EXPIRY)
    for name in ("keys", "fields", "steps", "codes", "vectors"):
        assert getattr(index, name).tobytes() == getattr(other, name).tobytes(), name


def test_from_every_checkpoint_there_is_it_goes_on_to_the_same_end(tmp_path: Path, whole: Run) -> None:
    Run(s=small(trainer={"keep": 100}), path=tmp_path).until(N_RECORDS, poll=16)
    names = checkpoint.names(tmp_path)
    assert len(names) > 6
    for name in names:
        (tmp_path / "latest").write_text(name)
        with TemporaryDirectory() as folder:
            (Path(folder) / name).symlink_to(tmp_path / name)
            again = Run(path=Path(folder))
            assert str(again.pipeline.resumed_at) == "0.{}".format(int(name.split(".")[1]))
            assert again.finish().sha256 == whole.sha256
        assert again.said == whole.said[len(whole.steps) - len(again.steps) :]


@pytest.mark.parametrize("what", ["tensors.safetensors", "manifest.json", "place.bin", "joiners.bin"])
def test_where_the_latest_checkpoint_is_damaged_the_one_before_it_is_used(
    tmp_path: Path, whole: Run, what: str
) -> None:
    Run(path=tmp_path).until(N_RECORDS)
    names = checkpoint.names(tmp_path)
    damage(tmp_path / names[-1] / what)
    again = Run(path=tmp_path)
    assert str(again.pipeline.resumed_at) == "0.{}".format(int(names[-2].split(".")[1]))
    assert again.finish().sha256 == whole.sha256
    for name in {*checkpoint.names(tmp_path)} - {names[-1]}:
        damage(tmp_path / name / what)
    with pytest.raises(DamagedCheckpoint, match="expected"):
        Run(path=tmp_path)


def test_run_again_after_the_end_nothing_changes(tmp_path: Path, whole: Run) -> None:
    Run(path=tmp_path).finish()
    again = Run(path=tmp_path).finish()
    assert again.steps == []
    assert again.sha256 == whole.sha256
    assert again.pipeline.counts() == whole.pipeline.counts()
    assert again.pipeline.index.version == whole.pipeline.loop.version


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"dim": 16}},
        {"model": {"seed": 2}},
        {"model": {"lr": 0.0123}},
        {"stream": {"lateness_ms": 501}},
        {"stream": {"partitions": 3}},
        {"stream": {"windows": {"like": 2_000, "click": 2_000}}},
        {"features": [{"name": "category", "of": "item"}]},
    ],
    ids=str,
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    s = small(stream={"windows": {"click": 2_000, "like": 2_000}})
    Run(make_log(SENT[-100:], 2), s, tmp_path).finish()
    raw = msgspec.to_builtins(s)
    for section, values in changes.items():
        raw[section] = {**raw[section], **values} if isinstance(values, dict) else values
    other = msgspec.convert(raw, Settings)
    (section,) = changes
    with pytest.raises(
        CheckpointError, match=rf"expected the same \[{section}\] settings as it was made with"
    ):
        Run(make_log(SENT[-100:], other.stream.partitions), other, tmp_path)
    harmless = small(
        stream={"windows": {"click": 2_000, "like": 2_000}}, trainer={"keep": 9, "checkpoint_ms": 7}
    )
    assert Run(make_log(SENT[-100:], 2), harmless, tmp_path).pipeline.resumed_at is not None


@pytest.mark.parametrize("changes", [{}, {"coded": 1}, {"bits": 128}], ids=str)
def test_after_quiescence_the_index_is_in_step_to_the_bit(changes: dict[str, Any]) -> None:
    pipeline = (
        Run(s=small(model=changes, stream={"history_ttl_ms": 4_000}, trainer={"row_ttl_ms": 4_000}))
        .finish()
        .pipeline
    )
    table, index = pipeline.learner.table, pipeline.index.load()
    assert index is not None
    assert index.version == pipeline.loop.version
    slots = np.flatnonzero(table.keys)
    assert sorted(index.keys.tolist()) == sorted(table.keys[slots].tolist())
    held = pipeline.index.get(table.keys[slots])
    assert held.steps.tolist() == table.changed[slots].tolist()
    bits, n_coded = 0, len(table.planes)
    for f in range(n_coded):
        of_field = table.fields[slots] == f
        codes = encode(table.rows[slots[of_field]], table.planes[f])
        bits += int(hamming(codes, held.codes[of_field]).sum())
        bits += int(hamming(codes, table.codes[slots[of_field]]).sum())
        assert of_field.sum() > 3
    assert bits == 0
    assert not held.codes[table.fields[slots] >= n_coded].any()


def test_what_has_been_learned_and_indexed_is_let_go() -> None:
    run = Run()
    most = 0
    for _ in run.pumps(24):
        p = run.pipeline
        assert p.model.start() == p.model.end()
        assert p.samples.start() == p.loop.offsets
        if min(p.loop.offsets.values()) > 0:
            most = max(most, sum(p.samples.end().values()) - sum(p.samples.start().values()))
    assert 0 < most < N_SLATES


def test_held_back_codes_follow_every_so_many_steps(whole: Run) -> None:
    run = Run(refresh_every=7).finish()
    moved = [s.version.step for s in run.steps if s.predicted.n_flipped]
    assert moved
    assert all(step % 7 == 0 for step in moved)
    assert sum(s.predicted.n_flipped > 0 for s in whole.steps) > 2 * len(moved)


def test_faults_in_the_log_are_counted_and_the_rest_is_learned(tmp_path: Path) -> None:
    sent = list(lines(SENT, Faults(duplicated=0.1, late=0.1, late_s=5, broken=0.05, seed=2)))
    write_events(tmp_path / "log.jsonl", sent)
    log, dealt = MemoryLog(2), FileSource(tmp_path / "log.jsonl", 2)
    for record in dealt.poll(1 << 20):
        log.append(record.partition, record.key, record.value)
    path = tmp_path / "checkpoints"
    Run(log, path=path).until(9 * sum(log.end().values()) // 10)
    again, expected = Run(log, path=path).finish(), Run(log).finish()
    assert again.sha256 == expected.sha256
    assert again.pipeline.resumed_at is not None
    counts = again.pipeline.counts()
    assert counts == expected.pipeline.counts()
    assert counts.pop("in") == counts.total()
    reasons = {name.split(".")[0] for name in counts}
    assert {"used", "dead", "duplicate", "late", "orphan"} <= reasons
    dead = {name.removeprefix("dead."): n for name, n in counts.items() if name.startswith("dead.")}
    assert again.pipeline.dead == expected.pipeline.dead == dead


class TestTooManyDead:
    """The share of records that cannot be used is bounded."""

    def log(self, n_dead: int) -> MemoryLog:
        broken = [b"{}"] * n_dead
        return make_log([*SENT[:-20], *broken, *SENT[-20:]], 2)

    def n_in(self, n_dead: int) -> int:
        return sum(make_log(SENT[:-20], 2).end().values()) + n_dead

    def test_it_stops_loudly(self) -> None:
        n = self.n_in(0) // 4 + 1_000
        with pytest.raises(TooManyDeadError) as e:
            Run(self.log(n)).finish()
        for part in ("expected at most 20% unusable records, got", "the last: ", "events 0:"):
            assert part in str(e.value)
        assert "\n" not in str(e.value)

    @pytest.mark.parametrize("n", [0, 999])
    def test_a_few_are_no_reason_to_stop(self, n: int) -> None:
        run = Run(self.log(n), small(stream={"max_dead": 0.001})).finish()
        assert run.pipeline.dead.total() == run.pipeline.counts()["dead.undecodable"] == n
        assert run.pipeline.loop.n_samples == N_SLATES
        assert (run.pipeline.last_dead is None) == (n == 0)

    def test_those_before_a_restart_count_too(self, tmp_path: Path) -> None:
        s = small(stream={"max_dead": 0.4})
        limit = self.limit(s)
        log = make_log([*SENT[:-60], *[b"{}"] * 900, *SENT[-60:], *[b"{}"] * (limit - 900)], 2)
        with pytest.raises(TooManyDeadError) as e:
            Run(log, s).finish()
        run = Run(log, s, tmp_path)
        for _ in run.pumps(24):
            if run.pipeline.dead.total() >= 900 and checkpoint.names(tmp_path):
                break
        run.pipeline.save()
        with pytest.raises(TooManyDeadError) as again:
            Run(log, s, tmp_path).finish()
        assert str(again.value) == str(e.value)

    def limit(self, s: Settings) -> int:
        """Enough to stop at the end."""
        used = sum(LOG.end().values())
        return round(used * s.stream.max_dead / (1 - s.stream.max_dead)) + 5


def ordered(*orders: tuple[int, str]) -> MemoryLog:
    """The log with orders in partition 0, before the slates of these numbers."""
    wanted, sent, n_shown = dict(orders), list[Event | bytes](), 0
    for event in SENT:
        if isinstance(event, Impression):
            if n_shown in wanted:
                sent.append(encode_event(Tick(event.at_ms, wanted[n_shown])))
            n_shown += 1
        sent.append(event)
    return make_log(sent, 2)


def held(run: Run) -> list[str]:
    return [s.impression for step in run.steps if step.why_held for s in step.samples]


@pytest.mark.parametrize("last", ["release", "learn"])
def test_a_person_holds_training_through_the_log_and_lets_it_go_on(tmp_path: Path, last: str) -> None:
    log = ordered((40, "hold"), (90, last))
    run = Run(log).finish()
    names = held(run)
    assert 10 < len(names) < N_SLATES - 20
    assert run.pipeline.loop.n_samples == N_SLATES - (len(names) if last == "release" else 0)
    assert run.pipeline.counts()["used.order"] == 2
    assert Run(log).finish(7, 100).sha256 == run.sha256
    # stopped while it holds, with a checkpoint, and gone on with
    n = sum(log.end().values())
    stopped = Run(log, path=tmp_path)
    for _ in stopped.pumps(8):
        if held(stopped):
            break
    stopped.pipeline.save()
    again = Run(log, path=tmp_path).finish()
    assert sum(again.pipeline.source.offsets.values()) == n
    assert again.sha256 == run.sha256
    assert again.pipeline.loop.n_samples == run.pipeline.loop.n_samples


def test_what_is_refused_goes_into_no_index_and_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_learned, refused = 30, list[int]()

    def why_not(self: Canary, predict: Any, *, again: bool = False) -> str:
        if (n_steps := predict.__self__.n_steps) <= n_learned:
            return ""
        refused.append(n_steps)
        return "worse"

    monkeypatch.setattr(Canary, "why_not", why_not)
    s = small(breaker={"held_back": 0.3}, trainer={"batch_samples": 2})
    run = Run(s=s, path=tmp_path).finish(8)
    assert run.pipeline.loop.version.step > n_learned + 10
    assert run.pipeline.index.version is not None
    assert run.pipeline.index.version.step <= n_learned
    saved = [checkpoint.load(tmp_path, name).version.step for name in checkpoint.names(tmp_path)]
    assert max(saved) < min(refused), "what is not tried yet may be in one, what was refused is in none"
    again = Run(s=s, path=tmp_path)
    assert again.pipeline.index.version == again.pipeline.resumed_at == checkpoint.load(tmp_path).version
    assert again.finish(8).sha256 == run.sha256
