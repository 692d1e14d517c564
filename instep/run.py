"""The workers as an installation runs them: from settings to a process that is served until it is told to leave.

What a worker alone needs is imported where it is built: torch takes half a gigabyte and seconds, Faust a second.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, get_args

from instep.sections import WorkerName
from instep.serving import serve_monitor, serve_ranker
from instep.settings import Settings, SettingsError
from instep.stores import redis_client, redis_profiles
from stream import joiner
from stream.kafka import KafkaSource
from stream.log import Unavailable
from stream.metrics import Metrics
from stream.service import Worker, end, now_ms, serve

if TYPE_CHECKING:
    from trainer.publication import Publication
    from trainer.worker import TrainerRules

SERVICES: tuple[WorkerName, ...] = get_args(WorkerName)
"""In the order in which data moves."""
WORKERS = SERVICES[:-1]
"""Those that read a log, and can come to its end."""


def check_served(settings: Settings) -> None:
    """SettingsError if the model is for replays and studies only."""
    if settings.model.unit == "sim_soft":
        raise SettingsError(
            "settings: model.unit: expected a unit that can be served, got sim_soft, whose index is not published"
        )


def run(settings: Settings, name: WorkerName, *, once: bool = False) -> None:
    """Serve a worker until SIGTERM, or with ``once`` until its input is drained."""
    metrics = Metrics(name)
    if name == "profiles":  # Faust has a loop of its own
        _profiles(settings, metrics, once)
        return
    if name == "ranker":  # and so has uvicorn
        serve_ranker(settings, metrics)
        return
    if name == "monitor":  # whose page is there while its worker is built anew
        serve_monitor(settings, metrics, once)
        return
    builders: dict[str, Callable[[Settings, Metrics], Worker]] = {
        "joiner": _joiner,
        "trainer": _trainer,
        "indexer": _indexer,
    }
    service = settings.service
    serve(
        partial(builders[name], settings, metrics),
        metrics,
        once=once,
        host=service.host,
        port=getattr(service.ports, name),
        stall_s=service.stall_s,
        retry_s=service.retry_s,
    )


def trainer_rules(settings: Settings) -> TrainerRules:
    """What the trainer does, by the settings."""
    from trainer.worker import TrainerRules

    public = settings.public()
    return TrainerRules(
        config=settings.learner_config(),
        loop=settings.loop_rules(),
        made_with={part: public[part] for part in ("features", "stream", "model")},
        checkpoints=settings.trainer.checkpoints,
        checkpoint_ms=settings.trainer.checkpoint_ms,
        keep=settings.trainer.keep,
        capacity=settings.trainer.capacity,
        poll_records=settings.service.poll_records,
        breaker=public["breaker"],
    )


def _profiles(settings: Settings, metrics: Metrics, once: bool) -> None:
    from stream import app

    service = settings.service
    try:
        cluster = settings.cluster()
        cluster.check({app.EVENTS: settings.stream.partitions})
        app.run(
            cluster,
            redis_profiles(settings, redis_client(settings)),
            settings.fields,
            settings.stream.history_kinds,
            metrics,
            once=once,
            host=service.host,
            port=service.ports.profiles,
            stall_s=service.stall_s,
            now_ms=now_ms,
        )
    except Unavailable as e:
        end(e)  # with 1: not a matter for a person, whoever started it starts it again


def _joiner(settings: Settings, metrics: Metrics) -> Worker:
    n = settings.stream.partitions
    cluster = settings.cluster()
    cluster.check({joiner.EVENTS: n, joiner.SAMPLES: n, joiner.STATE: n, joiner.DEAD: n})
    return joiner.build(
        cluster,
        settings.join_rules(),
        settings.fields,
        metrics,
        max_dead=settings.stream.max_dead,
        poll_records=settings.service.poll_records,
        linger_ms=settings.service.linger_ms,
        now_ms=now_ms,
    )


def _trainer(settings: Settings, metrics: Metrics) -> Worker:
    from trainer import worker

    return worker.build(
        settings.cluster(),
        trainer_rules(settings),
        metrics,
        settings.breaker_gate(),
        settings.canary(),
        partitions=settings.stream.partitions,
        now_ms=now_ms,
    )


def _indexer(settings: Settings, metrics: Metrics) -> Worker:
    from indexer.redis_index import RedisIndex
    from indexer.worker import MODEL, IndexerWorker
    from trainer.model.simhash import make_planes

    cluster = settings.cluster()
    cluster.check({MODEL: 1})
    model = settings.model

    def whole() -> tuple[Publication, int] | None:
        from trainer import worker

        return worker.whole(trainer_rules(settings))

    with ExitStack() as opened:
        client = opened.enter_context(closing(redis_client(settings)))
        source = opened.enter_context(closing(KafkaSource(cluster, MODEL)))
        worker = IndexerWorker(
            source,
            RedisIndex(client, settings.redis.prefix, settings.redis.keep_updates),
            make_planes(settings.n_coded, model.dim, model.bits, model.seed),
            whole,
            metrics,
            now_ms=now_ms,
            on_close=client.close,
        )
        opened.pop_all()  # they are the worker's now
        return worker


__all__ = ["SERVICES", "WORKERS", "check_served", "run", "trainer_rules"]
