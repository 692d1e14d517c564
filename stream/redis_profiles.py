"""Profiles on Redis: a string a user, to which behaviours are appended. The key is in docs/redis.md.

A row does not say what its keys are of, so the names of all keys begin with a digest of the item features: under other
features nothing is there yet, and it is read from the beginning.

What was read before comes again after a restart, so the origins up to which a user's behaviours were applied stand in
the same string and change with it, in one step on the server. How far a partition was read stands beside the users of
each shard, and is written after them: a server that lost one has lost the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.events import Origin
from stream.fields import Fields
from stream.history import History
from stream.profiles import Put, lost
from stream.redis_client import Client, script

SHARDS = 16
"""Hash tags over which users are spread: those of one call share a node of a cluster."""
CALL_PUTS, CALLS_AT_A_TIME = 64, 16
"""Behaviours of one call, which holds the server for about a quarter of a millisecond, and calls that may come in one
piece."""
DAY_MS = 86_400_000

_ORIGIN = Struct("<IQI")


class RedisProfiles:
    """Profiles on a server. Any number of processes write, each the users of its partitions, and read.

    Parameters
    ----------
    fields
        Whose item features the keys of a behaviour are of. What was kept with others is not seen.
    ttl_ms
        How old a behaviour may be at the moment asked for. A user without a new one for twice that long, and a day, in
        the server's time is forgotten. No answer needs such a user as long as event time is no more than that behind:
        whoever replays a log that is older, or stops a product for so long, asks as of then.
    prefix
        Of all keys.

    Raises
    ------
    Unavailable
        From every method, if the server does not answer within the client's bounds.
    """

    def __init__(
        self,
        client: Client,
        fields: Fields,
        max_history: int = 2_048,
        ttl_ms: int = 90 * DAY_MS,
        prefix: str = "instep",
    ) -> None:
        self.n_fields = len(fields.item)
        self.max_history = max_history
        self.ttl_ms = ttl_ms
        self._client = client
        self._prefix = prefix
        self._digest = fields.item_digest
        self._row = Struct(f"<q{1 + self.n_fields}Q")
        self._script = script("stream", "redis_put.lua")
        self._advance = script("stream", "redis_advance.lua")

    def put(self, user: int, origin: Origin, keys: Sequence[int], at_ms: int, kind: int) -> bool:
        """See `Profiles.put`."""
        return self.put_many([Put(user, origin, keys, at_ms, kind)])[0]

    def put_many(self, puts: Sequence[Put], known: Mapping[int, int] | None = None) -> list[bool]:
        """See `Profiles.put_many`. Those of a user are applied in their order; the server has all on return."""
        known = known or {}
        shards: defaultdict[int, list[int]] = defaultdict(list)
        for i, one in enumerate(puts):
            shards[one.user % SHARDS].append(i)
        calls = [
            some[at : at + CALL_PUTS] for some in shards.values() for at in range(0, len(some), CALL_PUTS)
        ]
        changed = [False] * len(puts)
        commands = (self._call([puts[i] for i in call], known) for call in calls)
        answers = self._client.calls(commands, CALLS_AT_A_TIME)
        for call, answer in zip(calls, answers, strict=True):
            if answer[0] < 0:
                partition, kept = list(known)[answer[1] - 1], answer[2]
                raise lost(partition, known[partition], None if kept < 0 else kept)
            for i, one in zip(call, answer, strict=True):
                changed[i] = one == 1
        return changed

    def get(self, user: int, at_ms: int, limit: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """See `Profiles.get`."""
        raw = self._client.call("GET", self._key(user))
        history = History(self.n_fields) if raw is None else self._history(raw)
        return history.before(at_ms, min(limit, self.max_history), self.ttl_ms)

    def place(self, partition: int) -> int | None:
        """See `Profiles.place`."""
        noted = self._client.calls(("GET", self._place(shard, partition)) for shard in range(SHARDS))
        return None if None in noted else min(map(int, noted))

    def begin(self, partition: int, offset: int) -> None:
        """See `Profiles.begin`."""
        self._client.calls(("SET", self._place(shard, partition), offset) for shard in range(SHARDS))

    def advance(self, moves: Mapping[int, tuple[int, int]]) -> None:
        """See `Profiles.advance`."""
        offsets = [offset for move in moves.values() for offset in move]
        answers = self._client.calls(
            ("EVAL", self._advance, len(moves), *(self._place(shard, p) for p in moves), *offsets)
            for shard in range(SHARDS)
        )
        for answer in answers:
            for (partition, (known, _)), kept in zip(moves.items(), answer, strict=True):
                if kept < known:
                    raise lost(partition, known, None if kept < 0 else kept)

    def _place(self, shard: int, partition: int) -> str:
        return f"{self._beginning(shard)}:read:{partition}"

    def _key(self, user: int) -> str:
        return f"{self._beginning(user % SHARDS)}:user:{user:016x}"

    def _beginning(self, shard: int) -> str:
        return f"{{{self._prefix}:{shard}}}:{self._digest}"

    def _call(self, puts: list[Put], known: Mapping[int, int]) -> tuple[Any, ...]:
        lifetime_ms = 2 * self.ttl_ms + DAY_MS
        shard = puts[0].user % SHARDS
        keys = [self._key(one.user) for one in puts] + [self._place(shard, p) for p in known]
        rules = (self._row.size, self.max_history, lifetime_ms, len(puts))
        return ("EVAL", self._script, len(keys), *keys, *rules, *self._values(puts), *known.values())

    def _values(self, puts: list[Put]) -> Iterator[bytes]:
        for one in puts:
            yield _ORIGIN.pack(*one.origin)
            yield self._row.pack(one.at_ms, one.kind, *one.keys)

    def _history(self, raw: bytes) -> History:
        start = 1 + raw[0] * _ORIGIN.size
        rows = np.frombuffer(raw, np.uint64, offset=start).reshape(-1, 2 + self.n_fields)
        return History.from_columns(rows[:, 2:], rows[:, 0].astype(np.int64), rows[:, 1])
