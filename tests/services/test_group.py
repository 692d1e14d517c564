"""Which partitions are whose, while members come and go."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing

from stream.cluster import Cluster
from stream.group import Fixed, Group
from stream.log import Fenced
from tests.services.reading import WITHIN_S, N, until


class Member:
    """Somebody who asks for partitions again and again, and writes down what happens."""

    def __init__(self, cluster: Cluster, name: str, events: list[tuple[str, str, int]]) -> None:
        self.name, self.events = name, events
        self.held: frozenset[int] = frozenset()
        self.raised: Exception | None = None
        self._group = Group(cluster, "a", cluster.topic("g"), self.let_go, session_ms=6_000)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def let_go(self, gone: frozenset[int]) -> None:
        self.events += [("-", self.name, p) for p in sorted(gone)]
        self.held -= gone

    def close(self) -> None:
        self._leave.set()
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while not self._leave.wait(0.005):
                mine = self._group.partitions()
                self.events += [("+", self.name, p) for p in sorted(mine - self.held)]
                self.held = mine
        except Exception as e:
            self.raised = e
        finally:
            self._group.close()


def test_members_come_and_go_and_a_partition_is_let_go_before_another_has_it(
    cluster: Cluster, opened: ExitStack
) -> None:
    events: list[tuple[str, str, int]] = []
    first = opened.enter_context(closing(Member(cluster, "first", events)))
    until(lambda: len(first.held) == N)
    second = opened.enter_context(closing(Member(cluster, "second", events)))
    until(lambda: len(second.held) == 1)
    [moved], kept = second.held, first.held
    assert kept == {0, 1} - {moved}
    assert events == [("+", "first", 0), ("+", "first", 1), ("-", "first", moved), ("+", "second", moved)]
    second.close()
    until(lambda: len(first.held) == N)
    assert events[4:] == [
        ("-", "second", moved),
        ("+", "first", moved),
    ]  # and what was kept was never touched
    first.close()
    assert events[6:] == [("-", "first", 0), ("-", "first", 1)]
    assert (first.raised, second.raised) == (None, None)


class Careless(Member):
    """A member whose transactions are fenced when it is to let go."""

    def let_go(self, gone: frozenset[int]) -> None:
        self.held -= gone
        if not self._leave.is_set():
            self._leave.set()
            raise Fenced("too late")


def test_what_goes_wrong_in_letting_go_is_raised_where_the_partitions_were_asked_for(
    cluster: Cluster, opened: ExitStack
) -> None:
    first = opened.enter_context(closing(Careless(cluster, "first", [])))
    until(lambda: len(first.held) == N)
    second = opened.enter_context(closing(Member(cluster, "second", [])))
    until(lambda: len(second.held) == N)
    first.close()
    assert isinstance(first.raised, Fenced)


def test_a_fixed_share_stays_until_it_is_closed() -> None:
    gone: list[frozenset[int]] = []
    share = Fixed([1, 3], gone.append)
    assert share.partitions() == {1, 3}
    share.close()
    share.close()
    assert (share.partitions(), gone) == (frozenset(), [frozenset({1, 3})])
