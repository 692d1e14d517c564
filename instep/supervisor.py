"""All workers of one machine under one process, which starts them, starts them again, and ends them.

A worker that ends by itself has met a broken promise or a person must mend something: the first is started again after
a while that doubles, the second (exit code 2) ends all.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from threading import Event

log = logging.getLogger(__name__)

MEND = 2
"""Exit code of a process that a person must help; see the command line."""
LEAVE_S = 60.0
"""How long a worker may take to finish."""
FIRST_S, LONGEST_S = 1.0, 30.0


def run_once(commands: Mapping[str, Sequence[str]]) -> int:
    """Run the workers one after the other, each until it has drained its input; the first exit code that is not 0."""
    for name, command in commands.items():
        code = subprocess.run(command, check=False).returncode
        if code:
            log.error("worker failed worker=%s code=%d", name, code)
            return code
    return 0


class Supervisor:
    """Keeps workers alive.

    Parameters
    ----------
    commands
        By name of the worker.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self._commands = commands
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._due_s: dict[str, float] = dict.fromkeys(commands, 0.0)
        self._wait_s: dict[str, float] = dict.fromkeys(commands, FIRST_S)
        self._began_s: dict[str, float] = {}
        self._stop = Event()

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until a worker needs a person; returns the exit code."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, lambda *_: self._stop.set())
        try:
            code = 0
            while not self._stop.is_set() and code != MEND:
                code = max((self._look_after(name) for name in self._commands), default=0)
                self._stop.wait(0.1)
            return self._end(MEND if code == MEND else 0)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _look_after(self, name: str) -> int:
        """Start a worker that is due; the exit code of one that a person must help."""
        child, now_s = self._children.get(name), time.monotonic()
        if child is None:
            if now_s >= self._due_s[name]:
                # in a session of its own, so that Ctrl-C reaches it through us, once
                self._children[name] = subprocess.Popen(self._commands[name], start_new_session=True)
                self._began_s[name] = now_s
                log.info("worker started worker=%s pid=%d", name, self._children[name].pid)
            return 0
        code = child.poll()
        if code is None:
            return 0
        del self._children[name]
        if now_s - self._began_s[name] > LONGEST_S:
            self._wait_s[name] = FIRST_S
        what = "worker ended worker=%s code=%d wait_s=%g"
        log.warning(what, name, code, self._wait_s[name])
        self._due_s[name] = now_s + self._wait_s[name]
        self._wait_s[name] = min(2 * self._wait_s[name], LONGEST_S)
        return MEND if code == MEND else 0

    def _end(self, code: int) -> int:
        """Let all finish, and end those that do not."""
        for child in self._children.values():
            child.terminate()
        until_s = time.monotonic() + LEAVE_S
        for name, child in self._children.items():
            try:
                ended = child.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("worker does not finish, killed worker=%s", name)
                child.kill()
                ended = child.wait()
            code = code or (1 if ended else 0)
        return code
