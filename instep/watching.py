"""A monitor beside a pipeline in one process, and the folder that what it saw goes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from instep.settings import Settings
from monitor.board import Board
from monitor.delivery import Delivery
from monitor.folder import Folder
from monitor.monitor import Monitor
from monitor.record import AlertRecord
from stream.metrics import Metrics


@dataclass(frozen=True)
class Watching:
    """A monitor, and where what it saw is kept."""

    monitor: Monitor
    folder: Folder

    def keep(self) -> None:
        """Write what is shown up to now."""
        self.monitor.turn()
        self.monitor.tell()
        self.folder.keep(self.monitor.board)


@contextmanager
def watching(settings: Settings, path: Path, *, goes_on: bool = False) -> Iterator[Watching]:
    """A monitor by the settings, which keeps what it sees in a folder.

    Parameters
    ----------
    goes_on
        Whether what is kept there belongs to it already; or else to another run, which is forgotten.
    """
    folder = Folder(path)
    if not goes_on:
        folder.alerts.unlink(missing_ok=True)
    board = folder.board() if goes_on and folder.has_board else Board()
    with closing(Delivery(AlertRecord(folder.alerts), Metrics("monitor"))) as delivery:
        has_breaker = settings.breaker.mode != "off"
        rules, judged_by = settings.watch_rules(), settings.alert_rules()
        yield Watching(Monitor(rules, judged_by, board, delivery, has_breaker=has_breaker), folder)
