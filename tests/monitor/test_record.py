"""The file of alerts: written, read back, and cut at any byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.alert import cleared
from monitor.record import AlertRecord, RecordError, find_alert, read_alerts
from tests.monitor.alerts import alert

ALERTS = [alert(1), alert(2, "dead"), cleared(alert(1), 240_000), alert(5)]
NOW = [cleared(alert(1), 240_000), alert(2, "dead"), alert(5)]


def write(path: Path) -> bytes:
    record = AlertRecord(path)
    for each in ALERTS:
        record.add(each)
    record.close()
    return path.read_bytes()


def test_what_was_added_is_read_back_as_it_was_last(tmp_path: Path) -> None:
    raw = write(path := tmp_path / "deep" / "alerts.jsonl")
    assert [json.loads(line)["id"] for line in raw.splitlines()] == [a.id for a in ALERTS]
    assert read_alerts(path) == ALERTS
    record = AlertRecord(path)
    assert record.alerts == NOW
    record.close()


def test_what_is_so_already_is_not_written_again(tmp_path: Path) -> None:
    raw = write(path := tmp_path / "alerts.jsonl")
    record = AlertRecord(path)
    for each in NOW:
        record.add(each)
    record.close()
    assert path.read_bytes() == raw


def test_cut_at_any_byte_the_whole_lines_are_there_and_new_ones_follow(tmp_path: Path) -> None:
    raw = write(path := tmp_path / "alerts.jsonl")
    for end in range(0, len(raw), 7):
        path.write_bytes(raw[:end])
        record = AlertRecord(path)
        assert len(read_alerts(path)) == raw[:end].count(b"\n")
        record.add(alert(9))
        record.close()
        assert read_alerts(path) == [*ALERTS[: raw[:end].count(b"\n")], alert(9)]


def test_memory_holds_the_last_ones_and_the_file_all(tmp_path: Path) -> None:
    record = AlertRecord(tmp_path / "alerts.jsonl", n_most=3)
    for minute in range(5):
        record.add(alert(minute))
    record.close()
    assert [a.start_ms for a in record.alerts] == [120_000, 180_000, 240_000]
    assert len(read_alerts(tmp_path / "alerts.jsonl")) == 5


def test_without_a_file_it_is_kept_in_memory() -> None:
    record = AlertRecord()
    record.add(alert(1))
    record.close()
    assert record.alerts == [alert(1)]


def test_a_line_that_is_no_alert_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    write(path)
    path.write_bytes(path.read_bytes() + b'{"rule": 1}\n')
    with pytest.raises(RecordError, match=r"alerts\.jsonl:5: expected an alert, got: .*`rule`|.*`str`"):
        AlertRecord(path)


def test_an_alert_is_found_by_its_id_as_it_was_last(tmp_path: Path) -> None:
    write(path := tmp_path / "alerts.jsonl")
    assert find_alert(path, alert(1).id) == NOW[0]
    with pytest.raises(
        RecordError, match=r"expected the id of an alert, got 'x'; the last are: .*late:data.late:300000"
    ):
        find_alert(path, "x")
    with pytest.raises(RecordError, match="none: expected a record of alerts, got: No such file"):
        find_alert(tmp_path / "none", "x")


def test_one_process_adds_to_a_record_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    first = AlertRecord(path)
    with pytest.raises(RecordError, match=r"alerts\.jsonl: it is in use, expected one monitor at a time"):
        AlertRecord(path)
    first.close()
    AlertRecord(path).close()
