"""Which columns of a file mean what: a mapping in TOML, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from instep.datasets import CLICK_AFTER_MS
from instep.reading import BadDataset
from instep.settings import SettingsError, check, explain

Name = Annotated[str, Meta(min_length=1)]
Ms = Annotated[int, Meta(ge=0, le=10**12)]


class Time(Struct, frozen=True, forbid_unknown_fields=True):
    """[time]: when a row was shown. The columns ``at`` of actions are read in the same way."""

    column: Name
    unit: Literal["s", "ms"] = "s"
    offset_ms: Annotated[int, Meta(ge=-(2**53), le=2**53)] = 0
    """Added to every time, where they do not count from 1970."""


class MappedAction(Struct, frozen=True, forbid_unknown_fields=True):
    """[[actions]]: a kind of action. The first is what is ranked by."""

    kind: Name
    column: Name
    yes: tuple[str, ...] = ("1",)
    """Values of the column that say that it was done."""
    at: Name | None = None
    """The column of when it was done."""
    delay_ms: Ms | None = None
    """How long after the slate it was done, if no column says so. [500]"""
    window_ms: Annotated[int, Meta(ge=1, le=10**12)] | None = None
    """Within how long after its slate it is a label. [delay_ms; must be said where there is an ``at``]"""

    @property
    def after_ms(self) -> int:
        return CLICK_AFTER_MS if self.delay_ms is None else self.delay_ms


class MappedFeature(Struct, frozen=True, forbid_unknown_fields=True):
    """[[features]]: as in instep.toml, and the column it comes from. The first of an item is its category."""

    name: Name
    of: Literal["user", "context", "item"]
    column: Name | None = None
    """[the name]"""
    kind: Literal["categorical", "numeric"] = "categorical"
    edges: tuple[float, ...] = ()

    @property
    def source(self) -> str:
        return self.name if self.column is None else self.column


class Mapping(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    user: Name
    item: Name
    time: Time
    actions: Annotated[tuple[MappedAction, ...], Meta(min_length=1)]
    features: tuple[MappedFeature, ...] = ()
    slate: Name | None = None
    """The column whose value rows of one slate share; without it every row is a slate of its own."""
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    columns: tuple[Name, ...] | None = None
    """Names of the columns, of a file that does not begin with them."""
    null: tuple[str, ...] = ("",)
    """Values that say that there is none."""
    history_kinds: tuple[str, ...] | None = None
    """Kinds of action that become behaviours. [the first]"""

    @property
    def behaviours(self) -> tuple[str, ...]:
        return (self.actions[0].kind,) if self.history_kinds is None else self.history_kinds

    @property
    def windows(self) -> dict[str, int]:
        """Attribution windows in ms, by kind."""
        return {a.kind: a.window_ms or max(a.after_ms, 1) for a in self.actions}

    def named(self) -> Iterator[tuple[str, str]]:
        """Every column that is named, and where."""
        yield from (("user", self.user), ("item", self.item), ("time.column", self.time.column))
        if self.slate is not None:
            yield "slate", self.slate
        for i, action in enumerate(self.actions):
            yield f"actions[{i}].column", action.column
            if action.at is not None:
                yield f"actions[{i}].at", action.at
        for i, feature in enumerate(self.features):
            yield f"features[{i}].{'name' if feature.column is None else 'column'}", feature.source

    def settings(self) -> dict[str, Any]:
        """What of the settings follows from it."""
        features = []
        for f in self.features:
            numeric = {"kind": f.kind, "edges": list(f.edges)} if f.kind == "numeric" else {}
            features.append({"name": f.name, "of": f.of, **numeric})
        return {
            "features": features,
            "stream": {"windows": self.windows, "history_kinds": list(self.behaviours)},
        }


def load(path: str | Path) -> Mapping:
    """Read a mapping.

    Raises
    ------
    SettingsError
        In one line: file, place in it, what was expected, what came.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise SettingsError(f"{path}: expected a mapping, got: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path}: expected TOML, got: {e}") from None
    try:
        mapping = msgspec.convert(raw, Mapping)
    except msgspec.ValidationError as e:
        raise SettingsError(f"{path}: {explain(str(e), raw, Mapping)}") from None
    _check_together(mapping, path)
    check(mapping.settings(), str(path))
    return mapping


def _check_together(mapping: Mapping, path: str | Path) -> None:
    """What one part of it asks of another."""
    kinds = [action.kind for action in mapping.actions]
    rules: list[tuple[str, bool, str, object]] = [
        ("actions", len(set(kinds)) == len(kinds), "kinds that differ", kinds),
        (
            "history_kinds",
            set(mapping.behaviours) <= set(kinds),
            f"kinds of actions ({', '.join(kinds)})",
            list(mapping.behaviours),
        ),
        ("delimiter", mapping.delimiter not in '"\r\n', "a character that separates", mapping.delimiter),
    ]
    if mapping.columns is not None:
        names = list(mapping.columns)
        rules.append(("columns", len(set(names)) == len(names), "names that differ", names))
    for i, action in enumerate(mapping.actions):
        where = f"actions[{i}]"
        if action.at is None:
            window_ms = mapping.windows[action.kind]
            fits = window_ms >= action.after_ms
            rules.append((f"{where}.window_ms", fits, f"at least the delay of {action.after_ms}", window_ms))
        else:
            both = action.delay_ms is not None
            rules.append((f"{where}.delay_ms", not both, "none where there is an at", action.delay_ms))
            said = action.window_ms is not None
            rules.append((f"{where}.window_ms", said, "one where there is an at", "none"))
        rules.append((f"{where}.yes", bool(action.yes), "at least one value", "none"))
    for place, ok, expected, got in rules:
        if not ok:
            raise SettingsError(f"{path}: {place}: expected {expected}, got {got!r}")


def check_columns(mapping: Mapping, path: str | Path, header: Sequence[str], file: str | Path) -> None:
    """Raise SettingsError if the mapping names a column that the file has not, BadDataset if that has one twice."""
    for place, name in mapping.named():
        if name not in header:
            shown = ", ".join(header[:40]) + (", ..." if len(header) > 40 else "")
            raise SettingsError(f"{path}: {place}: expected a column of {file} ({shown}), got {name!r}")
        if header.count(name) > 1:
            raise BadDataset(f"{file}:1", f"one column {name}", header.count(name))
