"""Updates of an index that follow from a seed, and what an index holds after each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from indexer.index import Index, MemoryIndex, Update
from indexer.redis_index import RedisIndex
from stream.events import Version
from stream.redis_client import Client

DIM = 3


def make_update(
    version: Version, since: Version | None, rows: dict[int, int], gone: Iterable[int] = ()
) -> Update:
    """One whose numbers follow from key and step."""
    keys, steps = np.array(list(rows), np.uint64), np.array(list(rows.values()), np.int64)
    codes = (keys * np.uint64(2**40) + steps.astype(np.uint64))[:, None]
    vectors = np.stack([keys.astype(np.float32), steps.astype(np.float32), np.sqrt(keys + steps)], axis=1)
    return Update(
        version=version,
        since=since,
        at_ms=version.step * 10,
        keys=keys,
        fields=(keys % np.uint64(3)).astype(np.uint8),
        steps=steps,
        codes=codes,
        vectors=vectors.astype(np.float32).reshape(-1, DIM),
        tombstones=np.array(sorted(gone), np.uint64),
        dense={"w": np.array([version.epoch, version.step], np.float32)},
        place={0: 100 * version.epoch + version.step},
    )


class Trainer:
    """An endless chain of updates over some hundred keys, and what an index holds after each."""

    def __init__(self, seed: int, n_keys: int = 400) -> None:
        self._rng = np.random.default_rng(seed)
        self._n_keys = n_keys
        self._rows: dict[int, int] = {}
        self._oracle = MemoryIndex(keep=1)
        self.sent: list[Update] = []
        self.loads: dict[Version | None, Update | None] = {None: None}

    def publish(self, whole: bool = False, new_epoch: bool = False) -> Update:
        version = self.sent[-1].version if self.sent else None
        since = None if whole or new_epoch else version
        epoch, step = version or (0, 0)
        version = Version(epoch + new_epoch, step + 1)
        keys = self._rng.choice(np.arange(1, self._n_keys), 80, replace=False).tolist()
        gone, moved = (set(keys[:20]) if since else set()), keys[20:]
        self._rows = {k: s for k, s in self._rows.items() if k not in gone} | dict.fromkeys(
            moved, version.step
        )
        rows = self._rows if since is None else dict.fromkeys(moved, version.step)
        update = make_update(version, since, rows, gone)
        self._oracle.apply(update)
        self.sent.append(update)
        self.loads[version] = self._oracle.load()
        return update


def same(a: Update | None, b: Update | None) -> bool:
    """Bit for bit."""
    if a is None or b is None:
        return a is b
    arrays = ("keys", "fields", "steps", "codes", "vectors", "tombstones")
    return (
        (a.version, a.since, a.at_ms, a.place) == (b.version, b.since, b.at_ms, b.place)
        and all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in arrays)
        and {k: w.tobytes() for k, w in a.dense.items()} == {k: w.tobytes() for k, w in b.dense.items()}
    )


def follow(follower: MemoryIndex, index: Index) -> None:
    missed = index.since(follower.version)
    if missed is None:
        whole = index.load()
        assert whole is not None
        missed = [whole]
    for update in missed:
        follower.apply(update)


def new(client: Client, prefix: str, keep: int = 64) -> RedisIndex:
    return RedisIndex(client, prefix, keep)


def names(client: Client) -> list[str]:
    return sorted(key.decode() for key in client.call("KEYS", "*"))


KINDS: dict[str, list[dict[str, bool]]] = {
    "the first": [{"whole": True}],
    "one that follows": [{"whole": True}, {}, {}],
    "a whole": [{"whole": True}, {}, {"whole": True}],
    "a new epoch": [{"whole": True}, {}, {"new_epoch": True}],
}
