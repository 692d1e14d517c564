"""The command line as a new user would try it: what works, and what is told of what does not."""

from __future__ import annotations

import gzip
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from instep import cli
from instep.console import LOG_NAME
from instep.study import folder
from instep.study.report import render
from monitor.folder import BoardError, Folder
from monitor.record import AlertRecord
from monitor.static import render as render_board
from stream.events import Action, Impression
from stream.files import FileSource, write_events
from tests.instep.commands import Ran, Refused, Run, a_log, metrics, told
from tests.instep.study import made
from tests.monitor import made as day
from tests.monitor.alerts import alert
from tests.worlds import damage, product
from trainer import checkpoint
from trainer.model.units import UNITS

INSTEP = Path(sys.executable).with_name("instep")
IMPORTS = ("mind", "movielens", "taobao", "kuairand", "csv")
COMMANDS = (
    ["replay"],
    ["demo"],
    ["study"],
    ["simulate"],
    ["report"],
    ["import"],
    *(["import", name] for name in IMPORTS),
)
METRICS = {"candidates", "ctr", "auc", "ne", "gauc", "log_loss", "calibration", "errors"}
KEYS = METRICS | {
    "model",
    "seed",
    "version",
    "weights_sha256",
    "samples",
    "counts",
    "bad_batches",
    "threads",
    "refresh",
    "windows",
    "kinds",
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return a_log(tmp_path / "log", product(20))


class TestHelp:
    """Asking what there is."""

    def test_it_is_there_for_every_command_and_needs_no_torch(self) -> None:
        code = f"""
import sys
from instep import cli
from instep.console import LOG_NAME
for command in ([], *{COMMANDS!r}):
    sys.argv = ["instep", *command, "--help"]
    try:
        cli.main()
    except SystemExit as e:
        assert e.code == 0, command
heavy = {{"torch", "numba", "pyarrow"}} & set(sys.modules)
assert not heavy, heavy
"""
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.count("Usage:") == 1 + len(COMMANDS)
        for command in COMMANDS:
            assert f"instep {' '.join(command)}" in ran.stdout

    @pytest.mark.parametrize("command", [[], ["import"]])
    def test_without_a_command_it_comes_by_itself(self, run: Run, command: list[str]) -> None:
        ran = run(*command)
        assert (ran.code, ran.err) == (2, "")
        assert "Usage:" in ran.out

    def test_the_installed_script_answers_in_the_same_way(self, tmp_path: Path) -> None:
        command = [str(INSTEP), "replay", f"{tmp_path}/nothing.jsonl", "--out", f"{tmp_path}/out"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.stdout.strip() == ""
        assert told(Ran(ran.returncode, ran.stdout, ran.stderr)) == (
            f"{tmp_path}/nothing.jsonl: expected a file or folder of events, got nothing there"
        )


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["replai"], ["replai"]),
        (["--models"], ["--models"]),
        (["replay"], ["log"]),
        (["replay", "LOG"], ["--out"]),
        (["replay", "LOG", "--out", "o", "--poll", "0"], ["'--poll'", "greater than or equal to 1", "'0'"]),
        (["replay", "LOG", "--out", "o", "--poll", "many"], ["'--poll'", "integer", "'many'"]),
        (["replay", "LOG", "--out", "o", "--seed", "1.5"], ["'--seed'", "integer", "'1.5'"]),
        (["demo", "--events", "3"], ["'--events'", "400", "'3'"]),
        (["demo", "--minutes", "inf"], ["'--minutes'", "1440", "'inf'"]),
        (["demo", "--minutes", "nan"], ["'--minutes'", "'nan'"]),
        (["demo", "--seed", "-1"], ["'--seed'", "0", "'-1'"]),
        (["simulate", "o", "--items", "79"], ["'--items'", "80", "'79'"]),
        (["import", "netflix"], ["netflix"]),
        (["import", "mind", "."], ["out"]),
        (["import", "csv", "a.csv", "o"], ["--mapping"]),
        (["import", "taobao", ".", "o", "--negatives", "0"], ["'--negatives'", "1", "'0'"]),
        (["import", "kuairand", ".", "o", "--memory-mb", "0"], ["'--memory-mb'", "1", "'0'"]),
    ],
)
def test_a_command_line_that_is_none_says_which_part_and_where_help_is(
    refused: Refused, args: list[str], parts: list[str]
) -> None:
    line = refused(*args)
    assert line.endswith("; see --help")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            ["--model", "dnn"],
            f"settings: model.unit: expected one of {', '.join(UNITS)}, got 'dnn'",
        ),
        (["--seed", "-1"], "settings: model.seed: expected `int` >= 0, got -1"),
        (
            ["--refresh", "often"],
            "--refresh: expected every:N or frozen:FRACTION (0 to 1), got 'often'",
        ),
        (["--refresh", "every:0"], "--refresh: expected every:N or frozen:FRACTION (0 to 1), got 'every:0'"),
        (["--settings", "gone.toml"], "gone.toml: expected a settings file, got: No such file or directory"),
        (["--settings", "."], ".: expected a settings file, got: Is a directory"),
    ],
)
def test_a_choice_that_cannot_be_is_named(
    refused: Refused, log: Path, tmp_path: Path, args: list[str], line: str
) -> None:
    told = refused("replay", log, "--out", tmp_path / "out", *args)
    assert set(line.split()) <= set(told.split()), told
    assert told.startswith(line.split(": ")[0])
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize("worker", ["all", "trainer", "ranker"])
def test_a_model_that_cannot_be_served_is_refused(refused: Refused, tmp_path: Path, worker: str) -> None:
    path = tmp_path / "instep.toml"
    path.write_text('[model]\nunit = "sim_soft"')
    line = (
        "settings: model.unit: expected a unit that can be served, got sim_soft, whose index is not published"
    )
    assert refused("run", worker, "--settings", path) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[model]\ntop_k = "many"', "model.top_k: expected `int`, got 'many'"),
        ("[model]\ntop_k = 0", "model.top_k: expected `int` >= 1, got 0"),
        ("[model]\nlr = inf", "model.lr: expected `float` <= 10.0, got inf"),
        ("[model]\ntopk = 8", "model.topk: expected a setting that exists, got this one"),
        ("[modell]\ntop_k = 8", "modell: expected a setting that exists, got this one"),
        ("model = 3", "model: expected `object`, got 3"),
        ("[model]\nmlp = [200, -1]", "model.mlp[1]: expected `int` >= 1, got -1"),
        ("[stream]\nwindows = {}", "stream.windows: expected at least one action kind, got {}"),
        ("[stream.windows]\nclick = 0", "stream.windows"),
        ("[[features]]\nname = 'age'", "features[0]: expected a field 'of', got {'name': 'age'}"),
        ("[[features]]\nname = 'user'\nof = 'item'", "features: expected names other than item and user"),
        ("[model]\nheads = 7", "model.heads: expected a divisor of"),
        ("[model", "expected TOML, got: "),
        ("top_k = 1\ntop_k = 2", "expected TOML, got: "),
        ("name = 'caf\udce9'", "expected TOML, got: 'utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_settings_that_cannot_be_are_told_with_file_and_place(
    refused: Refused, log: Path, tmp_path: Path, text: str, line: str
) -> None:
    path = log.with_name("instep.toml")
    path.write_text(text, errors="surrogateescape")
    assert refused("replay", log, "--out", tmp_path / "out").startswith(f"{path}: {line}")


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"user": ["ada"], "json": ["{}"]}), path)


