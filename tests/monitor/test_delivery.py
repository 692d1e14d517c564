"""Who is told of an alert, and how."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from monitor.alert import cleared
from monitor.alerting import Judged, Silenced
from monitor.delivery import Delivery
from monitor.record import AlertRecord
from monitor.rules import read_rules
from stream.metrics import Metrics
from tests.monitor.alerts import alert


def figures(metrics: Metrics) -> dict[str, float]:
    lines = [
        line
        for line in metrics.page().decode().splitlines()
        if line.startswith(("instep_alerts_total", "instep_alerts_open"))
    ]
    return {
        line.rsplit(" ", 1)[0].replace(',worker="monitor"', ""): float(line.split()[-1]) for line in lines
    }


def test_an_alert_is_logged_recorded_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metrics, record = Metrics("monitor"), AlertRecord()
    delivery = Delivery(record, metrics)
    page, note = alert(1, "dead", severity="page"), alert(1)
    delivery.tell(Judged((page, note), (), (Silenced(alert(1, "other"), "dead"),)))
    assert record.alerts == [page, note]
    assert figures(metrics) == {
        'instep_alerts_total{rule="dead",severity="page"}': 1,
        'instep_alerts_total{rule="late",severity="note"}': 1,
        'instep_alerts_open{severity="page"}': 1,
        'instep_alerts_open{severity="ticket"}': 0,
        'instep_alerts_open{severity="note"}': 1,
    }
    assert [(r.levelname, r.getMessage().split()[1]) for r in caplog.records] == [
        ("INFO", "is"),
        ("ERROR", "raised"),
        ("INFO", "raised"),
    ]
    assert page.reason in caplog.text
    delivery.tell(Judged((), (cleared(page, 300_000),)))
    assert record.alerts == [cleared(page, 300_000), note]
    assert figures(metrics)['instep_alerts_open{severity="page"}'] == 0
    delivery.close()


def test_after_a_restart_what_the_judge_knows_is_open_and_no_news() -> None:
    metrics, record = Metrics("monitor"), AlertRecord()
    record.add(alert(2))
    delivery = Delivery(record, metrics)
    delivery.resume([alert(2), alert(3)])
    assert record.alerts == [alert(2), alert(3)]
    assert delivery.tell(Judged((alert(2), alert(3)))) == []
    assert figures(metrics)['instep_alerts_open{severity="note"}'] == 2
    delivery.close()


def test_rules_that_have_raised_nothing_are_counted_as_none() -> None:
    metrics, rules = Metrics("monitor"), read_rules()
    delivery = Delivery(AlertRecord(), metrics, rules=rules)
    severity = rules["clicks-stopped"].severity
    name = f'instep_alerts_total{{rule="clicks-stopped",severity="{severity}"}}'
    raised = {key: n for key, n in figures(metrics).items() if key.startswith("instep_alerts_total")}
    assert (len(raised), set(raised.values()), raised[name]) == (len(rules), {0.0}, 0)
    delivery.tell(Judged((alert(1, "clicks-stopped", severity=severity),), ()))
    assert figures(metrics)[name] == 1
    delivery.close()


def test_an_alert_that_cannot_be_recorded_is_told_of_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, record = Metrics("monitor"), AlertRecord()
    delivery = Delivery(record, metrics)
    with Path("/dev/full").open("ab") as record._file:
        delivery.resume([alert(0)])
        assert delivery.tell(Judged((alert(1),))) == [alert(1)]
        assert caplog.text.count("cannot be recorded") == 2
        assert figures(metrics)['instep_alerts_total{rule="late",severity="note"}'] == 1
        delivery.close()
    assert "are lost" in caplog.text
