"""Log lines: a lower-case sentence, then ``key=value``; or the same as JSON, for machines that collect them."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import TextIO

import msgspec

_PAIR = re.compile(r"(\w+)=%[-+ #0-9.]*[a-z]")


class JsonLines(logging.Formatter):
    """One JSON object a line, whose keys are those that the message names.

    >>> record = logging.LogRecord("stream.joiner", 20, "", 1, "state read back partition=%d", (3,), None)
    >>> record.created = record.msecs = 0.0
    >>> print(JsonLines().format(record))
    {"at":"1970-01-01T00:00:00.000Z","level":"info","logger":"stream.joiner","message":"state read back","partition":3}
    """

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, object] = {
            "at": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        template, values = str(record.msg), record.args if isinstance(record.args, tuple) else ()
        keys = _PAIR.findall(template)
        if keys and len(keys) == len(values):
            line["message"] = template[: template.index(f"{keys[0]}=%")].strip()
            for key, value in zip(keys, values, strict=True):
                line[key] = value if isinstance(value, bool | int | float | None) else str(value)
        else:  # a message of another's making
            line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure(as_json: bool = False, level: int = logging.INFO, to: TextIO | None = None) -> None:
    """Send the log lines of the whole process to standard error, or to ``to``; times in UTC.

    Called once, by an entry point; what was configured before is replaced.
    """
    formatter: logging.Formatter = JsonLines()
    if not as_json:
        line = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"
        formatter = logging.Formatter(line, "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
    handler = logging.StreamHandler(to or sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kafka-python tells of every connection, and twice a second of one that fails; what it means is said by ours.
    logging.getLogger("kafka").setLevel(logging.WARNING)
    logging.getLogger("kafka.net").setLevel(logging.CRITICAL)
