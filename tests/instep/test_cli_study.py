"""``instep study`` as a new user would try it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from instep.cli_study import KindName, with_changes
from instep.settings import Settings, SettingsError
from instep.study.results import Kind, decode_study
from stream.files import write_events
from tests.instep.commands import SMALL, Run, told
from tests.worlds import product

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    write_events(folder / "events.jsonl", product(100))
    (folder / "instep.toml").write_text(SMALL)
    return folder


@pytest.mark.timeout(400)
def test_it_prints_lines_and_tables_in_a_pipe_and_writes_what_it_found(
    run: Run, log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = run("study", log, "--out", out, "--models", "short,average", "--seeds", 1, "--warmup", 0.25)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("join log: ")
    assert [line.split(":")[0] for line in lines[1:3]] in (
        ["short log.0", "average log.0"],
        ["average log.0", "short log.0"],
    )
    assert lines[3].startswith("cost: ")
    assert max(map(len, lines[:-1])) <= 80
    assert "\x1b" not in ran.out
    assert lines[-2] == "log: 750 candidates scored, 1 seeds"
    assert lines[-1] == f"written to {out / 'study.json'}"
    study = decode_study((out / "study.json").read_bytes())
    assert (study.candidates, study.warmup, study.seeds, study.kind) == (750, 250, 1, "models")
    assert study.references == {"models": "short"}
    assert study.command == (
        f"instep study {log} --out {out} --study models --seeds 1 --models short,average --warmup 0.25"
    )
    for found in study.runs:
        assert found.cost is not None
        assert found.cost.learn_per_s > 0
        assert found.cost.rank_ms > 0
        assert f"{100 * (found.auc.value or 0):.2f}" in ran.out
    again = run("study", log, "--out", out, "--models", "short,average", "--seeds", 1, "--warmup", 0.25)
    assert "log.0" not in again.out, "there is nothing left to learn"
    assert decode_study((out / "study.json").read_bytes()) == study
    other = run("study", log, "--out", out, "--models", "short", "--seeds", 1, "--set", "lr=0.01")
    assert told(other).endswith("got another (settings); --fresh makes 1 again")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--models", "eta,dnn"], "--models: expected some of none, short, "),
        (
            ["--until", "soon"],
            "--until: expected a part of the log (above 0, up to 1), a date, or ms since 1970, got 'soon'",
        ),
        (["--until", "0"], "--until: expected a part of the log"),
        (
            ["--warmup", "1.5"],
            "--warmup: expected a part of what is learned (0 to below 1) or a number of candidates",
        ),
        (["--warmup", "1000"], "--warmup: expected fewer than the 1,000 candidates of {log}, got 1,000"),
        (
            ["--until", "2020-01-01"],
            "--until: expected some of {log}, got 1577836800000, before anything is final",
        ),
        (["--set", "top_k"], "--set: expected KEY=VALUE or SECTION.KEY=VALUE, got 'top_k'"),
        (["--set", "kafka.prefix=x"], "--set: expected KEY=VALUE or SECTION.KEY=VALUE, got 'kafka.prefix=x'"),
        (["--set", "top_k=0"], "--set: model.top_k: expected `int` >= 1, got 0"),
        (["--set", "model.unit=dnn"], "--set: model.unit: expected one of "),
        (["--settings", "gone.toml"], "gone.toml: expected a settings file, got: No such file or directory"),
        (["{log}"], "{log}: expected each log once, got it twice"),
        (["gone.jsonl"], "expected a file or folder of events, got nothing there"),
        (
            ["--study", "drift"],
            "Invalid value for '--study': Value error, 'drift' is not one of 'models', ",
        ),
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--bootstrap", "1"], "Invalid value for '--bootstrap'"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    run: Run, log: Path, tmp_path: Path, args: list[str], line: str
) -> None:
    ran = run("study", log, *(arg.format(log=log) for arg in args), "--out", tmp_path / "out")
    assert line.format(log=log) in told(ran)
    assert not (tmp_path / "out" / "study.json").exists()


def test_logs_with_other_settings_are_refused_unless_one_file_is_named(
    run: Run, log: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_events(other / "events.jsonl", product(20))
    (other / "instep.toml").write_text(SMALL + "[ranker]\nport = 1\n")
    line = told(run("study", log, other, "--out", tmp_path / "out"))
    assert line == (
        f"{other}: expected the same settings beside it as beside {log}, got others; --settings names one file"
    )


@pytest.mark.timeout(400)
def test_ctrl_c_ends_it_and_leaves_no_study_behind(log: Path, tmp_path: Path) -> None:
    write_events(log / "events.jsonl", product(2_000))
    command = [sys.executable, "-m", "instep.cli", "study", str(log), "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()  # ends only when its children have
        assert process.stderr.read() == ""
        assert process.wait() == 130
    assert not (tmp_path / "out" / "study.json").exists()


def test_settings_are_changed_for_all_runs_with_values_as_in_the_file() -> None:
    changed = with_changes(Settings(), ["top_k=8", "mlp=[4, 2]", "unit=short", "stream.max_history = 64"])
    assert changed.model.top_k == 8
    assert changed.model.mlp == (4, 2)
    assert changed.model.unit == "short"
    assert changed.stream.max_history == 64
    assert with_changes(Settings(), []) == Settings()
    with pytest.raises(SettingsError, match=r"--set: model\.topk: expected a setting that exists"):
        with_changes(Settings(), ["topk=8"])


def test_the_command_line_names_the_studies_there_are() -> None:
    assert KindName == Kind


@pytest.mark.timeout(400)
def test_a_simulated_log_is_studied_against_its_truth(run: Run, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    size = ["--slates", 300, "--users", 60, "--items", 160]
    assert run("simulate", log, *size, "--drift", "moved").code == 0
    small = ["--set", "warm_up_steps=5", "--set", "top_k=16", "--models", "eta", "--seeds", 1, "--no-cost"]
    ran = run("study", log, "--out", out, *small, "--bootstrap", 20)
    assert (ran.code, ran.err) == (0, "")
    assert "best possible AUC" in ran.out
    study = json.loads((out / "study.json").read_text())
    assert 0.7 < study["best_auc"] < 1
    assert 0 < study["runs"][0]["by_chance"]["value"] < study["runs"][0]["recall"]["value"] <= 1
    assert told(run("simulate", log, "--drift", "sideways")).endswith("; see --help")
