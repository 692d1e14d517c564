"""Judge: windows in, alerts raised and over out; one alert for one cause.

A metric that a rule finds out for ``in_a_row`` windows begins an *episode*; it ends when it is as usual for as many.
An episode is an alert unless a rule that explains its rule has one too, or had until ``linger`` windows ago: then it is
silent. Whether a cause shows in the same window is not known until all sources have told of that window, so an episode
that could have a cause waits for them, `PATIENCE` windows at most; one that no rule explains is raised at once::

    minute                  0    1    2    3    4
    coverage.click         .41  .02  .00  .01  .40     clicks-stopped: raised with 1, over with 4
    calibration.click      1.0  1.1  2.9  9.3  8.8     calibration-off: begins with 2, silent: explained
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from monitor.alert import Alert, cleared
from monitor.detectors import Usual
from monitor.measures import measure_of, source_of
from monitor.row import Row, Source, Value
from monitor.rules import Rule, Rules
from monitor.verdict import Verdict

PATIENCE = 2
"""Windows that an episode waits for what may explain it."""


class Silenced(Struct, frozen=True):
    """An alert that was not raised, and the rule that explains it."""

    alert: Alert
    by: str


class Judged(Struct, frozen=True):
    """What a window changed."""

    raised: tuple[Alert, ...] = ()
    cleared: tuple[Alert, ...] = ()
    silenced: tuple[Silenced, ...] = ()


class Track(Struct):
    """One metric under one rule: what is usual, and whether it is out."""

    rule: str
    metric: str
    source: Source
    usual: Usual
    judged_ms: int = 0
    """End of the last window that was judged."""
    n_out: int = 0
    """In a row, as `n_calm`."""
    n_calm: int = 0
    start_ms: int = 0
    """Of the first window of these, as ``offsets``."""
    offsets: dict[int, tuple[int, int]] = {}
    alert: Alert | None = None
    """Of the episode that goes on: raised, silent, or still to be decided."""
    state: str = ""
    """``waiting``, ``raised`` or ``silent``."""
    over_ms: int | None = None
    """When the last episode ended."""
    size_ms: int = 0
    """Of the windows that it was judged in; 0 in a state of before this was kept."""

    @property
    def is_open(self) -> bool:
        return self.alert is not None and self.alert.is_open


class _Saved(Struct):
    tracks: list[Track]
    seen: list[tuple[str, int, int]]


class Judge:
    """Judges windows by rules.

    Windows of one source and size come in order; one that is no newer than the last is passed over, so that a reader
    which starts again a little earlier changes nothing.

    >>> from monitor.rules import read_rules
    >>> judge = Judge(read_rules())
    >>> for minute in range(12):
    ...     coverage = Value(0.4 if minute < 11 else 0.0, 300, 0.03)
    ...     found = judge.add(Row("data", 60_000, minute * 60_000, {"data.coverage.click": coverage}))
    >>> [alert.reason for alert in found.raised]
    ['click coverage is 0 over 300 impressions; it was 0.4 ± 0.03 before']
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._causes = {rule.id: rules.causes_of(rule.id) for rule in rules}
        self._tracks: dict[str, dict[str, Track]] = {rule.id: {} for rule in rules}
        self._seen: dict[tuple[str, int], int] = {}

    def add(self, row: Row) -> Judged:
        """Judge a window, and what waited for it."""
        place = row.source, row.size_ms
        if row.start_ms < self._seen.get(place, 0):
            return Judged()
        for rule, metric in self._judged_by(row):
            self._follow(rule, metric, row)
        self._seen[place] = row.end_ms
        self._forget(row)
        return self._settle()

    @property
    def open(self) -> list[Alert]:
        """Alerts that are raised, oldest first."""
        raised = (t.alert for t in self._all() if t.state == "raised" and t.alert is not None)
        return sorted(raised, key=lambda alert: (alert.raised_ms, alert.id))

    def missed(self, told: Iterable[Alert]) -> tuple[Alert, ...]:
        """Of the alerts that were told of, those whose windows this has judged and found nothing in: they are over.

        An earlier judge raised them, under other rules or with another memory of what is usual.
        """
        known = {track.alert.id for track in self._all() if track.alert is not None}
        found = []
        for alert in told:
            seen_ms = self._seen.get((source_of(alert.metric), alert.size_ms), 0)
            if alert.is_open and alert.raised_ms <= seen_ms and alert.id not in known:
                found.append(cleared(alert, seen_ms))
        return tuple(found)

    def encode(self) -> bytes:
        """All that it remembers."""
        seen = [(source, size, end) for (source, size), end in sorted(self._seen.items())]
        return msgspec.msgpack.encode(_Saved(list(self._all()), seen))

    @classmethod
    def decode(cls, rules: Rules, raw: bytes) -> Judge:
        """What was encoded, under these rules; of a rule that is gone, is no longer about a metric, or is of other
        windows, nothing is kept.

        msgspec.DecodeError for anything else.
        """
        saved = msgspec.msgpack.decode(raw, type=_Saved)
        judge = cls(rules)
        for track in saved.tracks:
            if track.rule not in rules:
                continue
            rule = rules[track.rule]
            if rule.is_about(track.metric) and track.size_ms in (0, rule.size_ms):
                judge._tracks[track.rule][track.metric] = track
        judge._seen = {(source, size): end for source, size, end in saved.seen}
        return judge

    def _all(self) -> Iterator[Track]:
        for of_rule in self._tracks.values():
            yield from of_rule.values()

    def _judged_by(self, row: Row) -> Iterator[tuple[Rule, str]]:
        """The rules and metrics of a window that say something."""
        for metric, value in sorted(row.values.items()):
            if value.value is not None and value.n >= measure_of(metric).least:
                for rule in self._rules.of(metric, row.size_ms):
                    yield rule, metric

    def _follow(self, rule: Rule, metric: str, row: Row) -> None:
        """One window of one metric under one rule."""
        track = self._tracks[rule.id].get(metric)
        if track is None:
            track = self._tracks[rule.id][metric] = Track(
                rule.id, metric, row.source, Usual(), size_ms=rule.size_ms
            )
        now = row.values[metric]
        verdict = track.usual.judge(rule.detector, now, rule.keep, rule.adopt)
        track.judged_ms = row.end_ms
        if not verdict.is_out:
            track.n_out, track.n_calm = 0, track.n_calm + 1
            if track.is_open and track.n_calm >= rule.in_a_row:
                _end(track, row.end_ms)
            return
        if track.n_out == 0:
            track.start_ms, track.offsets = row.start_ms, {}
        track.n_out, track.n_calm = track.n_out + 1, 0
        if not track.is_open and track.n_out <= rule.in_a_row:
            track.offsets = _joined(track.offsets, row.offsets)
        if track.alert is None and track.n_out >= rule.in_a_row:
            track.alert, track.state = _alert(rule, track, row, now, verdict), "waiting"

    def _forget(self, row: Row) -> None:
        """End what has not been judged for as long as it takes to adopt a level: nothing is known of it any more."""
        for track in self._all():
            rule = self._rules[track.rule]
            if (track.source, rule.size_ms) != (row.source, row.size_ms) or not track.is_open:
                continue
            if row.end_ms - track.judged_ms >= rule.adopt * rule.size_ms:
                track.n_out = 0
                _end(track, row.end_ms)

    def _settle(self) -> Judged:
        """Decide what can be decided, causes first, and hand out what has changed."""
        raised, over, silenced = [], [], []
        for track in self._all():
            if track.alert is None:
                continue
            rule = self._rules[track.rule]
            if track.state != "raised":
                was, by = track.state, self._cause(rule, track)
                if by is not None:
                    track.state = "silent"
                    if was == "waiting":
                        silenced.append(Silenced(track.alert, by))
                elif was == "silent" or not self._must_wait(rule, track):
                    track.state = "raised"
                    raised.append(cleared(track.alert, None))
            if not track.alert.is_open:
                if track.state == "raised":
                    over.append(track.alert)
                if track.state != "waiting":
                    track.alert, track.state = None, ""
        return Judged(tuple(raised), tuple(over), tuple(silenced))

    def _cause(self, rule: Rule, track: Track) -> str | None:
        """The rule whose episode explains this one's."""
        assert track.alert is not None
        now_ms = (track.judged_ms if track.is_open else track.alert.raised_ms) - rule.size_ms
        for cause in self._causes[rule.id]:
            for other in self._tracks[cause.id].values():
                until_ms = -1 if other.over_ms is None else other.over_ms + cause.linger * rule.size_ms
                if other.is_open or now_ms <= until_ms:
                    return cause.id
        return None

    def _must_wait(self, rule: Rule, track: Track) -> bool:
        """Whether a cause may still show."""
        assert track.alert is not None
        until_ms = track.alert.raised_ms
        if self._seen[track.source, rule.size_ms] >= until_ms + PATIENCE * rule.size_ms:
            return False
        for cause in self._causes[rule.id]:
            for other in self._tracks[cause.id].values():
                is_suspect = other.n_out > 0 and not other.is_open
                if is_suspect or self._seen[other.source, cause.size_ms] < until_ms:
                    return True
        return False


def _alert(rule: Rule, track: Track, row: Row, now: Value, verdict: Verdict) -> Alert:
    fields: dict[str, Any] = {"detector": type(rule.detector).__struct_config__.tag}
    return Alert(
        rule=rule.id,
        metric=track.metric,
        size_ms=rule.size_ms,
        start_ms=track.start_ms,
        raised_ms=row.end_ms,
        value=now.value or 0.0,
        error=now.error,
        n=now.n,
        reference=verdict.reference,
        reference_error=verdict.error,
        severity=rule.severity,
        reason=rule.told(track.metric, now, verdict),
        remedy=rule.advised(track.metric),
        offsets=track.offsets,
        **fields,
    )


def _end(track: Track, at_ms: int) -> None:
    """Its episode is over."""
    assert track.alert is not None
    track.alert = cleared(track.alert, at_ms)
    track.over_ms = at_ms


def _joined(
    first: dict[int, tuple[int, int]], second: dict[int, tuple[int, int]]
) -> dict[int, tuple[int, int]]:
    """What holds both stretches, partition by partition."""
    joined = dict(first)
    for p, (start, end) in second.items():
        low, high = joined.get(p, (start, end))
        joined[p] = min(low, start), max(high, end)
    return joined
