"""What must come of a log whatever happens on the way: one process undisturbed; and how a loop differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import numpy as np

from indexer.index import MemoryIndex, Update
from instep.pipeline import Pipeline
from instep.settings import Settings
from monitor.board import Board
from monitor.delivery import Delivery
from monitor.folder import Folder
from monitor.monitor import Monitor
from monitor.record import AlertRecord
from monitor.row import SIZES_MS, Row
from stream.events import Version, encode_sample
from stream.join import Dead, Joiner
from stream.log import MemoryLog, Record
from stream.metrics import Metrics
from tests.services import kept
from tests.services.installation import Installation
from tests.services.kept import Kept
from trainer import checkpoint
from trainer.loop import Step
from trainer.model.simhash import encode
from trainer.publication import Assembler
from trainer.scored import decode_scored

Score = tuple[str, str, Version, bytes, bytes]
"""Impression, stage, Version, predictions, labels."""


class _Recording(MemoryIndex):
    """An index that keeps the Versions it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[Version] = []

    def apply(self, update: Update) -> int:
        self.versions.append(update.version)
        return super().apply(update)


@dataclass(frozen=True)
class Undisturbed:
    """What one process makes of a log; lists are by partition."""

    samples: list[list[tuple[bytes, bytes]]]
    dead: list[list[bytes]]
    counts: list[dict[str, int]]
    version: Version
    n_samples: int
    weights_sha256: str
    published: list[Version]
    scores: list[list[Score]]
    """Up to the last publication."""
    index: Update
    profiles: Kept
    windows: dict[int, list[Row]]
    """What a monitor shows, by size, but how far the stages had come."""
    records: list[Record]
    """The log."""


def undisturbed(settings: Settings, records: Iterable[Record]) -> Undisturbed:
    """Join, learn, publish and index these events; what waits for its batch to be full is left waiting."""
    records = list(records)
    n = settings.stream.partitions
    joiners = [Joiner(settings.join_rules(), settings.fields, p) for p in range(n)]
    samples: list[list[tuple[bytes, bytes]]] = [[] for _ in range(n)]
    dead: list[list[bytes]] = [[] for _ in range(n)]
    log = MemoryLog(n)
    for record in records:
        log.append(record.partition, record.key, record.value)
        for out in joiners[record.partition].apply(record):
            if isinstance(out, Dead):
                dead[record.partition].append(msgspec.json.encode(out))
            else:
                samples[record.partition].append((record.key, encode_sample(out)))
    scores: list[list[Score]] = [[] for _ in range(n)]

    def on_step(step: Step) -> None:
        first, p = step.batch.first, step.predicted.p
        for b, sample in enumerate(step.samples):
            predicted = p[first[b] : first[b + 1]].tobytes()
            score = (sample.impression, sample.stage, step.version, predicted, sample.labels)
            scores[sample.origin.partition].append(score)

    board, delivery = Board(), Delivery(AlertRecord(), Metrics("monitor"))
    monitor = Monitor(settings.watch_rules(), settings.alert_rules(), board, delivery)
    pipeline = Pipeline(settings, log.source(), on_step=on_step, watch=monitor)
    pipeline.index = recording = _Recording()
    while pipeline.pump():
        monitor.turn()
    index = recording.load()
    assert index is not None, "expected a log that is long enough for a publication"
    return Undisturbed(
        samples=samples,
        dead=dead,
        counts=[dict(joiner.counts) for joiner in joiners],
        version=pipeline.loop.version,
        n_samples=pipeline.loop.n_samples,
        weights_sha256=checkpoint.weights_sha256(pipeline.learner.state()),
        published=recording.versions,
        scores=[[s for s in some if s[2] <= index.version] for some in scores],
        index=index,
        profiles=kept.expected(settings, records),
        windows=shown(board),
        records=records,
    )


def differences(loop: Installation, expected: Undisturbed) -> list[str]:
    """In what a loop that has come to rest differs from one that was never disturbed."""
    return [
        *_of_the_join(loop, expected),
        *_of_the_profiles(loop, expected),
        *_of_the_model(loop, expected),
        *_of_the_index(loop, expected),
        *_of_the_monitor(loop, expected),
    ]


def shown(board: Board) -> dict[int, list[Row]]:
    """Windows of what is in the topics, by size."""
    return {size: [r for r in board.rows(size) if r.source != "freshness"] for size in SIZES_MS}


def _of_the_monitor(loop: Installation, expected: Undisturbed) -> list[str]:
    windows, found = shown(Folder(Path(loop.settings.monitor.folder)).board()), []
    for size, wanted in expected.windows.items():
        got = {(r.source, r.start_ms): r for r in windows[size]}
        # of the newest, scores or publications may not have been written yet
        late = {(r.source, r.start_ms) for r in wanted} - got.keys()
        if len(late) > len({source for source, _ in late}) or ("data" in {source for source, _ in late}):
            found.append(
                f"windows of {size} ms: expected {len(wanted)}, got {len(got)}, without {sorted(late)}"
            )
        wrong = [r for r in wanted if got.get((r.source, r.start_ms), r) != r]
        found += [f"window of {r.source} at {r.start_ms} of {size} ms: expected other figures" for r in wrong]
        if got.keys() - {(r.source, r.start_ms) for r in wanted}:
            found.append(f"windows of {size} ms: expected {len(wanted)}, got {len(got)}")
    return found


