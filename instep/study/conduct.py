"""A study from logs to ``study.json``: joined once, learned by every run and seed, measured, summed up.

What is done stays done: a study that was stopped in whatever way goes on where it was::

    spool/LOG-HASH/                 the log, joined
    runs/RUN/LOG.SEED/              p.bin, traces.npz; run.json says that it is whole, and what it was made of
    cost/RUN.json
    study.json, study.md, study.parquet, report.html
"""

from __future__ import annotations

import fcntl
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
from rich.console import Console

from instep import truth as truth_file
from instep.settings import Settings
from instep.study import cost as costing
from instep.study import joining
from instep.study.engine import Job, finished, learn
from instep.study.folder import write
from instep.study.plans import LENGTHS, Plan, Run, plan
from instep.study.pool import Task, now_s, run_all
from instep.study.progress import Bars
from instep.study.results import Cost, Kind, Study
from instep.study.spool import load
from instep.study.summarise import Log, references, summarise

Part = float | int


class StudyError(ValueError):
    """A study that cannot be made, or not here: where, what was expected, what came."""


@dataclass(frozen=True)
class Asked:
    """What a study is asked to be."""

    kind: Kind
    logs: tuple[Path, ...]
    settings: Settings
    out: Path
    command: str
    """That makes it again."""
    models: tuple[str, ...] | None = None
    n_seeds: int = 3
    n_processes: int = 1
    n_bootstrap: int = 300
    until: Part = 1.0
    """A part of each log's batches, or the event time in ms at which what is learned is final."""
    warmup: Part = 0
    """A part of what is learned, below 1, or so many candidates, that are not scored."""
    spool: Path | None = None
    """Where joined logs lie, to be shared between studies; None for ``out/spool``."""
    cost: bool = True
    fresh: bool = False
    """Whether runs of other settings, logs or plans are made again, in the place of refused."""


def conduct(asked: Asked, console: Console) -> Study:
    """Make a study, or what is missing of it, and write it.

    Raises
    ------
    StudyError, SettingsError, LogError, TaskError
        In one line.
    """
    plan(asked.kind, asked.settings, asked.models)  # what cannot be is told before anything is joined
    asked.out.mkdir(parents=True, exist_ok=True)
    with _alone(asked.out):
        logs = join(asked, console)
        span_ms = min(int(log.spool.at_ms[log.n_batches - 1] - log.spool.at_ms[0]) for log in logs)
        planned = plan(asked.kind, asked.settings, asked.models, span_ms)
        folder_of = folders(asked.out, planned, logs)
        jobs = to_do(asked, planned, logs, folder_of)
        _learn(asked, jobs, logs, len(_learned_once(planned)), console)
        costs = _measure(asked, planned, logs, console) if asked.cost else {}
        study = _sum_up(asked, planned, logs, folder_of, costs, console)
        write(study, asked.out)
    return study


def join(asked: Asked, console: Console) -> list[Log]:
    """Each log as a spool, made if it is not there."""
    history = max(LENGTHS) if asked.kind == "length" else 0
    history = max(history, asked.settings.stream.max_history)
    root = asked.spool or asked.out / "spool"
    names, paths, tasks = names_of(asked.logs), [], []
    for name, log in zip(names, asked.logs, strict=True):
        what = joining.made_of(log, asked.settings, history)
        paths.append(root / f"{name}-{joining.fingerprint(what)[:12]}")
        if not paths[-1].exists():
            tasks.append(Task(f"join {name}", joining.write, (log, asked.settings, what, paths[-1])))
    for stale in root.glob("*.part") if root == asked.out / "spool" else ():
        shutil.rmtree(stale, ignore_errors=True)
    with Bars(console, "join", {t.name: 0 for t in tasks}, "", len(paths) - len(tasks)) as bars:
        run_all(tasks, asked.n_processes, bars)
    logs = []
    for name, log, path in zip(names, asked.logs, paths, strict=True):
        spool = load(path)
        part = isinstance(asked.until, float)
        n_batches = round(asked.until * len(spool)) if part else spool.first_until(int(asked.until))
        if not n_batches:
            raise StudyError(f"--until: expected some of {log}, got {asked.until}, before anything is final")
        n = int(spool.n_candidates[:n_batches].sum())
        warmup = int(asked.warmup * n) if isinstance(asked.warmup, float) else asked.warmup
        if warmup >= n:
            raise StudyError(f"--warmup: expected fewer than the {n:,} candidates of {log}, got {warmup:,}")
        logs.append(Log(name, spool, n_batches, warmup, truth_file.beside(log)))
    return logs


def names_of(logs: Sequence[Path]) -> list[str]:
    """Short names that differ: of the file or folder, with that of the folder around it where needed.

    >>> names_of([Path("a/events.jsonl"), Path("b/events.jsonl"), Path("b/c")])
    ['a-events.jsonl', 'b-events.jsonl', 'c']
    """
    short = [log.resolve().name for log in logs]
    often = Counter(short)
    names = [
        name if often[name] == 1 else f"{log.resolve().parent.name}-{name}"
        for name, log in zip(short, logs, strict=True)
    ]
    again = Counter(names)
    return [name if again[name] == 1 else f"{n}-{name}" for n, name in enumerate(names)]


