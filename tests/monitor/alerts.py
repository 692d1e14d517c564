"""Alerts for tests."""

from __future__ import annotations

from monitor.alert import Alert, Severity


def alert(minute: int, rule: str = "late", *, over: int | None = None, severity: Severity = "note") -> Alert:
    """One that was raised with that minute, and over with another."""
    return Alert(
        rule=rule,
        metric="data.late",
        size_ms=60_000,
        start_ms=minute * 60_000,
        raised_ms=(minute + 1) * 60_000,
        detector="limits",
        value=0.5,
        error=None,
        n=1_000,
        reference=0.1,
        reference_error=None,
        severity=severity,
        reason="half of it is late ± nothing",
        remedy="Look.",
        offsets={0: (minute * 10, minute * 10 + 10), 3: (0, 5)},
        cleared_ms=None if over is None else over * 60_000,
    )