def cut_short(path: Path) -> None:
    path.write_bytes(gzip.compress(b'{"type": "tick", "at_ms": 5}\n' * 9_999)[:-20])


@pytest.mark.parametrize(
    ("name", "make", "line"),
    [
        ("gone.jsonl", lambda path: None, "expected a file or folder of events, got nothing there"),
        ("folder", Path.mkdir, "expected .jsonl, .jsonl.gz, .jsonl.zst, .parquet in this folder, got none"),
        ("empty.jsonl", Path.touch, "expected at least one event, got none"),
        ("blank.jsonl", lambda path: path.write_text("\n \n"), "expected at least one event, got none"),
        ("events.csv", Path.touch, "expected .jsonl, .jsonl.gz, .jsonl.zst, .parquet, got 'events.csv'"),
        ("a.parquet", parquet, "expected a column event (the JSON text), got user, json"),
        ("b.parquet", Path.touch, "expected a whole .parquet file, got: "),
        ("c.parquet", lambda path: path.write_text("PAR1, or not"), "expected a whole .parquet file, got: "),
        ("d.jsonl.gz", lambda path: path.write_text("{}"), "expected a whole .jsonl.gz file, got: "),
        ("e.jsonl.gz", cut_short, "expected a whole .jsonl.gz file, got: "),
    ],
)
def test_a_log_that_cannot_be_read_is_told_with_its_path(
    refused: Refused, tmp_path: Path, name: str, make: Callable[[Path], object], line: str
) -> None:
    path = tmp_path / name
    make(path)
    assert refused("replay", path, "--out", tmp_path / "out").startswith(f"{path}: {line}")
    assert not (tmp_path / "out" / "metrics.json").exists()


