"""Which features a model uses and the 64-bit keys they become: where words turn into arrays."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import blake2b
from math import isfinite
from typing import Literal

from msgspec import Struct, json

from stream.events import BadEvent, Value, key_of


class Feature(Struct, frozen=True, forbid_unknown_fields=True):
    """One declared feature. A numeric one is cut at ``edges`` (ascending) into ``len(edges) + 1`` buckets."""

    name: str
    of: Literal["user", "context", "item"]
    kind: Literal["categorical", "numeric"] = "categorical"
    edges: tuple[float, ...] = ()

    def key(self, features: Mapping[str, Value], path: str) -> int:
        """The key of this feature in ``features``, 0 if it is absent; ``path`` is for the error."""
        value = features.get(self.name)
        if value is None:
            return 0
        if self.kind == "categorical":
            if isinstance(value, float):
                raise BadEvent(f"Expected `str | int`, got `float` - at `{path}.{self.name}`")
            return key_of(self.name, str(value))
        if isinstance(value, str) or not isfinite(value):
            raise BadEvent(f"Expected a finite number, got {value!r} - at `{path}.{self.name}`")
        return key_of(self.name, str(bisect_right(self.edges, value)))


class Fields:
    """The declared features in the order of the columns they fill.

    Item columns are ``item`` and then the item features; the first of those is the *category*: what a new
    item is born from. Side columns are ``user``, then user features, then context features.

    >>> fields = Fields([Feature("topic", "item"), Feature("device", "context"),
    ...                  Feature("age", "user", "numeric", (18, 40))])
    >>> fields.item, fields.side
    (('item', 'topic'), ('user', 'age', 'device'))
    >>> fields.side_keys("ada", {"age": 36, "device": "phone"})[1] == key_of("age", "1")
    True
    """

    def __init__(self, features: list[Feature] | tuple[Feature, ...] = ()) -> None:
        by = {of: [f for f in features if f.of == of] for of in ("item", "user", "context")}
        self._item = by["item"]
        self._side = by["user"] + by["context"]
        self.features = tuple(features)
        self.item: tuple[str, ...] = ("item", *(f.name for f in self._item))
        self.side: tuple[str, ...] = ("user", *(f.name for f in self._side))

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, item columns first; a column's place is its field number in the table."""
        return self.item + self.side

    @property
    def item_digest(self) -> str:
        """What tells item columns from others: 32 bits in hex, of all that the keys in them depend on."""
        columns = json.encode([(f.name, f.kind, f.edges) for f in self._item])
        return blake2b(columns, digest_size=4).hexdigest()

    def item_keys(self, item: str, features: Mapping[str, Value], path: str = "$") -> list[int]:
        """One key per item column; 0 where a feature is absent. Raises BadEvent naming the path."""
        return _keys(key_of("item", item), self._item, features, path, "features")

    def side_keys(self, user: str, context: Mapping[str, Value]) -> list[int]:
        """One key per side column; 0 where a feature is absent. Raises BadEvent naming the path."""
        return _keys(key_of("user", user), self._side, context, "$", "context")


def _keys(
    first: int, declared: list[Feature], values: Mapping[str, Value], path: str, name: str
) -> list[int]:
    """The first key and those of the declared features; nearly all are words, so those take the short way."""
    keys = [first]
    for f in declared:
        value = values.get(f.name)
        if isinstance(value, str) and f.kind == "categorical":
            keys.append(key_of(f.name, value))
        else:
            keys.append(f.key(values, f"{path}.{name}"))
    return keys