def folders(out: Path, planned: Plan, logs: Sequence[Log]) -> Callable[[Run, int, int], Path]:
    """Where each run of a log and a seed has its predictions; runs that learn the same share them."""
    first = {msgspec.json.encode(run.learns()): run.name for run in reversed(planned.runs)}

    def folder_of(run: Run, log: int, seed: int) -> Path:
        return out / "runs" / first[msgspec.json.encode(run.learns())] / f"{logs[log].name}.{seed}"

    return folder_of


def to_do(
    asked: Asked, planned: Plan, logs: Sequence[Log], folder_of: Callable[[Run, int, int], Path]
) -> list[Job]:
    """The jobs that are not done yet.

    Raises
    ------
    StudyError
        If one was done with other settings, on another log or by another plan, and that is not to be made again.
    """
    jobs, wrong = [], []
    for i, log in enumerate(logs):
        for seed in range(asked.n_seeds):
            for run in _learned_once(planned):
                settings = asked.settings.with_model(
                    **{**run.changes, "seed": asked.settings.model.seed + seed}
                )
                prints = {
                    "log": joining.fingerprint([log.spool.made_of, log.truth and _bytes_of(log.truth)]),
                    "settings": joining.fingerprint(msgspec.to_builtins([settings.model, settings.trainer])),
                    "run": joining.fingerprint(run.learns()),
                    "until": str(log.n_batches),
                }
                folder = folder_of(run, i, seed)
                job = Job(run, settings, log.spool.path, log.n_batches, folder, prints, log.truth)
                done = finished(folder)
                if done is not None and done.fingerprint != prints:
                    differs = [name for name in prints if done.fingerprint.get(name) != prints[name]]
                    wrong.append((folder, differs))
                if done is None or done.fingerprint != prints:
                    jobs.append(job)
    if wrong and not asked.fresh:
        folder, differs = wrong[0]
        raise StudyError(
            f"{folder}: expected a run of the same log, settings and study, got another ({', '.join(differs)}); "
            f"--fresh makes {len(wrong)} again"
        )
    for job in jobs:
        shutil.rmtree(job.folder, ignore_errors=True)
    return jobs


def _learned_once(planned: Plan) -> list[Run]:
    seen: dict[bytes, Run] = {}
    for run in planned.runs:
        seen.setdefault(msgspec.json.encode(run.learns()), run)
    return list(seen.values())


def _learn(asked: Asked, jobs: list[Job], logs: Sequence[Log], n_runs: int, console: Console) -> None:
    tasks = [Task(f"{job.folder.parent.name} {job.folder.name}", learn, (job, now_s)) for job in jobs]
    sizes = {
        task.name: int(log.spool.n_candidates[: log.n_batches].sum())
        for task, job in zip(tasks, jobs, strict=True)
        for log in logs
        if log.spool.path == job.spool
    }
    n_all = n_runs * len(logs) * asked.n_seeds
    with Bars(console, "learn", sizes, n_done=n_all - len(jobs)) as bars:
        run_all(tasks, asked.n_processes, bars)


def _measure(asked: Asked, planned: Plan, logs: Sequence[Log], console: Console) -> dict[str, Cost]:
    """Costs by name of a run; those that differ in nothing that costs share one measurement."""
    models: dict[str, costing.Measured] = {}
    of: dict[str, str] = {}
    log = logs[0]
    for run in planned.runs:
        settings = asked.settings.with_model(**run.changes)
        what = costing.described(settings, run.length, log.spool, log.n_batches)
        of[run.name] = joining.fingerprint(what)
        models.setdefault(of[run.name], costing.Measured(run.name, settings, run.length))
    folder = asked.out / "cost"
    path = {key: folder / f"{model.name}.json" for key, model in models.items()}
    if any(costing.kept(path[key], key) is None for key in models):
        args = (list(models.values()), log.spool.path, log.n_batches, list(models), folder)
        with Bars(console, "cost", {"cost": len(models)}, "") as bars:
            run_all([Task("cost", costing.measure, args)], 1, bars)
    found = {key: costing.kept(path[key], key) for key in models}
    return {name: cost for name, key in of.items() if (cost := found[key]) is not None}


def _sum_up(
    asked: Asked,
    planned: Plan,
    logs: Sequence[Log],
    folder_of: Callable[[Run, int, int], Path],
    costs: dict[str, Cost],
    console: Console,
) -> Study:
    with console.status("summing up"):
        found, n_scored, best_auc = summarise(
            planned,
            asked.settings,
            logs,
            asked.n_seeds,
            folder_of,
            n_bootstrap=asked.n_bootstrap,
            costs=costs,
        )
    return Study(
        kind=asked.kind,
        title=planned.title,
        log=", ".join(log.name for log in logs),
        command=asked.command,
        seeds=asked.n_seeds,
        candidates=n_scored,
        warmup=sum(log.warmup for log in logs),
        references=references(planned, logs[0].kinds),
        runs=found,
        x_axis=planned.x_axis,
        best_auc=best_auc,
        notes=[*planned.notes, *_notes(logs)],
    )


def _notes(logs: Sequence[Log]) -> Iterator[str]:
    if len(logs) > 1:
        yield f"{len(logs)} logs; figures are means over them, users are resampled within each."
    for log in logs:
        if n_bad := sum(n for name, n in log.spool.counts.items() if name.startswith("dead.")):
            yield f"{log.name}: {n_bad:,} of {log.spool.counts['in']:,} records could not be used."


def _bytes_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One study at a time in a folder."""
    with (out / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(f"{out}: expected one study at a time, got another at work here") from None
        yield