class TestBrokenLines:
    """What cannot be used is counted; too much of it is no log."""

    def test_one_is_counted_and_told_at_the_end(self, done: Callable[..., str], tmp_path: Path) -> None:
        sent = product(20)
        whole, broken = a_log(tmp_path / "a", sent), a_log(tmp_path / "b", [*sent[:300], b"{", *sent[300:]])
        expected = done("replay", whole, "--out", tmp_path / "whole").splitlines()
        found = done("replay", broken, "--out", tmp_path / "broken").splitlines()
        n = metrics(tmp_path / "whole")["counts"]["in"]
        assert expected[-2].startswith(f"{n:,} records in: ")
        assert found[-2] == expected[-2].replace(
            f"{n:,} records in: ", f"{n + 1:,} records in: dead.undecodable 1, "
        )
        then, now = metrics(tmp_path / "whole"), metrics(tmp_path / "broken")
        assert now["counts"] == then["counts"] | {"in": n + 1, "dead.undecodable": 1}
        assert now["weights_sha256"] == then["weights_sha256"]

    def test_too_many_stop_it_on_the_way(self, refused: Refused, tmp_path: Path) -> None:
        log = a_log(tmp_path / "log", [*product(1)[:10], *[b"{"] * 1_500, *product(20)])
        line = refused("replay", log, "--out", tmp_path / "out")
        assert "expected at most 20% unusable records, got 1000 of 101" in line
        assert not (tmp_path / "out" / "metrics.json").exists()

    @pytest.mark.parametrize(("allowed", "is_refused"), [(0.2, True), (0.9, True), (1, False)])
    def test_too_many_of_a_short_log_are_told_at_its_end(
        self, run: Run, tmp_path: Path, allowed: float, is_refused: bool
    ) -> None:
        log = a_log(tmp_path / "log", [b"id,user,item", b"1,ada,n7", b"{}"])
        log.with_name("instep.toml").write_text(f"[stream]\nmax_dead = {allowed}")
        ran = run("replay", log, "--out", tmp_path / "out")
        if not is_refused:
            assert (ran.code, ran.err) == (0, "")
            return
        expected = f"{log}: expected at most {allowed:.0%} unusable records, got 3 of 3: dead.undecodable 3"
        assert told(ran) == expected


