"""Names and features of the items that were asked for of late: the model itself knows keys only."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from stream.events import Value
from stream.fields import Fields


class Names:
    """Items by their key, the first ``n_most`` that came and, once these are, those that came last in their place.

    An item whose features changed is known by the new ones.

    >>> names = Names(Fields(), n_most=2)
    >>> keys = [names.note(item, {}) for item in ("a", "b", "c")]
    >>> names.of(keys[2][0]), names.of(keys[0][0])
    (('c', {}), None)
    """

    def __init__(self, fields: Fields, n_most: int) -> None:
        self._fields = fields
        self._lock = Lock()
        self._places: dict[int, int] = {}
        self._items: list[tuple[str, Mapping[str, Value]]] = []
        self._keys = np.zeros((n_most, len(fields.item)), np.uint64)
        self._next = 0

    def note(self, item: str, features: Mapping[str, Value]) -> list[int]:
        """Remember an item; its keys. Raises BadEvent if a feature has the wrong type."""
        keys = self._fields.item_keys(item, features)
        self.put(item, features, keys)
        return keys

    def put(self, item: str, features: Mapping[str, Value], keys: list[int]) -> None:
        """Remember an item whose keys are known."""
        place = self._places.get(keys[0])
        if place is not None and self._items[place][1] == features:
            return
        with self._lock:
            place = self._places.get(keys[0])
            if place is None:
                place = self._next
                self._next = (self._next + 1) % len(self._keys)
                if place < len(self._items):
                    self._places.pop(int(self._keys[place, 0]), None)
                else:
                    self._items.append((item, features))
                self._places[keys[0]] = place
            self._items[place] = (item, features)
            self._keys[place] = keys

    def of(self, key: int) -> tuple[str, Mapping[str, Value]] | None:
        """Name and features of the item with this key, if it is known."""
        place = self._places.get(key)
        return None if place is None else self._items[place]

    def keys(self) -> NDArray[np.uint64]:
        """Keys ``[n, F]`` of all that are known."""
        with self._lock:
            return self._keys[: len(self._items)].copy()
