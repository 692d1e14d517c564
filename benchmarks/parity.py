"""A ranker's scores and codes against the trainer's at the same Version; part of `benchmarks.ranker`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.serving import settings
from instep.pipeline import Pipeline
from instep.simulator import World, events
from ranker.mirror import Mirror
from stream.log import MemoryLog
from tests.worlds import make_log
from trainer.learner import predict
from trainer.loop import Step


def parity(n: int = 1_000) -> dict[str, Any]:
    """A ranker's scores of logged impressions against the trainer's at the same Version; both are predictions."""
    world = World(n_users=200, n_items=1_000)
    chosen = settings(trainer={"publish_ms": 5_000}, model={"warm_up_steps": 20})
    sent = list(events(world, n + 600))
    steps: list[Step] = []
    log: MemoryLog = make_log(sent, chosen.stream.partitions)
    pipeline = Pipeline(chosen, log.source(), on_step=steps.append)
    config = chosen.learner_config()
    mirror, scorer, learner = Mirror(config.shape, config.bits, 1 << 18), chosen.scorer(), pipeline.learner
    worst, n_compared, n_bits = 0.0, 0, 0
    while pipeline.pump(200) and n_compared < n:
        pipeline.loop.publish()
        pipeline.publish()
        mirror.follow(pipeline.index)
        if mirror.version is None or mirror.version != pipeline.loop.version:
            continue
        for step in steps:
            batch = step.batch
            young = mirror.version.step < config.warm_up_steps
            theirs = predict(learner.network, learner.table, batch, config.short, config.k, young=young)[:, 0]
            for b in range(batch.n_samples):
                one = slice(batch.first[b], batch.first[b + 1])
                history = slice(batch.start[b], batch.start[b + 1])
                alone = replace(
                    batch,
                    side=batch.side[b : b + 1],
                    at_ms=batch.at_ms[b : b + 1],
                    items=batch.items[one],
                    first=np.array([0, one.stop - one.start]),
                    labels=batch.labels[one],
                    stage=batch.stage[b : b + 1],
                    sequence=batch.sequence[history],
                    sequence_at=batch.sequence_at[history],
                    start=np.array([0, history.stop - history.start]),
                )
                ours = scorer.score(mirror, alone).scores
                worst = max(worst, float(np.abs(ours - theirs[one]).max()))
                n_compared += 1
        steps.clear()
        keys = learner.table.keys[: learner.table.n_slots]
        keys = keys[keys != 0]
        codes = learner.table.codes[learner.table.find(keys)]
        n_bits += int(np.bitwise_count(codes ^ mirror.codes(keys)).sum())
    return {"impressions": n_compared, "max_difference": worst, "bits_that_differ": n_bits}
