"""From events to labelled samples, for one partition, without a clock, a network or a guess.

Time is event time. The *clock* is the greatest event time accepted; the *watermark* lies ``lateness_ms`` and
one behind it: up to and including it everything is complete, and whatever still comes from then is late. A
sample leaves when the watermark reaches the end of its impression's longest window. Its labels and its
sequence cannot change any more then, whatever comes, so they do not depend on how far the watermark lags::

    event time   ---I-----A---------c------->   I impression, A action, c = closed_ms = I + longest window
    arrival      I, A, then anything at c + lateness_ms + 1: the watermark is c, the sample leaves

One wrong time does little harm: an event that is far ahead of the clock is dead, and a Tick that is moves the clock by
``max_jump_ms`` at most. Two Ticks in a row that agree are believed, so that no gap is too long for them. Only the first
event, ahead of which there is no clock, is believed by itself: what it is ahead by is late until time has caught up.

Samples leave in the order of ``closed_ms``, then of their impressions' offsets. Where the watermark enters
another ``tick_ms`` a Tick with the watermark follows: every sample after it has a greater ``closed_ms``, and
under the policy ``window`` none before it has. It also says what was read from the partition so far, as of the clock,
which is ahead of every label that depends on it: a feed of clicks that died shows there first. What comes twice is
counted once there, as it is learned once. A Tick that brings an order is passed on in its place, whatever the
watermark.

The state is kept outside under keys of bytes, which serve as keys of a compacted topic::

    b""                              the partition: clock, watermark, next offset, counts
    b"u" + user                      the user's head
    b"o" + offset, 8 bytes + user    an open impression of the user
    b"h" + number, 4 bytes + user    a block of the user's history
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from struct import Struct as Layout
from typing import Literal

import msgspec
from msgspec import Struct, field

from stream.dead import Dead as Dead
from stream.dead import Recent
from stream.events import Action, BadEvent, Impression, Origin, Sample, Tick, decode_event, key_of
from stream.fields import Fields
from stream.log import Record
from stream.user import Open, UserState, Waiting, open_impression

DAY_MS = 86_400_000


@dataclass(frozen=True)
class JoinRules:
    """How events become samples.

    Parameters
    ----------
    windows
        For each kind of action that is a label, in the order of the label columns: how long after the
        impression it counts, the last millisecond included.
    lateness_ms
        How far behind the clock an event may arrive.
    max_jump_ms
        How far ahead of the clock an event may be. A Tick further ahead moves the clock by so much only, unless the
        Tick before it was earlier by no more than this.
    max_history, history_ttl_ms
        A sequence holds at most so many behaviours, none older at the impression than this.
    policy
        ``window`` waits for the labels. ``eager`` sends every impression at once as a negative (stage
        ``early``), and each label when it comes as a sample of that candidate alone (stage ``click``) in
        which 1 marks that kind and 0 says nothing; their ``closed_ms`` is the clock.
    history_kinds
        The kinds of action that become behaviours.
    tick_ms
        How often, in event time, the watermark is told.
    """

    windows: Mapping[str, int]
    lateness_ms: int = 5_000
    max_jump_ms: int = 3_600_000
    max_history: int = 2_048
    history_ttl_ms: int = 90 * DAY_MS
    policy: Literal["window", "eager"] = "window"
    history_kinds: tuple[str, ...] = ("click",)
    tick_ms: int = 1_000

    def __post_init__(self) -> None:
        if not self.windows:
            raise ValueError("windows: expected at least one kind of action, got none")
        if self.policy not in ("window", "eager"):
            raise ValueError(f"policy: expected window or eager, got {self.policy}")
        least = {f"windows.{kind}": (ms, 0) for kind, ms in self.windows.items()}
        least |= {"lateness_ms": (self.lateness_ms, 0), "max_jump_ms": (self.max_jump_ms, 1)}
        least |= {"max_history": (self.max_history, 1), "history_ttl_ms": (self.history_ttl_ms, 1)}
        for name, (value, low) in (least | {"tick_ms": (self.tick_ms, 1)}).items():
            if value < low:
                raise ValueError(f"{name}: expected at least {low}, got {value}")


Output = Sample | Tick | Dead


class OffsetWentBack(RuntimeError):
    """A record was applied that is not behind the one before it, or is of another partition."""


class _PartitionState(Struct, array_like=True):
    joined_as: list[str]
    clock_ms: int
    watermark_ms: int
    next_offset: int
    counts: dict[str, int]
    read: dict[str, int] = {}
    recent: Recent = field(default_factory=Recent)
    ticked_ms: int = -1


_BLOCK, _OPEN = Layout(">cI"), Layout(">cQ")


def _block_key(name: str, n: int) -> bytes:
    return _BLOCK.pack(b"h", n) + name.encode()


def _open_key(name: str, offset: int) -> bytes:
    return _OPEN.pack(b"o", offset) + name.encode()


def _by_user(state: Mapping[bytes, bytes], layout: Layout, mark: bytes) -> dict[str, dict[int, bytes]]:
    """What is kept of each user under keys with this mark, by its number."""
    found: dict[str, dict[int, bytes]] = {}
    for key, raw in state.items():
        if key[:1] == mark:
            found.setdefault(key[layout.size :].decode(), {})[layout.unpack_from(key)[1]] = raw
    return found


class Joiner:
    """The state of one partition, and what each record makes of it.

    An impression belongs to its user: an action labels it only if user and id agree, so that nothing depends
    on how users are spread over partitions. A second impression with the id of an open one is a duplicate,
    and so is an action that sets no label and adds no behaviour because the same is there already. An action
    whose impression has not come waits until the watermark passes it.

    >>> joiner = Joiner(JoinRules({"click": 100}, lateness_ms=0), Fields(), partition=0)
    >>> slate = b'"at_ms": 10, "candidates": [{"item": "a"}, {"item": "b"}]'
    >>> click = b'"item": "b", "at_ms": 15, "impression": "i1"'
    >>> for offset, event in enumerate([
    ...     b'{"type": "impression", "id": "i1", "user": "ada", %s}' % slate,
    ...     b'{"type": "action", "kind": "click", "user": "ada", %s}' % click,
    ...     b'{"type": "tick", "at_ms": 111}',
    ... ]):
    ...     out = joiner.apply(Record(0, offset, b"ada", event))
    >>> out[0].label_matrix(1).ravel().tolist(), out[0].closed_ms, out[0].origin
    ([0, 1], 110, Origin(partition=0, offset=2, n=0))
    """

    def __init__(self, rules: JoinRules, fields: Fields, partition: int) -> None:
        self.rules = rules
        self.fields = fields
        self.partition = partition
        self.clock_ms = -1
        """Greatest event time accepted; -1 before the first event, which sets it."""
        self.watermark_ms = self.clock_ms - rules.lateness_ms - 1
        """Event time up to and including which everything is complete."""
        self.next_offset = 0
        self.recent = Recent()
        """Records that could not be used, and among how many."""
        self._ticked_ms = -1  # what the last Tick said, believed or not
        self._longest_ms = max(rules.windows.values())
        self._column = {kind: k for k, kind in enumerate(rules.windows)}
        self._counts = Counter({"in": 0, "pending": 0})
        self._read = Counter({"impression": 0, **dict.fromkeys(rules.windows, 0)})
        self._users: dict[str, UserState] = {}
        self._touched: set[str] = set()
        self._gone: set[bytes] = set()  # what may be kept of users who are forgotten
        self._closing: list[tuple[int, int, str, str]] = []  # closed_ms, offset, user, impression
        self._giving_up: list[tuple[int, str, str]] = []  # at_ms of a waiting action, user, impression
        self._idle: list[tuple[int, str]] = []  # when to look whether a user is gone; one entry a user

    @property
    def n_users(self) -> int:
        return len(self._users)

    @property
    def n_in(self) -> int:
        """Records taken in."""
        return self._counts["in"]

    @property
    def counts(self) -> dict[str, int]:
        """Records in (``in``), and each of them once as ``pending`` or under what became of it.

        The names are ``used.x``, ``dead.x``, ``duplicate.x``, ``late.x``, ``orphan.x``; x for what or why.
        """
        return dict(sorted(self._counts.items()))

    def apply(self, record: Record) -> list[Output]:
        """Take in the next record of the partition and give out what it completes, in order.

        Raises
        ------
        OffsetWentBack
            If the record is not behind the last one; nothing has changed then.
        """
        if record.partition != self.partition or record.offset < self.next_offset:
            raise OffsetWentBack(
                f"joiner: expected partition {self.partition} from offset {self.next_offset}, "
                f"got partition {record.partition} offset {record.offset}"
            )
        self.next_offset = record.offset + 1
        self._counts["in"] += 1
        out: list[Output] = []
        try:
            event = decode_event(record.value)
            at_ms, ahead_ms = event.at_ms, self.clock_ms + self.rules.max_jump_ms
            until_ms = self._until(event) if isinstance(event, Tick) else at_ms
            if isinstance(event, Tick) and event.order:
                self._counts["used.order"] += 1
                self._advance(until_ms, record.offset, out)
                if self.watermark_ms >= 0:
                    out.append(self._tick(event.order))
            elif at_ms <= self.watermark_ms:
                self._counts[f"late.{type(event).__name__.lower()}"] += 1
            elif isinstance(event, Tick):
                self._counts["used.tick"] += 1
                self._advance(until_ms, record.offset, out)
            elif at_ms > ahead_ms and self.clock_ms >= 0:
                raise BadEvent(f"Expected at most {ahead_ms}, got {at_ms} - at `$.at_ms`", "future")
            elif isinstance(event, Action):
                self._action(event, record.offset, out)
            else:
                self._impression(event, record.offset, out)
        except BadEvent as e:
            self._counts[f"dead.{e.reason}"] += 1
            self.recent.add(self.n_in)
            out.append(Dead(e.reason, str(e), self.partition, record.offset, record.value))
        return out

    def _until(self, tick: Tick) -> int:
        """How far a Tick moves the clock: by a jump at most, unless the Tick before it says nearly as much.

        The same Tick again is no second opinion, nor is an order, which has the time of some person's machine.
        """
        before_ms, jump_ms = self._ticked_ms, self.rules.max_jump_ms
        if not tick.order:
            self._ticked_ms = tick.at_ms
            if before_ms < tick.at_ms <= before_ms + jump_ms:
                return tick.at_ms
        return tick.at_ms if self.clock_ms < 0 else min(tick.at_ms, self.clock_ms + jump_ms)

    def _impression(self, event: Impression, offset: int, out: list[Output]) -> None:
        user = self._users.get(event.user)
        if user is not None and event.id in user.open:
            self._counts["duplicate.impression"] += 1
            return
        # all that can fail comes before the clock moves
        side = self.fields.side_keys(event.user, event.context)
        items = [
            self.fields.item_keys(c.item, c.features, f"$.candidates[{i}]")
            for i, c in enumerate(event.candidates)
        ]
        opened = open_impression(event, offset, side, items, self._longest_ms, len(self._column))
        self._advance(event.at_ms, offset, out)
        self._read["impression"] += 1
        user = self._user(event.user, event.at_ms)
        user.begin(opened)
        heappush(self._closing, (opened.closed_ms, offset, event.user, event.id))
        if self.rules.policy == "eager":
            self._counts["used.impression"] += 1
            out.append(user.sample(opened, self.clock_ms, Origin(self.partition, offset, len(out)), "early"))
        else:
            self._counts["pending"] += 1
        for action in user.waiting.pop(event.id, ()):
            self._counts["pending"] -= 1
            self._settle(user, opened, action, offset, out)

    def _action(self, event: Action, offset: int, out: list[Output]) -> None:
        keys = self.fields.item_keys(event.item, event.features)
        self._advance(event.at_ms, offset, out)
        impression = event.impression if event.kind in self._column else None
        extends = event.kind in self.rules.history_kinds
        if impression is None and not extends:
            self._counts["orphan.kind"] += 1
            return
        user = self._user(event.user, event.at_ms)
        is_new = extends and user.history.add(keys, event.at_ms, key_of("kind", event.kind))
        if is_new and len(user.history) > 2 * self.rules.max_history:
            user.trim(self.watermark_ms)
        if impression is None:
            self._counts["used.history" if is_new else "duplicate.action"] += 1
            return
        self._read[event.kind] += is_new
        action = Waiting(event.kind, keys[0], event.at_ms, is_new)
        if (opened := user.open.get(impression)) is not None:
            self._settle(user, opened, action, offset, out)
            return
        waiting = user.waiting.setdefault(impression, [])
        if not is_new and any(
            (w.kind, w.item, w.at_ms) == (event.kind, keys[0], event.at_ms) for w in waiting
        ):
            self._counts["duplicate.action"] += 1
            return
        waiting.append(action)
        heappush(self._giving_up, (event.at_ms, event.user, impression))
        self._counts["pending"] += 1

    def _settle(self, user: UserState, opened: Open, action: Waiting, offset: int, out: list[Output]) -> None:
        """Label what the action is about, and count what became of it."""
        kind = self._column[action.kind]
        places = opened.places(action.item)
        is_in_time = opened.at_ms <= action.at_ms <= opened.at_ms + self.rules.windows[action.kind]
        if places and is_in_time and not opened.labels[places[0] * opened.n_kinds + kind]:
            outcome = "used.label"
            self._read[action.kind] += not action.is_new  # which was counted when it came
            for i in places:
                user.label(opened, i, kind)
                if self.rules.policy == "eager":
                    origin = Origin(self.partition, offset, len(out))
                    out.append(user.sample(opened.only(i, kind), self.clock_ms, origin, "click"))
        elif action.kind in self.rules.history_kinds and not action.is_new:
            outcome = "duplicate.action"
        elif not is_in_time:
            outcome = "orphan.outside_window"
        elif not places:
            outcome = "orphan.not_in_slate"
        else:
            outcome = "used.history" if action.is_new else "duplicate.action"
        self._counts[outcome] += 1

    def _advance(self, clock_ms: int, offset: int, out: list[Output]) -> None:
        """Let event time come to ``clock_ms``: close, give up, forget, tell."""
        self.clock_ms = max(self.clock_ms, clock_ms)
        watermark, before = self.clock_ms - self.rules.lateness_ms - 1, self.watermark_ms
        if watermark <= before:
            return
        self.watermark_ms = watermark
        while self._closing and self._closing[0][0] <= watermark:
            _, _, name, impression = heappop(self._closing)
            opened = self._users[name].close(impression)
            self._touched.add(name)
            if self.rules.policy == "window":
                origin = Origin(self.partition, offset, len(out))
                out.append(self._users[name].sample(opened, opened.closed_ms, origin, "final"))
                self._counts["used.impression"] += 1
                self._counts["pending"] -= 1
        while self._giving_up and self._giving_up[0][0] <= watermark:
            _, name, impression = heappop(self._giving_up)
            if (user := self._users.get(name)) is not None and (n := user.give_up(impression, watermark)):
                self._counts["orphan.no_impression"] += n
                self._counts["pending"] -= n
                self._touched.add(name)
        while self._idle and self._idle[0][0] <= watermark:
            _, name = heappop(self._idle)
            user = self._users[name]
            user.trim(watermark)
            self._touched.add(name)
            if (due_ms := user.due_ms()) is not None:
                user.look_ms = due_ms
                heappush(self._idle, (due_ms, name))
            else:
                del self._users[name]
                self._gone.update(_open_key(name, offset) for offset in user.kept_open)
                self._gone.update(_block_key(name, n) for n in user.history.kept_blocks)
        if watermark >= 0 and watermark // self.rules.tick_ms > before // self.rules.tick_ms:
            out.append(self._tick())

    def _tick(self, order: str = "") -> Tick:
        return Tick(self.watermark_ms, order, dict(self._read), self.counts)

    def _new_user(self, name: str, look_ms: int = 0) -> UserState:
        rules = self.rules
        return UserState(name, len(self.fields.item), rules.max_history, rules.history_ttl_ms, look_ms)

    def _user(self, name: str, at_ms: int) -> UserState:
        """The user's state, which is about to change; made when first needed."""
        self._touched.add(name)
        if (user := self._users.get(name)) is None:
            user = self._users[name] = self._new_user(name, at_ms)
            heappush(self._idle, (at_ms, name))
        return user

    def snapshot(self) -> dict[bytes, bytes]:
        """The whole state by its keys."""
        state = {b"": self._encode()}
        for name, user in self._users.items():
            user.trim(self.watermark_ms)
            state[b"u" + name.encode()] = user.encode()
            state |= {_open_key(name, offset): raw for offset, raw in user.encode_open().items()}
            state |= {_block_key(name, n): raw for n, raw in user.history.blocks().items()}
        return state

    def changes(self) -> dict[bytes, bytes | None]:
        """What has changed in the snapshot since this was asked last; None for what is to go.

        Laid over an earlier snapshot it gives one from which the joiner goes on in the same way. However long
        histories are and however much is open, an event changes a block or two, and the impressions that it opens,
        labels or closes.
        """
        changed: dict[bytes, bytes | None] = dict.fromkeys(sorted(self._gone))
        for name in sorted(self._touched):
            key = b"u" + name.encode()
            if (user := self._users.get(name)) is None:
                changed[key] = None
                continue
            user.trim(self.watermark_ms)
            changed[key] = user.encode()
            changed |= {_open_key(name, offset): raw for offset, raw in user.changed_open().items()}
            changed |= {_block_key(name, n): raw for n, raw in user.history.changed_blocks().items()}
        self._touched, self._gone = set(), set()
        changed[b""] = self._encode()
        return changed

    @classmethod
    def restore(
        cls, rules: JoinRules, fields: Fields, partition: int, state: Mapping[bytes, bytes]
    ) -> Joiner:
        """A joiner that goes on where the one was that made the snapshot.

        Raises
        ------
        ValueError
            If it was made with other fields, label kinds or policy, or is not whole.
        """
        joiner = cls(rules, fields, partition)
        kept = msgspec.msgpack.decode(state[b""], type=_PartitionState)
        if kept.joined_as != joiner._joined_as:
            raise ValueError(f"joiner state: expected {joiner._joined_as}, got {kept.joined_as}")
        joiner.clock_ms, joiner.next_offset = kept.clock_ms, kept.next_offset
        joiner.watermark_ms = max(kept.watermark_ms, joiner.clock_ms - rules.lateness_ms - 1)
        joiner._counts.update(kept.counts)
        joiner._read.update(kept.read)
        joiner.recent, joiner._ticked_ms = kept.recent, kept.ticked_ms
        opened, blocks = _by_user(state, _OPEN, b"o"), _by_user(state, _BLOCK, b"h")
        for key in state:
            if key[:1] != b"u":
                continue
            name = key[1:].decode()
            user = joiner._users[name] = joiner._new_user(name)
            user.load(state[key], opened.get(name, {}), blocks.get(name, {}))
            joiner._closing += [(o.closed_ms, o.offset, name, o.id) for o in user.open.values()]
            joiner._giving_up += [(w.at_ms, name, i) for i, ws in user.waiting.items() for w in ws]
            joiner._idle.append((user.look_ms, name))
        heapify(joiner._closing)
        heapify(joiner._giving_up)
        heapify(joiner._idle)
        return joiner

    @property
    def _joined_as(self) -> list[str]:
        return [*self.fields.item, "|", *self.fields.side, "|", *self._column, "|", self.rules.policy]

    def _encode(self) -> bytes:
        clock = (self.clock_ms, self.watermark_ms, self.next_offset)
        so_far = (self.counts, dict(self._read), self.recent)
        return msgspec.msgpack.encode(_PartitionState(self._joined_as, *clock, *so_far, self._ticked_ms))
