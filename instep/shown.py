"""What a monitor saw of a replay, in the replay's folder: its board, and the page that is drawn of it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from instep.study.folder import whole
from monitor.board import RECORD, Board
from monitor.static import render

PAGE = "monitor.html"


class BoardError(ValueError):
    """A file that is no board of a monitor."""


def write_board(board: Board, folder: Path) -> Path:
    """Write monitor.msgpack, whole or not at all; where it is. OSError if it cannot be."""
    path = folder / RECORD
    whole(path, lambda aside: aside.write_bytes(board.encode()))
    return path


def read_board(folder: Path) -> Board:
    """Read monitor.msgpack; BoardError if it is none, OSError if it cannot be read."""
    path = folder / RECORD
    raw = path.read_bytes()
    try:
        return Board.decode(raw)
    except (msgspec.MsgspecError, ValueError) as e:
        raise BoardError(f"{path}: expected the board of a monitor, got: {e}") from None


def write_page(folder: Path) -> Path:
    """Draw monitor.html from the board beside it, whole or not at all; where it is."""
    board = read_board(folder)
    path = folder / PAGE
    title = f"{folder.resolve().name}: instep monitor"
    whole(path, lambda aside: aside.write_text(render(board, title), encoding="utf-8"))
    return path
