"""The whole loop against its trainer alone: what joining, journalling, publishing and indexing cost; one thread."""

from __future__ import annotations

from time import perf_counter

from instep.pipeline import Pipeline
from instep.settings import check
from instep.simulator import World, events
from stream.events import Impression, Tick, encode_event
from stream.log import MemoryLog
from stream.partition import partition_of
from trainer.batch import Batch
from trainer.learner import Learner
from trainer.loop import Step

SETTINGS = {
    "features": [{"name": "category", "of": "item"}, {"name": "device", "of": "context"}],
    "stream": {"windows": {"click": 15_000}, "lateness_ms": 1_000},
}


def run(n_slates: int = 4_000) -> dict[str, float]:
    """Samples are candidates. Histories are joined before the clock starts, as they were long ago in a service."""
    settings = check(SETTINGS)
    world = World(
        n_users=1_000, history_days=2.0, slates_per_s=50.0, click_delay_s=4.0, click_delay_max_s=15.0
    )
    log = MemoryLog(settings.stream.partitions)
    batches: list[Batch] = []

    def stepped(step: Step) -> None:
        batches.append(step.batch)

    pipeline = Pipeline(settings, log.source(), on_step=stepped)
    began, n_events = 0.0, 0
    for event in events(world, n_slates):
        if isinstance(event, Impression) and not began:
            _drain(pipeline)
            began = perf_counter()
        raw = encode_event(event)
        if isinstance(event, Tick):
            for p in range(log.partitions):
                log.append(p, b"", raw)
        else:
            log.append(partition_of(event.user, log.partitions), event.user.encode(), raw)
        n_events += 1 if began else 0
    # what the simulator took is not the loop's
    began = perf_counter()
    _drain(pipeline)
    pipeline.finish()
    whole_s = perf_counter() - began
    learner = Learner(settings.learner_config(), settings.trainer.capacity)
    began = perf_counter()
    for batch in batches:
        learner.step(batch)
    bare_s = perf_counter() - began
    n = sum(b.n_candidates for b in batches)
    return {
        "loop_samples_per_s": round(n / whole_s),
        "trainer_samples_per_s": round(n / bare_s),
        "loop_over_trainer": round(bare_s / whole_s, 3),
        "loop_events_per_s": round(n_events / whole_s),
    }


def _drain(pipeline: Pipeline) -> None:
    while pipeline.pump(4_096):
        pass
