"""A study as a whole: stopped and gone on with, in how many processes whatever, and refused where it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from instep import truth as truth_file
from instep.drifts import DRIFTS
from instep.replay import replay
from instep.scorebook import HEADER, RECORD
from instep.settings import Settings
from instep.simulator import Truth, events
from instep.study.conduct import Asked, StudyError, conduct, names_of
from instep.study.results import Study, decode_study
from stream.events import Action, Impression
from stream.files import write_events
from stream.log import LogError
from tests.worlds import WORLD, product, small
from trainer.intervals import paired_bootstrap
from trainer.scores import auc

ROOT = Path(__file__).parent.parent.parent.parent
S = small(model={"warm_up_steps": 0})
MODELS = ("eta", "short")
pytestmark = pytest.mark.timeout(400)
"""Each study starts processes, which take seconds to import torch."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated log with the truth beside it."""
    folder, truth = tmp_path_factory.mktemp("log"), Truth()
    write_events(folder / "events.jsonl", events(WORLD, 200, truth=truth))
    truth_file.save(truth, folder / truth_file.NAME)
    return folder


def asked(log: Path, out: Path, **more: Any) -> Asked:
    given: dict[str, Any] = {
        "kind": "models",
        "logs": (log,),
        "settings": S,
        "models": MODELS,
        "n_seeds": 2,
        "n_processes": 2,
        "n_bootstrap": 40,
        "cost": False,
    }
    return Asked(out=out, command="again", **{**given, **more})


def timeless(study: Study) -> Study:
    """The same without what a clock says."""
    runs = [msgspec.structs.replace(run, seconds=None, cost=None) for run in study.runs]
    return msgspec.structs.replace(study, runs=runs)


def made(asked: Asked) -> Study:
    with Path(os.devnull).open("w") as nowhere:
        study = conduct(asked, Console(file=nowhere))
    assert decode_study((asked.out / "study.json").read_bytes()) == study
    return study


