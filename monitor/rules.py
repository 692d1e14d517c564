"""Rules: which figures of which windows are judged by what, how bad it is, and what it explains; read from one TOML.

>>> rules = read_rules()
>>> rules["clicks-stopped"].severity, "ne-worse" in rules.explained_by("clicks-stopped")
('page', True)
>>> [rule.id for rule in rules.of("data.coverage.click", 60_000)]
['ctr-jump', 'clicks-stopped', 'ctr-drop']
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Annotated, get_args

import msgspec
from msgspec import Meta, Struct

from monitor.alert import SEVERITIES, Severity
from monitor.detectors import Detector
from monitor.measures import MEASURES, measure_of
from monitor.row import SIZES_MS, Value
from monitor.verdict import Verdict

SHIPPED = "alerts.toml"
WINDOWS = {60_000: "minute", 600_000: "10 minutes", 3_600_000: "hour"}
WORDS = frozenset({"title", "of", "value", "error", "reference", "spread", "n", "counted", "window"})
"""What a reason may name: the figure, what it is of, and what it is held against."""

Windows = Annotated[int, Meta(ge=1, le=1_440)]


class RulesError(ValueError):
    """Rules that cannot be: file, rule and field, what was expected, what came."""


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that may be wrong."""

    id: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)]
    metrics: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Names of `monitor.measures`; what is behind their second dot may be a pattern: ``quality.ne.*``."""
    size_ms: int
    detector: Detector
    severity: Severity
    reason: str
    """In words; ``{value}`` and the like are the figures, see `WORDS`."""
    remedy: Annotated[str, Meta(min_length=1)]
    but: tuple[str, ...] = ()
    """Of the metrics, those that are not meant."""
    in_a_row: Windows = 1
    """Windows that must be out before it is raised; and as many must not be, before it is over."""
    keep: Windows = 60
    """Windows before that a window is held against."""
    adopt: Windows = 60
    """After so many windows out, that is how it is now."""
    explains: tuple[str, ...] = ()
    """Rules that are silent while this one's is so, and ``linger`` windows longer: this is their cause."""
    linger: Annotated[int, Meta(ge=0, le=1_440)] = 10
    """Of the window of the rule that is silent."""

    def is_about(self, metric: str) -> bool:
        """Whether this judges a metric."""
        matches = any(fnmatchcase(metric, pattern) for pattern in self.metrics)
        return matches and not any(fnmatchcase(metric, pattern) for pattern in self.but)

    def advised(self, metric: str) -> str:
        """The remedy; it may name what the figure is of."""
        return self.remedy.replace("{of}", _of(metric))

    def told(self, metric: str, now: Value, verdict: Verdict) -> str:
        """The reason, with its figures."""
        measure = measure_of(metric)
        unit = {"s": " s", "bits": " bits", "degrees": " degrees", "per_s": " a second"}.get(measure.unit, "")
        return self.reason.format(
            title=measure.title,
            of=_of(metric),
            value=_figure(now.value) + unit,
            error=_figure(now.error),
            reference=_figure(verdict.reference) + unit,
            spread=_figure(verdict.error),
            n=f"{now.n:,}",
            counted=measure.n,
            window=WINDOWS[self.size_ms],
        )


class Rules:
    """All rules, causes before what they explain.

    Raises
    ------
    RulesError
        For an id that stands twice, a metric that is not measured, a cause that is judged later than what it explains
        or explains itself in a circle, and whatever else cannot be.
    """

    def __init__(self, rules: Iterable[Rule], where: str = "rules") -> None:
        by_id: dict[str, Rule] = {}
        for rule in rules:
            if rule.id in by_id:
                raise RulesError(f"{where}: {rule.id}: expected an id that no other rule has")
            by_id[rule.id] = rule
        for rule in by_id.values():
            _check(rule, by_id, f"{where}: {rule.id}")
        self._rules = {rule.id: rule for rule in _ordered(by_id, where)}
        self._of: dict[tuple[str, int], tuple[Rule, ...]] = {}

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def __getitem__(self, rule_id: str) -> Rule:
        return self._rules[rule_id]

    def __contains__(self, rule_id: object) -> bool:
        return rule_id in self._rules

    def __len__(self) -> int:
        return len(self._rules)

    def of(self, metric: str, size_ms: int) -> tuple[Rule, ...]:
        """The rules that judge a metric in windows of a size, causes first."""
        key = metric, size_ms
        if key not in self._of:
            self._of[key] = tuple(r for r in self if r.size_ms == size_ms and r.is_about(metric))
        return self._of[key]

    def causes_of(self, rule_id: str) -> tuple[Rule, ...]:
        """The rules that explain a rule, directly or by what they explain."""
        return tuple(rule for rule in self if rule_id in self.explained_by(rule.id))

    def explained_by(self, rule_id: str) -> set[str]:
        """Ids of the rules that a rule explains, directly or by what it explains."""
        found: set[str] = set()
        todo = list(self._rules[rule_id].explains)
        while todo:
            if (effect := todo.pop()) not in found:
                found.add(effect)
                todo += self._rules[effect].explains
        return found


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    rule: tuple[Rule, ...]


