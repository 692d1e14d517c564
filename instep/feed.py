"""A product beside a ranker: simulated users are shown slates as the clock goes, and click as they would.

Each slate is ranked over HTTP and logged as shown; as long as the ranker has nothing to rank by, it is sent as shown in
no order. Clicks go in over HTTP too, so what comes of them reaches the next slate's scores: a closed loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from instep.simulator import World, events
from ranker.client import NewAction, NewImpression, RankerClient, RankerError
from stream.events import Action, Impression

log = logging.getLogger(__name__)

KEPT = 10_000
"""Slates of which the impression's id is remembered for the clicks to come."""
TOGETHER = 500
"""Clicks of the past that are sent at a time, one of them a millisecond."""
BEHIND_MS = 2_000
"""A feed that is later than this does not catch up, it goes on from now."""
AWAY_S = 1.0
"""How long a ranker that does not answer is left alone."""
TOLD = 500
"""Slates from one line of the log to the next."""


@dataclass
class Fed:
    """What became of the slates and clicks of a feed."""

    ranked: int = 0
    """Slates that were ranked and logged."""
    sent: int = 0
    """Slates that were sent as they were, as nothing could be ranked yet."""
    clicks: int = 0
    missed: int = 0
    """Slates and clicks that the ranker did not take."""


def product(seed: int, n_users: int, n_items: int, slates_per_s: float) -> World:
    """A small world whose clicks come within seconds."""
    return World(
        seed=seed,
        n_users=n_users,
        n_items=n_items,
        n_topics=40,
        n_categories=10,
        history_median=40,
        history_days=1,
        slates_per_s=slates_per_s,
        click_delay_s=1.5,
        click_delay_max_s=6,
        tail_s=6,
    )


class Feed:
    """Brings a world's events to a ranker, each when it is due.

    Parameters
    ----------
    name
        Begins the ids of the slates that are sent as they are; no other feed may have it.
    now_ms
        The clock.
    wait
        Waits for some seconds; True if it was told to finish meanwhile.

    Raises
    ------
    RankerError
        By :meth:`run`, if the ranker refuses what is asked of it for good: a token, say. One that does not answer is
        waited for.
    """

    def __init__(
        self,
        ranker: RankerClient,
        world: World,
        *,
        name: str,
        now_ms: Callable[[], int],
        wait: Callable[[float], bool],
    ) -> None:
        self.fed = Fed()
        self._ranker = ranker
        self._world = world
        self._name = name
        self._now_ms = now_ms
        self._wait = wait
        self._shown: dict[str, str] = {}
        self._is_away = False

    def run(self, n_slates: int) -> None:
        """So many slates and what is clicked on them, or until told to finish."""
        if not self._reached():
            return
        past: list[Action] = []
        began_ms: int | None = None
        for event in events(self._world, n_slates):
            if isinstance(event, Action) and event.at_ms < self._world.start_ms:
                past.append(event)
                if len(past) == TOGETHER:
                    if not self._sent(past):
                        return
                    past = []
            elif isinstance(event, Impression | Action):  # Ticks are the ranker's to write
                if began_ms is None:
                    if not self._sent(past):
                        return
                    began_ms = self._now_ms()
                    log.info("the past is sent")
                ahead_ms = event.at_ms - self._world.start_ms - (self._now_ms() - began_ms)
                if ahead_ms < -BEHIND_MS:
                    began_ms -= ahead_ms
                if self._wait(max(0, ahead_ms) / 1000):
                    return
                self._show(event) if isinstance(event, Impression) else self._click(event)

    def _reached(self) -> bool:
        """Wait for the ranker to answer; False if told to finish before."""
        while True:
            try:
                self._ranker.version()
                return True
            except RankerError as e:
                self._missed(0, e)
                if self._wait(AWAY_S):
                    return False

    def _show(self, slate: Impression) -> None:
        try:
            answer = self._ranker.rank(slate.user, slate.candidates, slate.context, log=True)
        except RankerError as e:
            if e.status != 503:
                return self._missed(1, e)
            impression = f"{self._name}-{slate.id}"
            if self._send([NewImpression(impression, slate.user, slate.candidates, slate.context)]):
                self.fed.sent += 1
                self._remember(slate.id, impression)
            return None
        self._is_away = False
        if not answer.logged:
            self.fed.missed += 1
            return None
        self._remember(slate.id, answer.impression)
        self.fed.ranked += 1
        if self.fed.ranked % TOLD == 1:
            log.info("ranked version=%s %s", list(answer.version), self.fed)
        return None

    def _remember(self, slate: str, impression: str) -> None:
        self._shown[slate] = impression
        if len(self._shown) > KEPT:
            del self._shown[next(iter(self._shown))]

    def _click(self, click: Action) -> None:
        """Send a click on a slate that was shown; on any other nobody clicked."""
        impression = self._shown.get(click.impression or "")
        if (impression is not None or click.impression is None) and self._send([_clicked(click, impression)]):
            self.fed.clicks += 1

    def _sent(self, past: list[Action]) -> bool:
        """Send it as what has just happened, one click a millisecond; False if told to finish before.

        Two clicks of a user on an item in the same moment would be taken for one.
        """
        if self._wait(len(past) / 1_000):
            return False
        first_ms = self._now_ms() - len(past) + 1
        self._send([_clicked(click, None, first_ms + i) for i, click in enumerate(past)])
        return True

    def _send(self, happened: list[NewImpression | NewAction]) -> bool:
        """Whether all of it was taken."""
        try:
            n_refused = len(happened) - self._ranker.send(happened).accepted
        except RankerError as e:
            self._missed(len(happened), e)
            return False
        self._is_away = False
        self.fed.missed += n_refused
        return not n_refused

    def _missed(self, n: int, error: RankerError) -> None:
        if 400 <= error.status < 500:
            raise error
        self.fed.missed += n
        if not self._is_away:
            log.warning("the ranker is away status=%d error=%s", error.status, error)
        self._is_away = True


def _clicked(click: Action, impression: str | None, at_ms: int | None = None) -> NewAction:
    """As a product sends it; if not told, when it happened is when it comes."""
    return NewAction(click.kind, click.user, click.item, impression, click.features, at_ms)


__all__ = ["Fed", "Feed", "product"]
