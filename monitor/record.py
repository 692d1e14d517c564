"""The record of alerts, a file of JSON lines: one when an alert is raised, one when it is over. An edge.

The last line of an id is what is so. A line that was cut short by a crash is taken off at the next start; the judge,
whose state is older then, finds that alert again, as it finds those that are there: they are no news.
"""

from __future__ import annotations

import fcntl
import logging
from io import BufferedWriter
from pathlib import Path

import msgspec

from monitor.alert import Alert, decode_alert, encode_alert

log = logging.getLogger(__name__)


class RecordError(ValueError):
    """A record of alerts that cannot be read: where, what was expected, what came."""


class AlertRecord:
    """Adds alerts to a file, and knows the last ones in it. A full disk is told of and stops nothing.

    Parameters
    ----------
    path
        The file; it is made if it is not there. None keeps them in memory only.
    n_most
        Alerts that are remembered; the file holds all.

    Raises
    ------
    RecordError
        If a line of the file is no alert, or another process adds to it.
    """

    def __init__(self, path: Path | None = None, n_most: int = 1_000) -> None:
        self._n_most = n_most
        self._alerts: dict[str, Alert] = {}
        self._file = None if path is None else _opened(path)
        if path is not None:
            try:
                _cut_torn_line(path)
                for alert in read_alerts(path):
                    self._remember(alert)
            except BaseException:
                self.close()
                raise

    def add(self, alert: Alert) -> bool:
        """Keep an alert as it is now; whether that is news. One that was over is not raised again."""
        known = self._alerts.get(alert.id)
        if known == alert or (known is not None and alert.is_open and not known.is_open):
            return False
        self._remember(alert)
        if self._file is not None:
            try:
                self._file.write(encode_alert(alert) + b"\n")
                self._file.flush()
            except OSError as e:  # what is left of it goes along with the next
                log.error("an alert cannot be recorded alert=%s error=%s", alert.id, e)
        return True

    @property
    def alerts(self) -> list[Alert]:
        """The last ones as they are now, in the order in which they were raised."""
        return list(self._alerts.values())

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as e:
                log.error("alerts are lost to the record error=%s", e)

    def _remember(self, alert: Alert) -> None:
        self._alerts[alert.id] = alert
        if len(self._alerts) > self._n_most:
            del self._alerts[next(iter(self._alerts))]


def read_alerts(path: Path) -> list[Alert]:
    """Every line of a record, in order: an alert that is over stands there twice.

    Raises
    ------
    RecordError
        With file and line, if one is no alert, or the file cannot be read.
    """
    alerts = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as e:
        raise RecordError(f"{path}: expected a record of alerts, got: {e.strerror}") from None
    for n, line in enumerate(lines, 1):
        try:
            alerts.append(decode_alert(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise RecordError(f"{path}:{n}: expected an alert, got: {e}") from None
    return alerts


def find_alert(path: Path, alert_id: str) -> Alert:
    """The alert of an id, as it was last. RecordError if there is none, with the last ids that there are."""
    found = {alert.id: alert for alert in read_alerts(path)}
    if alert_id not in found:
        ids = ", ".join(list(found)[-5:]) or "none"
        raise RecordError(f"{path}: expected the id of an alert, got {alert_id!r}; the last are: {ids}")
    return found[alert_id]


def _opened(path: Path) -> BufferedWriter:
    """To add to, by one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RecordError(f"{path}: it is in use, expected one monitor at a time") from None
    return file


def _cut_torn_line(path: Path) -> None:
    """Take off what stands behind the last line break."""
    with path.open("r+b") as file:
        raw = file.read()
        file.truncate(raw.rfind(b"\n") + 1)
