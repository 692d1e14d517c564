"""A folder in which a monitor keeps what it has seen: the board, what it needs to go on, and the record of alerts.

The board is written first: of two files that a crash came between, the board is the newer one, and a monitor that
measures a window again which is on it goes by the board.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from monitor.board import Board
from monitor.static import render
from stream.whole import write_whole

BOARD, STATE, ALERTS, PAGE = "monitor.msgpack", "state.msgpack", "alerts.jsonl", "monitor.html"


class BoardError(ValueError):
    """A file that is no board of a monitor."""


class Folder:
    """The files of one monitor. OSError from every method if they cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def alerts(self) -> Path:
        """The record of alerts, see `monitor.record`."""
        return self.path / ALERTS

    @property
    def has_board(self) -> bool:
        """Whether a monitor has kept something here."""
        return (self.path / BOARD).exists()

    def board(self) -> Board:
        """What was kept. BoardError if that is no board."""
        path = self.path / BOARD
        raw = path.read_bytes()
        try:
            return Board.decode(raw)
        except (msgspec.MsgspecError, ValueError) as e:
            raise BoardError(f"{path}: expected the board of a monitor, got: {e}") from None

    def state(self) -> bytes | None:
        """What was kept to go on with; None without."""
        path = self.path / STATE
        return path.read_bytes() if path.exists() else None

    def keep(self, board: Board, state: bytes | None = None) -> Path:
        """Write what is shown, and what is needed to go on, each whole or not at all; where the board is."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / BOARD
        write_whole(path, board.encode())
        if state is not None:
            write_whole(self.path / STATE, state)
        return path

    def draw(self) -> Path:
        """Draw the page of the board that was kept, as one file; where it is. BoardError if that is no board."""
        path = self.path / PAGE
        write_whole(path, render(self.board(), f"{self.path.resolve().name}: instep monitor").encode())
        return path
