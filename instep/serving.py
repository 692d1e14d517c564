"""The workers that answer over HTTP, from settings to a process: the ranker and the monitor."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from instep.settings import Settings
from instep.stores import redis_client, redis_profiles
from stream import joiner
from stream.kafka import KafkaWriter
from stream.log import Unavailable
from stream.metrics import Metrics
from stream.service import Worker, end, now_ms, serve

if TYPE_CHECKING:
    from ranker.service import RankerService


def serve_monitor(settings: Settings, metrics: Metrics, once: bool) -> None:
    """Watch and show until SIGTERM, or with ``once`` until the topics are drained."""
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
            stall_s=settings.service.stall_s,
            retry_s=settings.service.retry_s,
        )
    finally:
        delivery.close()


def serve_ranker(settings: Settings, metrics: Metrics) -> None:
    """Answer requests until SIGTERM."""
    from ranker.http import make_app
    from ranker.server import serve_app

    r = settings.ranker
    try:
        service = ranker_service(settings, metrics)
        app = make_app(service, tokens=r.tokens, max_body_bytes=r.max_body_bytes)
        serve_app(app, r.host, r.port)
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
