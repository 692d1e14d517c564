"""What a window of samples is like: rates and coverage as they were read, labels, keys, and how they have drifted.

Rates come from the joiner's Ticks, which carry counts since its partition began: what a Tick has more than the one
before it belongs to the window of the Tick's time. So they are there while training stands still, before any label.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from sys import intern

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from monitor.bins import SHAPE, count_keys, count_scores, entropy_bits, psi
from monitor.keys import KeyCounts, KeyCountsState
from monitor.known import Known
from monitor.moments import moments, ratio, total
from monitor.popular import cells_of
from monitor.row import Value
from monitor.sampled import Searched, draw_least, keep_least
from monitor.seen import FULL, Seen
from monitor.tally import Ints, Packed, Tally
from monitor.windows import Reference
from stream.events import Sample
from trainer.batch import boundaries

log = logging.getLogger(__name__)

_ODD = np.uint64(0x9E3779B97F4A7C15)
"""Times an item's key, before a feature's is laid over it."""

KILO = 1_024
"""Lengths are counted in so many: their squares are then whole units, and two billion of 65,536 add up."""


def paired(field: str) -> str:
    """The name under which pairs of an item and this feature are counted."""
    return f"item+{field}"


REASONS = ("late", "duplicate", "dead", "orphan")
"""What may become of a record but use: how the names of the joiner's counts begin."""

NO_EVENTS = ("used.tick", "late.tick", "used.order")
"""What the joiner counts that tells of nothing that happened."""


class DataState(Struct, array_like=True):
    """As it is kept."""

    tally: dict[str, Packed]
    keys: dict[str, KeyCountsState]
    searched: list[Searched]
    offsets: dict[int, tuple[int, int]]