@pytest.fixture(scope="module")
def whole(log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A study without interruption, and its folder."""
    out = tmp_path_factory.mktemp("whole")
    return made(asked(log, out)), out


def test_what_it_finds_is_what_replays_of_the_same_models_have(
    log: Path, whole: tuple[Study, Path], tmp_path: Path
) -> None:
    study = whole[0]
    p: dict[tuple[str, int], Any] = {}
    for name in MODELS:
        for seed in (1, 2):
            found = replay(log, S.with_model(unit=name, seed=seed), tmp_path / f"{name}{seed}")
            p[name, seed] = np.fromfile(tmp_path / f"{name}{seed}" / "scores.bin", RECORD, offset=HEADER.size)
            assert study.candidates == found["candidates"]
    eta, short = study.runs
    for run in (eta, short):
        each = [auc(p[run.name, s]["p"], p[run.name, s]["label"]) for s in (1, 2)]
        assert run.auc.value == pytest.approx(np.mean(each), abs=1e-12)
    less = [
        paired_bootstrap(a["p"], b["p"], a["label"], a["user"], n=40, seed=n)
        for n, (a, b) in enumerate((p["short", s], p["eta", s]) for s in (1, 2))
    ]
    assert short.auc_less is not None
    assert short.auc_less.value == pytest.approx(np.mean([e.value for e in less]))
    assert eta.auc_less is eta.ne_less is None
    assert study.references == {"models": "eta"}
    assert study.best_auc is not None
    assert study.best_auc > (eta.auc.value or 1)
    assert eta.recall is not None
    assert eta.by_chance is not None
    assert (eta.recall.value or 0) > (eta.by_chance.value or 1) > 0
    assert (short.recall, short.overlap_exact, short.ties, short.flips) == (None,) * 4
    assert 0 < (eta.ties or 0) < 1
    assert (eta.flips or 0) > 0
    assert eta.changes == {}
    assert short.changes == {"model.unit": "short"}


def test_how_many_processes_changes_nothing(log: Path, whole: tuple[Study, Path], tmp_path: Path) -> None:
    assert timeless(made(asked(log, tmp_path, n_processes=1))) == timeless(whole[0])
    for file in sorted(whole[1].rglob("p.bin")):
        assert (tmp_path / file.relative_to(whole[1])).read_bytes() == file.read_bytes()


def test_what_is_done_is_not_done_again(log: Path, whole: tuple[Study, Path]) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole[1].rglob("*.bin")}
    assert made(asked(log, whole[1])) == whole[0], "with its seconds"
    assert {file: file.stat().st_mtime_ns for file in whole[1].rglob("*.bin")} == before
    more = made(asked(log, whole[1], models=(*MODELS, "average")))
    assert more.runs[:2] == whole[0].runs
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_the_warm_up_is_chosen_afterwards_and_what_is_learned_before(
    log: Path, whole: tuple[Study, Path], tmp_path: Path
) -> None:
    """No run is made again for another warm-up; of a part of the log they are those of a log that ends there."""
    before = {file: file.stat().st_mtime_ns for file in whole[1].rglob("p.bin")}
    half = made(asked(log, whole[1], warmup=0.5))
    assert half.candidates + half.warmup == whole[0].candidates
    assert half.warmup == whole[0].candidates // 2
    assert made(asked(log, whole[1], warmup=half.warmup)) == half
    assert {file: file.stat().st_mtime_ns for file in whole[1].rglob("p.bin")} == before
    part = made(asked(log, tmp_path / "part", until=0.5))
    assert 0.4 < part.candidates / whole[0].candidates < 0.6
    first = (tmp_path / "part" / "runs" / "eta").rglob("p.bin")
    for file in first:
        own = file.read_bytes()
        assert (whole[1] / file.relative_to(tmp_path / "part")).read_bytes().startswith(own)
    until_ms = WORLD.start_ms + 10_000
    timed = made(asked(log, tmp_path / "timed", until=until_ms))
    shown = [e for e in events(WORLD, 200) if isinstance(e, Impression) and e.at_ms + 2_000 <= until_ms]
    assert 0 <= sum(len(e.candidates) for e in shown) - timed.candidates < 8 * 10, (
        "but for a batch that is open"
    )


def test_killed_at_random_moments_it_ends_as_one_that_was_not(
    log: Path, whole: tuple[Study, Path], tmp_path: Path
) -> None:
    """Children of one that is killed end by themselves; what they had finished stays finished."""
    rng, n_killed, done = np.random.default_rng(5), 0, 0
    (log / "instep.toml").write_text(toml(S))
    command = [sys.executable, "-m", "instep.cli", "study", str(log), "--out", str(tmp_path), "--seeds", "2"]
    command += ["--models", "eta,short", "--bootstrap", "40", "--no-cost", "--processes", "2"]
    while True:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            if n_killed < 3:
                for line in process.stdout:  # the log joined, or a run done: each once
                    if "(" in line and " of " in line:
                        break
                time.sleep(float(rng.random()) * 0.3)
                process.send_signal(signal.SIGKILL)
                process.wait()
                n_killed += 1
                now = len(list(tmp_path.rglob("run.json")))
                assert now >= done
                done = now
                continue
            process.stdout.read()
            assert process.wait() == 0
            break
    found = decode_study((tmp_path / "study.json").read_bytes())
    expected = timeless(whole[0])
    assert timeless(msgspec.structs.replace(found, command="again")) == expected


def toml(settings: Settings) -> str:
    """The settings of these tests as a file."""
    lines = []
    for feature in settings.features:
        lines += ["[[features]]", f'name = "{feature.name}"', f'of = "{feature.of}"']
    defaults = msgspec.to_builtins(Settings())
    for section in ("stream", "model", "trainer"):
        lines.append(f"[{section}]")
        for name, value in msgspec.to_builtins(getattr(settings, section)).items():
            if value != defaults[section][name]:
                text = json.dumps(value) if not isinstance(value, dict) else "{ click = 2000 }"
                lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"settings": small(model={"lr": 0.01, "warm_up_steps": 0})}, "settings"),
        ({"until": 0.5}, "until"),
        ({"settings": small(stream={"lateness_ms": 400}, model={"warm_up_steps": 0})}, "log"),
    ],
)
def test_runs_of_another_study_are_refused_or_made_again(
    log: Path, whole: tuple[Study, Path], tmp_path: Path, changes: dict[str, Any], differs: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole[1], out)
    with pytest.raises(StudyError) as e:
        made(asked(log, out, **changes))
    assert str(e.value).endswith(f"got another ({differs}); --fresh makes 4 again")
    assert str(e.value).startswith(f"{out / 'runs' / 'eta'}")
    assert made(asked(log, out)) == whole[0], "nothing has changed"
    one = {**changes, "models": ("short",), "n_processes": 1}
    fresh = made(asked(log, out, fresh=True, **one))
    assert timeless(fresh) == timeless(made(asked(log, tmp_path / "new", **one)))


def test_several_logs_are_learned_each_and_their_mean_is_told(
    log: Path, whole: tuple[Study, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_events(
        other / "events.jsonl", [e for e in product(150) if not isinstance(e, Action) or e.impression]
    )
    more: dict[str, Any] = {"n_seeds": 1, "n_processes": 1}
    both = made(asked(log, tmp_path / "both", logs=(log, other), **more))
    one, two = (made(asked(at, tmp_path / name, **more)) for name, at in (("one", log), ("two", other)))
    for a, b, c in zip(both.runs, one.runs, two.runs, strict=True):
        assert a.auc.value == pytest.approx(((b.auc.value or 0) + (c.auc.value or 0)) / 2)
        assert len(a.windows) == min(len(b.windows), len(c.windows))
    assert both.candidates == one.candidates + two.candidates
    assert both.best_auc is two.best_auc is None
    assert one.best_auc is not None
    assert both.log == f"{log.name}, other"


def test_of_two_kinds_of_action_each_has_its_figures(log: Path, tmp_path: Path) -> None:
    sent: list[Any] = []
    for e in events(WORLD, 120):
        sent.append(e)
        if isinstance(e, Action) and e.impression is not None and len(e.item) % 2:
            sent.append(msgspec.structs.replace(e, kind="like"))
    write_events(tmp_path / "log" / "events.jsonl", sent)
    two = small(stream={"windows": {"click": 2_000, "like": 2_000}})
    study = made(asked(tmp_path / "log", tmp_path / "out", settings=two, n_seeds=1, n_processes=1))
    assert [run.name for run in study.runs] == ["eta", "short", "eta.like", "short.like"]
    assert study.references == {"models": "eta", "models: like": "eta.like"}
    click, like = study.runs[1], study.runs[3]
    assert like.group == "models: like"
    assert None is not like.auc.value != click.auc.value
    assert like.auc_less is not None
    assert study.runs[2].auc_less is None


def test_cold_items_are_scored_apart_and_learned_once(tmp_path: Path) -> None:
    log, truth = tmp_path / "log", Truth()
    write_events(log / "events.jsonl", events(WORLD, 300, drifts=DRIFTS["arrivals"], truth=truth))
    truth_file.save(truth, log / truth_file.NAME)
    study = made(asked(log, tmp_path / "out", kind="cold", models=None, n_seeds=1))
    born, at_random, every, _ = study.runs
    assert study.candidates == early(truth) > 100
    assert born.auc.value != every.auc.value
    assert at_random.changes == {"model.born_from_category": False}
    assert len(list(tmp_path.rglob("run.json"))) == 2


def early(truth: Truth) -> int:
    """How many candidates are new items in their first ten exposures, one after the other in event time."""
    times: dict[str, int] = {}
    n = 0
    for e in events(WORLD, 300, drifts=DRIFTS["arrivals"]):
        for c in e.candidates if isinstance(e, Impression) else ():
            times[c.item] = times.get(c.item, 0) + 1
            n += c.item in truth.new_items and times[c.item] <= 10
    return n


@pytest.mark.parametrize(
    ("changes", "error", "line"),
    [
        ({"until": 5}, StudyError, "--until: expected some of .*, got 5, before anything is final"),
        ({"warmup": 9_999}, StudyError, "--warmup: expected fewer than the .* candidates of .*, got 9,999"),
        ({"logs": (Path("gone.jsonl"),)}, LogError, "gone.jsonl: expected a file or folder of events"),
    ],
)
def test_what_cannot_be_studied_is_told(
    log: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], line: str
) -> None:
    with pytest.raises(error, match=line):
        made(asked(log, tmp_path, **changes))


def test_logs_have_names_that_differ() -> None:
    logs = [Path("/x/a/e"), Path("/x/b/e"), Path("/y/b/e")]
    assert names_of(logs) == ["a-e", "1-b-e", "2-b-e"]