def read_rules(path: Path | None = None) -> Rules:
    """Read a file of rules; the shipped one without.

    Raises
    ------
    RulesError
        In one line: file, rule and field, what was expected, what came.
    """
    where = str(path) if path is not None else SHIPPED
    try:
        text = path.read_text() if path is not None else (files("monitor") / SHIPPED).read_text()
    except OSError as e:
        raise RulesError(f"{where}: expected a file of rules, got: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise RulesError(f"{where}: expected UTF-8, got: {e}") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise RulesError(f"{where}: expected TOML, got: {e}") from None
    try:
        found = msgspec.convert(raw, _File)
    except msgspec.ValidationError as e:
        raise RulesError(f"{where}: {_explained(str(e), raw)}") from None
    return Rules(found.rule, where)


def _check(rule: Rule, by_id: dict[str, Rule], where: str) -> None:
    if rule.size_ms not in SIZES_MS:
        sizes = ", ".join(map(str, SIZES_MS))
        raise RulesError(f"{where}: size_ms: expected one of {sizes}, got {rule.size_ms}")
    for name in (*rule.metrics, *rule.but):
        try:
            measure = measure_of(name)
        except KeyError:
            known = ", ".join(m.name for m in MEASURES if m.name.split(".")[0] == name.split(".")[0])
            expected = f"a name of monitor/measures.py ({known or 'quality.ne.click ...'})"
            raise RulesError(f"{where}: metrics: expected {expected}, got {name!r}") from None
        is_of = name.count(".") > 1
        if (is_of and not measure.of) or (not is_of and measure.of not in ("", "reason")):
            expected = (
                f"{measure.name}.{measure.of.upper()} or {measure.name}.*" if measure.of else measure.name
            )
            raise RulesError(f"{where}: metrics: expected {expected}, got {name!r}")
    try:
        named = {name for _, name, _, _ in Formatter().parse(rule.reason) if name is not None}
    except ValueError as e:
        raise RulesError(f"{where}: reason: expected words and figures in braces, got: {e}") from None
    if unknown := named - WORDS:
        raise RulesError(
            f"{where}: reason: expected {', '.join(sorted(WORDS))} in braces, got {min(unknown)!r}"
        )
    for effect in rule.explains:
        if effect not in by_id:
            raise RulesError(f"{where}: explains: expected the id of a rule, got {effect!r}")
        if by_id[effect].size_ms < rule.size_ms:
            expected = f"a rule of windows of {rule.size_ms} ms or longer, as its own"
            got = f"{effect!r} of {by_id[effect].size_ms}"
            raise RulesError(f"{where}: explains: expected {expected}, got {got}")


def _ordered(by_id: dict[str, Rule], where: str) -> list[Rule]:
    """Causes before what they explain; otherwise as they stand."""
    done: dict[str, Rule] = {}
    rest = dict(by_id)
    while rest:
        explained = {effect for rule in rest.values() for effect in rule.explains}
        free = [rule for rule in rest.values() if rule.id not in explained]
        if not free:
            circle = " -> ".join(_circle(rest))
            raise RulesError(f"{where}: explains: expected causes and effects, got a circle: {circle}")
        for rule in free:
            done[rule.id] = rest.pop(rule.id)
    return list(done.values())


def _circle(rules: dict[str, Rule]) -> list[str]:
    """One circle among rules of which each is explained by another."""
    causes = {effect: rule.id for rule in rules.values() for effect in rule.explains}
    path = [next(iter(rules))]
    while path[-1] not in path[:-1]:
        path.append(causes[path[-1]])
    return path[path.index(path[-1]) :][::-1]


def _explained(message: str, raw: object) -> str:
    """Turn msgspec's message into ours: the rule by its id, the field, what was expected, what came."""
    what, _, at = message.partition(" - at ")
    path = [int(p) if p.isdigit() else p for p in re.findall(r"[^.\[\]$`]+", at)]
    got, name, fields = raw, "", path
    for depth, part in enumerate(path):
        try:
            got = got[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            break
        if depth == 1 and isinstance(got, dict):
            name, fields = str(got.get("id", f"rule {int(part) + 1}")), path[2:]
    place = ": ".join(filter(None, (name, ".".join(map(str, fields)))))
    what = re.sub(r", got .*$", "", what)
    if what.startswith("Invalid") and (allowed := _allowed(fields)):
        what = f"expected one of {', '.join(allowed)}"
    shown = "" if isinstance(got, dict) else f", got {got!r}"
    return f"{place}: {what[0].lower()}{what[1:]}{shown}".removeprefix(": ")


def _allowed(fields: list[str | int]) -> list[str]:
    """The values that a field may have, of those that have a fixed few."""
    if fields == ["detector", "kind"]:
        return sorted(str(kind.__struct_config__.tag) for kind in get_args(Detector))
    return list(SEVERITIES) if fields == ["severity"] else []


def _of(metric: str) -> str:
    """What a metric is of: what stands behind its second dot."""
    return ".".join(metric.split(".")[2:])


def _figure(value: float | None) -> str:
    """Three figures of a number, as a person writes it.

    >>> [_figure(x) for x in (0.02, 0.41234, 75.4, 1234.5, 0.00001, 0.0, None)]
    ['0.02', '0.412', '75.4', '1,234', '1e-05', '0', 'unknown']
    """
    if value is None:
        return "unknown"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