def _of_the_join(loop: Installation, expected: Undisturbed) -> list[str]:
    found = []
    samples, dead, state = (loop.read(topic) for topic in ("samples", "dead", "joiner"))
    rules, named = loop.settings.join_rules(), loop.settings.fields
    for p in range(len(expected.samples)):
        found += _compared(f"samples {p}", [(r.key, r.value) for r in samples[p]], expected.samples[p])
        found += _compared(f"dead {p}", [r.value for r in dead[p]], expected.dead[p])
        held = {key: value for key, value in {r.key: r.value for r in state[p]}.items() if value}
        counts = Joiner.restore(rules, named, p, held).counts
        if counts != expected.counts[p]:
            found.append(f"counts {p}: expected {expected.counts[p]}, got {counts}")
        if counts["in"] != sum(n for name, n in counts.items() if name != "in"):
            found.append(f"counts {p}: expected as many out as in, got {counts}")
    return found


def _of_the_profiles(loop: Installation, expected: Undisturbed) -> list[str]:
    got, wanted = kept.histories(loop.settings, expected.records, loop.profiles), expected.profiles
    if kept.same(got, wanted):
        return []
    n_others = sum(not all(map(np.array_equal, got[user], wanted[user])) for user in wanted)
    return [
        f"profiles: expected {kept.total(wanted)} behaviours of {len(wanted)} users, got {kept.total(got)}: "
        f"{n_others} users differ"
    ]


def _of_the_model(loop: Installation, expected: Undisturbed, epoch: int = 0) -> list[str]:
    found = []
    last = checkpoint.load(loop.settings.trainer.checkpoints)
    place = msgspec.msgpack.decode(last.blobs["place"])
    pairs: list[tuple[str, object, object]] = [
        ("trainer's version", last.version, Version(epoch, expected.version.step)),
        ("samples learned", place["standing"]["n_samples"], expected.n_samples),
        ("weights", checkpoint.weights_sha256(last.tensors), expected.weights_sha256),
    ]
    found += [f"{what}: expected {wanted}, got {got}" for what, got, wanted in pairs if got != wanted]
    if epoch == 0:
        found += _compared("published", published(loop), expected.published)
        for p, records in loop.read("scores").items():
            scored = [decode_scored(r.value) for r in records]
            scores = [(s.impression, s.stage, s.version, s.p, s.labels) for s in scored]
            found += _compared(f"scores {p}", scores, expected.scores[p])
    return found


def _of_the_index(loop: Installation, expected: Undisturbed, epoch: int = 0) -> list[str]:
    held, wanted = loop.index.load(), expected.index
    if held is None:
        return ["index: expected what was published, got nothing"]
    found = []
    if held.version != Version(epoch, wanted.version.step):
        found.append(f"index: expected step {wanted.version.step} of epoch {epoch}, got {held.version}")
    arrays = [f.name for f in fields(Update) if f.name not in ("version", "since", "dense", "place")]
    found += [
        f"index: expected the {name} of the undisturbed run, got others"
        for name in arrays
        if not np.array_equal(getattr(held, name), getattr(wanted, name))
    ]
    if held.dense.keys() != wanted.dense.keys() or any(
        not np.array_equal(held.dense[name], w) for name, w in wanted.dense.items()
    ):
        found.append("index: expected the dense weights of the undisturbed run, got others")
    planes = checkpoint.load(loop.settings.trainer.checkpoints).tensors["table.planes"]
    for number, of_field in enumerate(planes):
        rows = held.fields == number
        if not np.array_equal(held.codes[rows], encode(held.vectors[rows], of_field)):
            found.append(
                f"index: expected codes of field {number} that are simhash of its vectors, got others"
            )
    return found


def after_rollback(loop: Installation, expected: Undisturbed, epoch: int) -> list[str]:
    """In what a loop that went back and learned again differs from one that never did, but for its epoch."""
    return [*_of_the_model(loop, expected, epoch), *_of_the_index(loop, expected, epoch)]


def published(loop: Installation) -> list[Version]:
    """The Versions on the model log."""
    assembler = Assembler()
    whole = [assembler.add(r.key, r.value) for r in loop.read("model")[0]]
    return [publication.version for publication in whole if publication is not None]


def _compared(what: str, got: Sequence[object], wanted: Sequence[object]) -> list[str]:
    if got == wanted:
        return []
    seen: dict[object, int] = {}
    for one in got:
        seen[one] = seen.get(one, 0) + 1
    n_lost = sum(one not in seen for one in wanted)
    n_twice = sum(n - 1 for n in seen.values())
    n_strange = len(set(seen) - set(wanted))
    return [
        f"{what}: expected {len(wanted)} in order, got {len(got)}: "
        f"{n_lost} lost, {n_twice} twice, {n_strange} that are in none"
    ]
