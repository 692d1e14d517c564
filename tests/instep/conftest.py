"""The command line, called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from instep import cli
from tests.instep.commands import Ran, Refused, Run, told


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls the entry point in this process: importing torch for each command would take seconds."""

    def run(*args: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["instep", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "80")  # as in a pipe
        capfd.readouterr()
        with pytest.raises(SystemExit) as e:
            cli.main()
        return Ran(e.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def done(run: Run) -> Callable[..., str]:
    """Runs a command that must work; returns what it printed."""

    def done(*args: object) -> str:
        ran = run(*args)
        assert (ran.code, ran.err) == (0, "")
        return ran.out

    return done


@pytest.fixture
def refused(run: Run) -> Refused:
    """Runs a command that must not work; returns the one line that says why."""

    def refused(*args: object) -> str:
        ran = run(*args)
        assert "Traceback" not in ran.out
        return told(ran)

    return refused
