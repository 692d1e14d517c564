"""A simulated product beside a ranker: what it shows, what is clicked, and when it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx2 as httpx
import pytest

from instep.feed import AWAY_S, Feed, product
from instep.simulator import events
from ranker.client import RankerClient, RankerError
from stream.events import Action, Event, Impression
from tests.ranker.serving import Serving
from tests.services.ready import free_port
from tests.worlds import WORLD

ROOT = Path(__file__).parent.parent.parent
N = 40
HALT_MS = 3_600_000
WITHIN_S = 30
PAST = [e for e in events(WORLD, N) if isinstance(e, Action) and e.at_ms < WORLD.start_ms]


class Fed:
    """A feed into a ranker of this process, under a clock that goes when somebody waits."""

    def __init__(self, serving: Serving, client: RankerClient) -> None:
        self.serving, self.began_ms = (
            serving,
            serving.now_ms + len(PAST),
        )  # which comes one click a millisecond
        self.until_ms = 1 << 62
        self.halt_after_ms = 1 << 62
        self.feed = Feed(client, WORLD, name="feed", now_ms=lambda: serving.now_ms, wait=self.wait)

    def wait(self, seconds: float) -> bool:
        self.serving.now_ms += round(seconds * 1_000)
        if self.serving.now_ms - self.began_ms > self.halt_after_ms:
            self.serving.now_ms += HALT_MS
            self.halt_after_ms = 1 << 62
        return self.serving.now_ms >= self.until_ms

    def run(self, n: int = N) -> list[Event]:
        """What is on the log after so many slates."""
        self.feed.run(n)
        self.serving.outbox.close()
        return self.serving.logged()


@contextmanager
def fed(serving: Serving) -> Iterator[Fed]:
    with serving.client() as http, RankerClient("http://ranker") as client:
        client._http.close()
        client._http = http  # asks the application in this process
        yield Fed(serving, client)


def gaps(slates: list[Impression]) -> list[int]:
    """ms from each to the next."""
    at_ms = sorted(slate.at_ms for slate in slates)
    return [after - before for before, after in pairwise(at_ms)]


def labelled(logged: list[Event]) -> list[Action]:
    return [e for e in logged if isinstance(e, Action) and e.impression is not None]


def test_before_there_is_a_model_slates_are_sent_as_they_are_and_clicks_name_them() -> None:
    with fed(Serving(max_waiting=100_000)) as feeding:
        logged = feeding.run()
    of_no_slate = [e for e in logged if isinstance(e, Action) and e.impression is None]
    assert sorted((e.user, e.item) for e in of_no_slate) == sorted((e.user, e.item) for e in PAST)
    assert len({(e.user, e.item) for e in PAST}) < len(PAST), "some item twice"
    assert len({(e.user, e.item, e.at_ms) for e in of_no_slate}) == len(PAST), "none of them a duplicate"
    slates = {e.id: e for e in logged if isinstance(e, Impression)}
    assert slates.keys() == {f"feed-s{n}" for n in range(N)}
    assert labelled(logged)
    for click in labelled(logged):
        assert click.impression is not None
        shown = slates[click.impression]
        assert shown.user == click.user
        assert click.item in {c.item for c in shown.candidates}
    result = feeding.feed.fed
    assert (result.sent, result.ranked, result.clicks, result.missed) == (N, 0, len(labelled(logged)), 0)


def test_with_a_model_slates_are_ranked_and_logged_with_what_they_were_scored_by() -> None:
    serving = Serving(max_waiting=100_000)
    serving.learn()
    with fed(serving) as feeding:
        serving.live.follow()
        logged = feeding.run()
    slates = {e.id: e for e in logged if isinstance(e, Impression)}
    assert feeding.feed.fed.ranked == len(slates) == N
    assert all(e.version is not None and e.candidates[0].score is not None for e in slates.values())
    assert labelled(logged)
    assert {click.impression for click in labelled(logged)} <= slates.keys()


def test_slates_come_as_the_clock_goes() -> None:
    with fed(Serving(max_waiting=100_000)) as feeding:
        logged = feeding.run()
    expected = [e.at_ms - WORLD.start_ms for e in events(WORLD, N) if isinstance(e, Impression)]
    got = [e.at_ms - feeding.began_ms for e in logged if isinstance(e, Impression)]
    assert sorted(got) == expected


def test_a_feed_that_fell_behind_goes_on_from_now_and_does_not_catch_up() -> None:
    expected = gaps([e for e in events(WORLD, N) if isinstance(e, Impression)])
    with fed(Serving(max_waiting=100_000)) as feeding:
        feeding.halt_after_ms = 1_000
        got = gaps([e for e in feeding.run() if isinstance(e, Impression)])
    (halted,) = (n for n, gap in enumerate(got) if gap >= HALT_MS)
    assert 0 < halted < N - 5
    assert got[halted + 1 :] == expected[halted + 1 :]


@pytest.mark.parametrize("url", ["nope", "", "http://[", "http://127.0.0.1:99999", "http://:80", "ftp://x"])
def test_a_url_that_no_ranker_can_have_is_refused_at_once(url: str) -> None:
    with pytest.raises(RankerError, match="expected a URL as http://HOST:PORT, got "):
        RankerClient(url)


@pytest.mark.parametrize("token", ["h\u00e9", "a\nb", "\u2603"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(RankerError, match="expected a token of printable ASCII characters") as raised:
        RankerClient("http://127.0.0.1:1", token)
    assert token not in str(raised.value)


def test_it_ends_when_told_to() -> None:
    with fed(Serving(max_waiting=100_000)) as feeding:
        feeding.until_ms = feeding.began_ms + 1_000
        logged = feeding.run()
    assert 0 < sum(isinstance(e, Impression) for e in logged) < N


def test_what_has_no_room_is_counted_and_nobody_clicks_on_what_was_not_shown() -> None:
    serving = Serving(max_waiting=1)
    serving.log_switch.is_off = True
    with fed(serving) as feeding:
        feeding.feed.run(N)
    result = feeding.feed.fed
    assert result.sent + result.ranked <= 1
    assert result.missed >= N - 1
    assert result.clicks <= 1


def test_a_ranker_that_does_not_answer_is_waited_for_and_one_that_refuses_is_not() -> None:
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 3

    with RankerClient(f"http://127.0.0.1:{free_port()}", timeout_s=1) as nobody:
        Feed(nobody, WORLD, name="n", now_ms=lambda: 0, wait=wait).run(N)
    assert waited == [AWAY_S] * 3
    refuses = httpx.MockTransport(
        lambda _: httpx.Response(401, json={"error": "authorization: expected a token"})
    )
    with RankerClient("http://ranker") as client:
        client._http.close()
        client._http = httpx.Client(base_url="http://ranker", transport=refuses)
        feeding = Feed(client, WORLD, name="n", now_ms=lambda: 0, wait=lambda _: False)
        with pytest.raises(RankerError, match="expected a token"):
            feeding.run(N)


def test_a_stream_takes_no_more_memory_the_longer_it_is() -> None:
    stream = events(replace(product(0, 50, 80, 50.0), history_median=20), sys.maxsize)
    tracemalloc.start()
    try:
        sizes = []
        for n in (5_000, 20_000):
            for _ in range(n):
                next(stream)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 300_000  # with all that the truth is, it would be millions


def test_sigterm_ends_the_command_with_0(tmp_path: Path) -> None:
    log = tmp_path / "feed.log"
    command = [sys.executable, "-m", "instep.cli", "feed", "--url", f"http://127.0.0.1:{free_port()}"]
    with log.open("wb") as out:
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    try:
        for _ in range(WITHIN_S * 10):
            if b"the ranker is away" in log.read_bytes():
                break
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.1)
        child.send_signal(signal.SIGTERM)
        assert child.wait(WITHIN_S) == 0
    finally:
        child.kill()
        child.wait()
    assert re.search("0 slates ranked, 0 sent, 0 clicks, 0 missed", log.read_text())
