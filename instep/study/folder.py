"""A study's folder: study.json, from which everything else in it can be made again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from instep.study.report import render
from instep.study.results import Study, decode_study, encode_study
from instep.study.tables import arrow, markdown
from stream.whole import whole

JSON, MARKDOWN, PARQUET, REPORT = "study.json", "study.md", "study.parquet", "report.html"


class StudyError(ValueError):
    """A file that is no study."""


def write(study: Study, folder: Path) -> None:
    """Write all four files, each whole or not at all, into a folder that is made; OSError if it cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    study = decode_study(encode_study(study))  # as it will be read again: 16 where a float belongs is 16.0
    whole(folder / JSON, lambda path: path.write_bytes(encode_study(study)))
    whole(folder / MARKDOWN, lambda path: path.write_text(markdown(study), encoding="utf-8"))
    whole(folder / PARQUET, lambda path: pq.write_table(arrow(study), path))
    write_report(study, folder)


def write_report(study: Study, folder: Path) -> Path:
    """Write report.html alone, whole or not at all; where it is."""
    path = folder / REPORT
    whole(path, lambda aside: aside.write_text(render(study), encoding="utf-8"))
    return path


def read(folder: Path) -> Study:
    """Read study.json; StudyError if it is none, OSError if it cannot be read."""
    path = folder / JSON
    raw = path.read_bytes()
    try:
        return decode_study(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise StudyError(f"{path}: expected a study, got: {e}") from None