class TestWhereItGoes:
    """Results and checkpoints."""

    @pytest.mark.parametrize("place", ["file", "file/under"])
    def test_a_file_in_the_place_of_the_folder_is_told(
        self, refused: Refused, log: Path, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "file").touch()
        for command in (["replay", log, "--out"], ["simulate", "--slates", 1], ["import", "mind", tmp_path]):
            line = refused(*command, tmp_path / place)
            assert line.startswith(f"{tmp_path / place}: expected a folder that can be made, got: ")
        line = refused("replay", log, "--out", tmp_path / "out", "--checkpoint", tmp_path / place)
        assert line.startswith(f"{tmp_path / place}: checkpoint cannot be written: ")

    def test_what_lies_in_the_way_of_a_result_is_told(
        self, refused: Refused, log: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out" / "metrics.json").mkdir(parents=True)
        line = refused("replay", log, "--out", tmp_path / "out")
        assert line == f"{tmp_path}/out/metrics.json: Is a directory"

    def test_checkpoints_that_do_not_fit_are_told(
        self, done: Callable[..., str], refused: Refused, log: Path, tmp_path: Path, caplog: Any
    ) -> None:
        path = tmp_path / "checkpoints"
        args = ("replay", log, "--out", tmp_path / "out", "--checkpoint", path)
        first = done(*args)
        assert done(*args) == first
        newest = checkpoint.names(path)[-1]
        for more, section in ((["--model", "short"], "model"), (["--seed", 5], "model")):
            line = refused(*args, *more)
            assert line == (
                f"checkpoint {newest}: expected the same [{section}] settings as it was made with, got others"
            )
        line = refused("replay", log, "--out", tmp_path / "elsewhere", "--checkpoint", path)
        assert line == f"{tmp_path}/elsewhere/scores.bin: expected at least 200 scores, got 0"

        damage(path / newest / "tensors.safetensors")
        with caplog.at_level(logging.WARNING):
            assert done(*args) == first  # from the one before it
        assert f"{newest}/tensors.safetensors: expected sha256" in caplog.text

        names = checkpoint.names(path)
        for name in names:
            (path / name / "place.bin").write_bytes(b"")
        line = refused(*args)
        assert line.startswith(f"{path}/{names[-1]}/place.bin: expected sha256 ")

    def test_a_table_that_is_full_is_told(self, refused: Refused, tmp_path: Path) -> None:
        slate = next(e for e in product(1) if isinstance(e, Impression))
        clicks = [Action("click", slate.user, f"n{i}", slate.at_ms - 2_000 + i) for i in range(1_100)]
        log = a_log(tmp_path / "log", [*clicks, slate, product(1)[-1]], "capacity = 1024\n")
        line = refused("replay", log, "--out", tmp_path / "out")
        assert line == "table: expected at most 1023 rows (capacity), got more"


def test_a_log_without_slates_has_no_metrics_and_is_no_error(
    done: Callable[..., str], tmp_path: Path
) -> None:
    log = a_log(tmp_path / "log", (e for e in product(5) if isinstance(e, Action) and not e.impression))
    shown = done("replay", log, "--out", tmp_path / "out")
    assert "eta, 0 candidates, version 0.0" in shown
    assert "70-01-01" not in shown
    found = metrics(tmp_path / "out")
    assert found.keys() == KEYS
    undefined = ("ctr", "auc", "ne", "gauc", "log_loss", "calibration")
    assert [found[name] for name in undefined] == [None] * len(undefined)
    assert set(found["errors"].values()) == {None}
    assert (found["candidates"], found["samples"]) == (0, 0)


@pytest.mark.parametrize("drift", ["none", "swapped", "poison"])
def test_a_world_that_drifts_is_simulated_as_asked(
    done: Callable[..., str], tmp_path: Path, drift: str
) -> None:
    sizes = ("--slates", 60, "--users", 30, "--items", 120)
    done("simulate", tmp_path / "plain", *sizes)
    done("simulate", tmp_path / "drifted", *sizes, "--drift", drift)
    plain, drifted = (
        [r.value for r in FileSource(tmp_path / name / LOG_NAME, 1).poll(10**9)]
        for name in ("plain", "drifted")
    )
    assert (drifted == plain) == (drift == "none")
    assert (len(drifted) > len(plain)) == (drift == "poison")


def test_what_is_simulated_is_replayed_and_gone_on_with(done: Callable[..., str], tmp_path: Path) -> None:
    world, sizes = tmp_path / "world", ("--users", 100, "--items", 160, "--slates", 200)
    shown = done("simulate", world, *sizes)
    assert "events written to" in shown
    assert "best possible AUC 0." in shown
    assert done("simulate", tmp_path / "again", *sizes).splitlines()[-1] == shown.splitlines()[-1]
    packed = (world / "events.jsonl.gz").read_bytes()
    assert (tmp_path / "again" / "events.jsonl.gz").read_bytes() == packed

    shown = done("replay", world, "--out", tmp_path / "out")
    found = metrics(tmp_path / "out")
    assert found.keys() == KEYS
    assert (found["model"], found["seed"], found["candidates"], found["samples"]) == ("eta", 0, 2_000, 200)
    assert found["errors"].keys() == METRICS - {"candidates", "ctr", "errors"}
    assert all(0 < error < 1 for error in found["errors"].values())
    assert [window["candidates"] for window in found["windows"]] == [500] * 4
    assert all(window.keys() == METRICS | {"until_ms"} for window in found["windows"])
    title, heads, *rows = (line for line in shown.splitlines() if line.strip(" ─"))
    _check_table(title, heads, rows, found)

    # stopped half way, by its log being cut off there, and gone on with
    lines = gzip.decompress(packed).splitlines()
    growing = world / "growing.jsonl"
    args = ("replay", growing, "--out", tmp_path / "other", "--checkpoint", tmp_path / "c", "--poll", 5_000)
    write_events(growing, lines[: len(lines) // 2])
    done(*args)
    assert metrics(tmp_path / "other")["candidates"] == 0
    write_events(growing, lines)
    done(*args)
    assert metrics(tmp_path / "other") == found
    newest = checkpoint.names(tmp_path / "c")[-1]
    assert str(checkpoint.load(tmp_path / "c", newest).version) == found["version"]


def test_a_run_is_not_gone_on_with_beside_the_scores_of_another_or_with_codes_held_back_otherwise(
    done: Callable[..., str], refused: Refused, tmp_path: Path
) -> None:
    log = a_log(tmp_path, product(20))
    goes_on = ("replay", log, "--out", tmp_path / "out", "--checkpoint", tmp_path / "c")
    done(*goes_on)
    found = metrics(tmp_path / "out")
    assert found["refresh"] == "every:1"
    for other in ("every:7", "frozen:0"):
        line = f"--refresh: expected every:1, as the checkpoint was made with, got {other}"
        assert line in refused(*goes_on, "--refresh", other)
    done(*goes_on)
    assert metrics(tmp_path / "out") == found
    done("replay", log, "--out", tmp_path / "out", "--model", "average")
    line = "scores.bin: expected the scores of the run that is gone on with, got another's"
    assert line in refused(*goes_on)


def test_the_stretch_of_an_alert_is_replayed_by_its_id(
    done: Callable[..., str], refused: Refused, tmp_path: Path
) -> None:
    log = a_log(tmp_path, product(120))
    end = FileSource(log, 2).end()
    record = AlertRecord(tmp_path / "alerts.jsonl")
    record.add(which := replace(alert(1), offsets={p: (n * 19 // 20, n) for p, n in end.items()}))
    record.close()
    named = ("--from-alert", which.id, "--alerts", tmp_path / "alerts.jsonl")
    done("replay", log, "--out", tmp_path / "whole")
    shown = done("replay", log, "--out", tmp_path / "out", *named)
    assert "written to" in shown
    found = metrics(tmp_path / "out")
    assert found["alert"] == which.id
    assert 0 < found["candidates"] < metrics(tmp_path / "whole")["candidates"]
    assert "expected both --from-alert and --alerts, or neither, got one" in refused(
        "replay", log, "--out", tmp_path / "x", *named[:2]
    )
    assert "expected --monitor or --from-alert, got both" in refused(
        "replay", log, "--out", tmp_path / "x", "--monitor", *named
    )
    line = refused("replay", log, "--out", tmp_path / "x", "--from-alert", "no", *named[2:])
    assert (
        line
        == f"{tmp_path / 'alerts.jsonl'}: expected the id of an alert, got 'no'; the last are: {which.id}"
    )


def test_a_replay_that_is_watched_says_where_its_page_is(done: Callable[..., str], tmp_path: Path) -> None:
    log, out = a_log(tmp_path, product(120)), tmp_path / "out"
    told = done("replay", log, "--out", out, "--monitor").splitlines()
    assert f"written to {out / 'monitor.html'}, and the alerts to {out / 'alerts.jsonl'}" in told
    drawn = (out / "monitor.html").read_bytes()
    assert done("report", out) == f"written to {out / 'monitor.html'}\n"
    assert (out / "monitor.html").read_bytes() == drawn


def test_a_world_with_likes_is_told_kind_by_kind(
    done: Callable[..., str], refused: Refused, tmp_path: Path
) -> None:
    world, sizes = tmp_path / "world", ("--users", 100, "--items", 160, "--slates", 200)
    shown = done("simulate", world, *sizes, "--kinds", "click,like").splitlines()
    assert shown[-2].startswith("click-through rate 0.")
    assert shown[-1].startswith("like rate 0.")
    shown = [line for line in done("replay", world, "--out", tmp_path / "out").splitlines() if line.strip()]
    found = metrics(tmp_path / "out")
    assert found.keys() == KEYS
    assert list(found["kinds"]) == ["click", "like"]
    assert shown[0].strip().endswith(f"version {found['version']}; over time: click")
    names = ("auc", "ne", "gauc", "log_loss", "calibration")
    for kind, of_kind in found["kinds"].items():
        (row,) = (n for n, line in enumerate(shown) if line.split()[:1] == [kind])
        assert shown[row].split() == [kind, "2,000", *(f"{of_kind[name]:.4f}" for name in names)]
        assert shown[row + 1].replace("±", "").split() == [f"{of_kind['errors'][name]:.4f}" for name in names]
    assert max(map(len, shown[:-3])) <= 80
    line = refused("simulate", tmp_path / "x", *sizes, "--kinds", "click,share")
    assert line == "world: kinds: expected click or click, like, got click, share"


def _check_table(title: str, heads: str, rows: list[str], found: dict[str, Any]) -> None:
    """Every figure stands whole in what is printed, although a pipe has only 80 columns."""
    names = ("auc", "ne", "gauc", "log_loss", "calibration")
    assert title.strip() == f"eta, 2,000 candidates, version {found['version']}"
    assert heads.split() == ["until", "candidates", *names]
    assert [row.split()[-5:] for row in rows[:4]] == [
        [f"{window[name]:.4f}" for name in names] for window in found["windows"]
    ]
    total = next(n for n, row in enumerate(rows) if row.strip().startswith("in total"))
    assert rows[total].split() == ["in", "total", "2,000", *(f"{found[name]:.4f}" for name in names)]
    assert rows[total + 1].replace("±", "").split() == [f"{found['errors'][name]:.4f}" for name in names]
    weights, records, written = rows[total + 2 :]
    assert all(len(line) <= 80 for line in (title, heads, *rows[: total + 2]))
    assert weights == f"weights sha256 {found['weights_sha256']}"
    assert records.startswith(f"{found['counts']['in']:,} records in: used.history ")
    assert written.endswith("/out/metrics.json")


class TestReport:
    """A study's page, drawn again."""

    def test_it_is_made_from_the_study_alone(self, done: Callable[..., str], tmp_path: Path) -> None:
        folder.write(made.bits(), tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        (tmp_path / "report.html").write_text("old")
        assert done("report", tmp_path) == f"written to {tmp_path}/report.html\n"
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert before["report.html"].decode() == render(folder.read(tmp_path))

    def test_what_was_watched_of_a_replay_is_drawn(self, done: Callable[..., str], tmp_path: Path) -> None:
        board = day.board(n_hours=1)
        path = Folder(tmp_path).keep(board)
        assert done("report", tmp_path) == f"written to {tmp_path}/monitor.html\n"
        assert (tmp_path / "monitor.html").read_text() == render_board(
            board, f"{tmp_path.name}: instep monitor"
        )
        path.write_bytes(b"other")
        with pytest.raises(BoardError, match=r"monitor\.msgpack: expected the board of a monitor, got: "):
            Folder(tmp_path).board()

    def test_a_folder_without_one_is_one_line(self, refused: Refused, tmp_path: Path) -> None:
        assert refused("report", tmp_path) == f"{tmp_path}/study.json: No such file or directory"
        (tmp_path / "study.json").write_text('{"kind": "models"}')
        assert refused("report", tmp_path).startswith(f"{tmp_path}/study.json: expected a study, got: ")
        assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


def test_a_broken_promise_of_ours_keeps_its_traceback(
    run: Run, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("instep.replay.replay", broken)
    monkeypatch.setattr(sys, "argv", ["instep", "replay", str(log), "--out", str(tmp_path / "out")])
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main()
