"""News of a board as server-sent events, to each who listens at its own speed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import msgspec

from monitor.board import Board
from monitor.view import news

BEAT_S = 5.0
"""So often a browser is told that the monitor is there, if there is nothing else to tell."""
N_STREAMS = 64
"""So many browsers may listen at once."""


class TooMany(RuntimeError):
    """More listen than may."""


class Streams:
    """Those who listen to a board.

    Parameters
    ----------
    now_ms
        Wall time.
    """

    def __init__(self, board: Board, now_ms: Callable[[], int]) -> None:
        self._board = board
        self._now_ms = now_ms
        self._n_open = 0

    def open(self, after: str) -> AsyncIterator[bytes]:
        """What comes after a piece of news, or from now on if that is empty. TooMany if too many listen."""
        if self._n_open >= N_STREAMS:
            raise TooMany(f"stream: expected at most {N_STREAMS} who listen")
        return self._events(after)

    async def _events(self, after: str) -> AsyncIterator[bytes]:
        board, awake, loop = self._board, asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop ends before those who fill the board do
                loop.call_soon_threadsafe(awake.set)

        leave = board.subscribe(wake)
        self._n_open += 1
        try:
            yield b"retry: 1000\n\n"
            run, _, n = after.partition("-")
            known = run == board.run and n.isdecimal() and len(n) < 20  # more digits are no number for int()
            last, status = int(n) if known else -1 if after else board.last, None
            while not board.is_closed:
                awake.clear()
                missed = board.since(last)
                if missed is None:
                    last = board.last
                    yield _event("reset", b"{}", news(board.run, last))
                for told in missed or ():
                    last = told.n
                    yield _event(told.kind, told.raw, news(board.run, last))
                if board.status is not status:
                    status = board.status
                    raw = msgspec.json.encode({"now_ms": self._now_ms(), "status": status})
                    yield _event("status", raw)
                try:
                    await asyncio.wait_for(awake.wait(), BEAT_S)
                except TimeoutError:
                    yield _event("beat", msgspec.json.encode({"now_ms": self._now_ms()}))
        finally:
            self._n_open -= 1
            leave()


def _event(kind: str, raw: bytes, name: str = "") -> bytes:
    """One server-sent event; ``raw`` has no line break in it."""
    head = f"id: {name}\nevent: {kind}\n" if name else f"event: {kind}\n"
    return head.encode() + b"data: " + raw + b"\n\n"
