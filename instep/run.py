"""The workers as an installation runs them: from settings to a process that is served until it is told to leave.

What a worker alone needs is imported where it is built: torch takes half a gigabyte and seconds, Faust a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from uuid import uuid4

from instep.sections import WorkerName
from instep.settings import Settings, SettingsError
from stream import joiner
from stream.files import FileSource
from stream.kafka import KafkaSource, KafkaWriter
from stream.log import Unavailable
from stream.metrics import Metrics
from stream.redis_client import RETRIES, Client
from stream.redis_profiles import RedisProfiles
from stream.service import Worker, end, now_ms, serve

if TYPE_CHECKING:
    from ranker.service import RankerService
    from trainer.publication import Publication
    from trainer.worker import TrainerRules

log = logging.getLogger(__name__)

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
        _ranker(settings, metrics)
        return
    if name == "monitor":  # whose page is there while its worker is built anew
        _monitor(settings, metrics, once)
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
        **_patience(settings),
    )


def _patience(settings: Settings) -> dict[str, Any]:
    """How long a worker may take, and how long it waits for the other side."""
    retry_s = settings.service.retry_ms / 1000
    return {"stall_s": settings.service.stall_ms / 1000, "retry_s": (min(1.0, retry_s), retry_s)}


def send(settings: Settings, source: FileSource, on_sent: Callable[[int], None]) -> int:
    """Write an event log to ``instep.events``, as a product would; returns how many records that were."""
    cluster = settings.cluster()
    cluster.check({joiner.EVENTS: settings.stream.partitions})
    writer = KafkaWriter(cluster, joiner.EVENTS)
    n = 0
    try:
        while records := source.poll(1_000):
            for record in records:
                writer.write(record.partition, record.key, record.value)
            n += len(records)
            on_sent(n)
        writer.flush()
    finally:
        writer.close()
    return n


def give_order(settings: Settings, order: str, at_ms: int) -> None:
    """Write an order into the log of events, where the trainer finds it in its place among the samples.

    Raises
    ------
    BadOrder
        If it is none.
    """
    from stream.events import Tick, encode_event
    from trainer.gate import chosen

    chosen(order, ())
    cluster = settings.cluster()
    cluster.check({joiner.EVENTS: settings.stream.partitions})
    writer = KafkaWriter(cluster, joiner.EVENTS)
    try:
        writer.write(0, b"", encode_event(Tick(at_ms, order)))
        writer.flush()
    finally:
        writer.close()


def rollback(settings: Settings, checkpoint: str) -> str:
    """Make an older checkpoint the one that the trainer goes on from, in a new epoch; returns its Version."""
    from trainer import worker
    from trainer.publication import last_said

    cluster = settings.cluster()
    cluster.check({worker.MODEL: 1})
    model = KafkaSource(cluster, worker.MODEL)
    try:
        return str(worker.rollback(trainer_rules(settings), checkpoint, last_said(model).told))
    finally:
        model.close()


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
            stall_s=service.stall_ms / 1000,
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


def _monitor(settings: Settings, metrics: Metrics, once: bool) -> None:
    from indexer.redis_index import RedisIndex
    from monitor import worker
    from monitor.board import Board
    from monitor.delivery import Delivery
    from monitor.folder import Folder
    from monitor.monitor import Monitor
    from monitor.record import AlertRecord
    from monitor.server import Server
    from monitor.webhook import Webhook

    m, cluster = settings.monitor, settings.cluster()
    rules = settings.alert_rules()
    folder = Folder(Path(m.folder))
    board = folder.board() if folder.has_board else Board()
    board.run = uuid4().hex
    webhook = Webhook(m.webhook, metrics, timeout_s=m.webhook_timeout_ms / 1000) if m.webhook else None
    delivery = Delivery(AlertRecord(folder.alerts), metrics, webhook, rules)

    def monitor() -> Monitor:
        return Monitor(
            settings.watch_rules(),
            rules,
            board,
            delivery,
            has_breaker=settings.breaker.mode != "off",
            state=folder.state(),
        )

    @cache
    def index() -> RedisIndex:
        """Connected when it is asked first: without Redis there is enough to see."""
        return RedisIndex(
            redis_client(settings, min(1_000, settings.redis.timeout_ms), retries=0), settings.redis.prefix
        )

    def build() -> Worker:
        return worker.build(
            cluster,
            monitor,
            folder,
            lambda: index().newest,
            metrics,
            partitions=settings.stream.partitions,
            poll_records=settings.service.poll_records,
            now_ms=now_ms,
        )

    try:
        serve(
            build,
            metrics,
            once=once,
            host=m.host,
            port=m.port,
            listen=partial(Server, board, metrics),
            **_patience(settings),
        )
    finally:
        delivery.close()


def _ranker(settings: Settings, metrics: Metrics) -> None:
    from ranker.http import make_app
    from ranker.server import serve_app

    r = settings.ranker
    try:
        service = ranker_service(settings, metrics)
        app = make_app(service, tokens=r.tokens, max_body_bytes=r.max_body_bytes)
        serve_app(app, r.host, r.port, service)
    except Unavailable as e:
        end(e)


def ranker_service(settings: Settings, metrics: Metrics) -> RankerService:
    """What the ranker of the settings answers with.

    Raises
    ------
    Unavailable
        If Redis does not answer. It may go away later on.
    """
    import torch

    from indexer.redis_index import RedisIndex
    from ranker.audit import Auditor
    from ranker.live import LiveModel
    from ranker.lookups import Lookups
    from ranker.mirror import Mirror
    from ranker.names import Names
    from ranker.outbox import Outbox
    from ranker.remembered import RememberedProfiles
    from ranker.service import RankerRules, RankerService
    from trainer.model.simhash import make_planes

    r, model, cluster = settings.ranker, settings.model, settings.cluster()
    config, fields, max_history = settings.learner_config(), settings.fields, settings.stream.max_history
    torch.set_num_threads(1)  # of this size a request is quicker on one; more requests go to more processes

    def open_writer() -> KafkaWriter:
        cluster.check({joiner.EVENTS: settings.stream.partitions})
        return KafkaWriter(cluster, joiner.EVENTS)

    scorer = settings.scorer()
    index = RedisIndex(redis_client(settings), settings.redis.prefix, settings.redis.keep_updates)
    quick = redis_client(settings, min(r.profile_timeout_ms, settings.redis.timeout_ms), retries=0)
    live = LiveModel(
        lambda: Mirror(config.shape, config.bits, settings.trainer.capacity),
        index,
        metrics,
        warm_up=scorer.warm_up,
        now_ms=now_ms,
        fail=end,
    )
    names = Names(fields, r.named_items)
    planes = make_planes(settings.n_coded, model.dim, model.bits, model.seed)
    return RankerService(
        live,
        RememberedProfiles(
            redis_profiles(settings, quick),
            len(fields.item),
            max_history,
            n_users=r.remembered_users,
            now_ms=now_ms,
        ),
        Outbox(open_writer, metrics, n_most=r.max_waiting, tick_ms=r.tick_ms, now_ms=now_ms, fail=end),
        scorer,
        names,
        Lookups(live, scorer, names, planes.shape[2]),
        Auditor(live, index, planes, metrics, r.audit_ms) if r.audit_ms else None,
        metrics,
        RankerRules(r.max_candidates, max_history, r.max_behind_ms),
        now_ms=now_ms,
    )


def redis_client(settings: Settings, timeout_ms: int | None = None, retries: int = RETRIES) -> Client:
    """A connection to the Redis of the settings."""
    r = settings.redis
    return Client(r.url, r.cluster, timeout_ms or r.timeout_ms, r.client, retries)


def redis_profiles(settings: Settings, client: Client) -> RedisProfiles:
    """The profiles of the settings."""
    stream, n_fields = settings.stream, len(settings.fields.item)
    return RedisProfiles(client, n_fields, stream.max_history, stream.history_ttl_ms, settings.redis.prefix)


__all__ = ["SERVICES", "WORKERS", "SettingsError", "check_served", "run", "send"]