class DataWindow:
    """What is counted of a window. Adds up exactly."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.keys: dict[str, KeyCounts] = {}
        """Of the minute, by field; what is made of them when it closes adds up."""
        self.searched: list[Searched] = []
        """Some slates with their histories, of the minute."""
        self.offsets: dict[int, tuple[int, int]] = {}

    def tick(self, read: Mapping[str, int], counts: Mapping[str, int]) -> None:
        """What a partition has read since its last Tick, and what became of it."""
        for group, increments in (("read", read), ("counts", counts)):
            for name, n in increments.items():
                self.tally.add(f"{group}.{name}", np.array([n]))

    def add(self, block: Sequence[Sample], minute: int, known: Known) -> None:
        """Count samples in, all of one minute."""
        n_kinds, n_fields = len(known.kinds), len(known.item_fields)
        for s in block:
            n_each = len(s.labels) // n_kinds
            if len(s.items) != 8 * n_fields * n_each or len(s.side) != 8 * len(known.side_fields):
                raise ValueError(
                    f"sample {s.origin}: expected {n_kinds} kinds, {n_fields} item fields and "
                    f"{len(known.side_fields)} side fields, got {len(s.labels)} labels, {len(s.items) // 8} and "
                    f"{len(s.side) // 8} keys"
                )
            start, stop = self.offsets.get(s.origin.partition, (s.origin.offset, 0))
            self.offsets[s.origin.partition] = min(start, s.origin.offset), max(stop, s.origin.offset + 1)
        self._add_labels(block, known.kinds)
        shown = [s for s in block if s.stage != "click"]
        if not shown:
            return
        first = boundaries([len(s.labels) // n_kinds for s in shown])
        items = np.frombuffer(b"".join([s.items for s in shown]), np.uint64).reshape(-1, n_fields)
        side = np.frombuffer(b"".join([s.side for s in shown]), np.uint64).reshape(len(shown), -1)
        each = np.arange(len(shown) + 1)
        for f, name in enumerate(known.item_fields):
            self._add_keys(name, np.ascontiguousarray(items[:, f]), first, minute, known.seen)
            if f > 0:  # which item has which feature
                pairs = items[:, 0] * _ODD ^ items[:, f]
                self.keys.setdefault(paired(name), KeyCounts()).add(pairs)
                known.seen[paired(name)].add(pairs, minute)
        for f, name in enumerate(known.side_fields):
            self._add_keys(name, np.ascontiguousarray(side[:, f]), each, minute, known.seen)
        self.tally.add("shown", cells_of(np.ascontiguousarray(items[:, 0])))
        lengths = np.array([[len(s.sequence_at) / 8 / KILO] for s in shown])
        self.tally.add("lengths", moments(lengths))
        self._add_scores(shown, n_kinds)
        self.searched = keep_least([*self.searched, *draw_least(shown, known.k)])

    def _add_labels(self, block: Sequence[Sample], kinds: Sequence[str]) -> None:
        labels = np.frombuffer(b"".join([s.labels for s in block]), np.uint8).reshape(-1, len(kinds))
        sizes = np.array([len(s.labels) // len(kinds) for s in block])
        slate = np.repeat(np.arange(len(block)), sizes)
        counted = np.where([s.stage == "click" for s in block], 0, sizes)
        for k, kind in enumerate(kinds):
            clicks = np.bincount(slate, labels[:, k], len(block))
            self.tally.add(f"{kind}.labels", moments(np.stack([counted, clicks], 1)))

    def _add_keys(
        self, name: str, keys: NDArray[np.uint64], first: Ints, minute: int, seen: Mapping[str, Seen]
    ) -> None:
        self.tally.add(f"bins.{name}", count_keys(keys, first))
        self.keys.setdefault(name, KeyCounts()).add(keys)
        seen[name].add(keys, minute)

    def _add_scores(self, shown: list[Sample], n_kinds: int) -> None:
        scored = [s for s in shown if len(s.scores) * n_kinds == 8 * len(s.labels)]
        if scored:
            scores = np.frombuffer(b"".join([s.scores for s in scored]), np.float64)
            self.tally.add(
                "bins..served", count_scores(scores, boundaries([len(s.scores) // 8 for s in scored]))
            )

    def close_minute(self, minute: int, known: Known) -> list[Searched]:
        """The minute is complete: settle which keys were new in it. Gives out the slates with their histories."""
        for name, counts in self.keys.items():
            self.tally.add(f"unseen.{name}", np.array(known.seen[name].unseen(counts, minute)))
            if known.seen[name].close(minute):
                log.warning("too many keys were seen to say any longer which are new field=%s", name)
        self.keys = {}
        searched, self.searched = self.searched, []
        return searched

    def merge(self, other: DataWindow) -> None:
        """Count in what another window has."""
        self.tally.merge(other.tally)
        for name, counts in other.keys.items():
            self.keys.setdefault(name, KeyCounts()).merge(counts)
        self.searched = keep_least([*self.searched, *other.searched])
        for partition, (start, stop) in other.offsets.items():
            own = self.offsets.get(partition, (start, stop))
            self.offsets[partition] = min(own[0], start), max(own[1], stop)

    @property
    def bins(self) -> Tally:
        """What later windows are compared with."""
        return self.tally.only("bins.")

    def values(self, size_ms: int, known: Known, reference: Reference, *, unseen: bool) -> dict[str, Value]:
        """All figures by name.

        Parameters
        ----------
        reference
            What the bins of keys and scores are compared with.
        unseen
            Whether the filter has been filling for long enough to say what is new.
        """
        found = self._of_reading(size_ms / 1000)
        for kind in known.kinds:
            labels = self.tally.get(f"{kind}.labels", (3, 3))
            found[intern(f"data.positives.{kind}")] = ratio(labels, 2, 1, round(total(labels, 1)))
        lengths = self.tally.get("lengths", (2, 2))
        n_slates = round(total(lengths, 0))
        found["data.behaviours"] = _times(ratio(lengths, 1, 0, n_slates), KILO)
        if n_slates == 0:
            return found
        for name in known.item_fields + known.side_fields:
            bins = self.tally.get(f"bins.{name}", SHAPE)
            found[intern(f"data.entropy.{name}")] = entropy_bits(bins)
            if (before := reference.of(f"bins.{name}")) is not None:
                found[intern(f"data.psi.{name}")] = psi(bins, before)
            if unseen:
                found[intern(f"data.unseen.{name}")] = self._unseen(name, n_slates, known.seen[name].fill)
        if unseen:
            for name in known.item_fields[1:]:
                found[intern(f"data.changed.{name}")] = self._changed(name, n_slates, known)
        if (before := reference.of("bins..served")) is not None and "bins..served" in self.tally.arrays:
            found["data.score_psi"] = psi(self.tally.arrays["bins..served"], before)
        return found

    def _of_reading(self, seconds: float) -> dict[str, Value]:
        """What the Ticks tell; nothing where they tell nothing."""
        read = {n.removeprefix("read."): int(a[0]) for n, a in self.tally.only("read.").arrays.items()}
        counts = {n.removeprefix("counts."): int(a[0]) for n, a in self.tally.only("counts.").arrays.items()}
        found: dict[str, Value] = {}
        if counts:
            n = counts.get("in", 0) - sum(counts.get(name, 0) for name in NO_EVENTS)
            found["data.events"] = _rate(n, seconds, n)
            for reason in REASONS:
                own = {
                    name: lost
                    for name, lost in counts.items()
                    if name.startswith(f"{reason}.") and name != "late.tick"
                }
                found[f"data.{reason}"] = _share(sum(own.values()), n)
                if reason == "dead":
                    found |= {intern(f"data.{name}"): _share(lost, n) for name, lost in own.items()}
        if read:
            shown = read.pop("impression", 0)
            n = shown + sum(read.values())
            found["data.impressions"] = _rate(shown, seconds, n)
            for kind, acted in sorted(read.items()):
                found[intern(f"data.actions.{kind}")] = _rate(acted, seconds, n)
                found[intern(f"data.coverage.{kind}")] = _coverage(acted, shown)
        return found

    def _unseen(self, name: str, n_slates: int, fill: float) -> Value:
        new, n = self.tally.get(f"unseen.{name}", (2,)).tolist()
        if n == 0 or fill > FULL:
            return Value(None, n)
        share = min(new / n / (1 - fill**3), 1.0)
        return Value(share, n, float(np.sqrt(share * (1 - share) / n_slates)))

    def _changed(self, name: str, n_slates: int, known: Known) -> Value:
        """Candidates whose item was seen, but not with this feature: of new pairs, those of new items are taken off."""
        pairs, n = self.tally.get(f"unseen.{paired(name)}", (2,)).tolist()
        new = self.tally.get(f"unseen.{known.item_fields[0]}", (2,)).tolist()[0]
        fill = known.seen[paired(name)].fill
        if n == 0 or fill > FULL:
            return Value(None, n)
        share = min(max(pairs - new, 0) / n / (1 - fill**3), 1.0)
        return Value(share, n, float(np.sqrt(share * (1 - share) / n_slates)))

    def encode(self) -> DataState:
        """All of it."""
        keys = {name: counts.encode() for name, counts in self.keys.items()}
        return DataState(self.tally.encode(), keys, self.searched, self.offsets)

    @classmethod
    def decode(cls, state: DataState) -> DataWindow:
        """What was encoded."""
        window = cls()
        window.tally = Tally.decode(state.tally)
        window.keys = {name: KeyCounts.decode(counts) for name, counts in state.keys.items()}
        window.searched, window.offsets = state.searched, state.offsets
        return window


def _times(value: Value, factor: float) -> Value:
    if value.value is None:
        return value
    return Value(value.value * factor, value.n, None if value.error is None else value.error * factor)


def _rate(n: int, seconds: float, of: int) -> Value:
    return Value(n / seconds, of, float(np.sqrt(max(n, 0))) / seconds)


def _share(part: int, n: int) -> Value:
    if n <= 0:
        return Value(None, 0)
    share = part / n
    return Value(share, n, float(np.sqrt(max(share * (1 - share), 0.0) / n)))


def _coverage(acted: int, shown: int) -> Value:
    if shown <= 0:
        return Value(None, 0)
    return Value(acted / shown, shown, float(np.sqrt(max(acted, 1) * (1 + acted / shown))) / shown)
