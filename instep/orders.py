"""What a person does to an installation that runs: events in, orders, a way back."""

from __future__ import annotations

from collections.abc import Callable

from instep.run import trainer_rules
from instep.settings import Settings
from stream import joiner
from stream.files import FileSource
from stream.kafka import KafkaSource, KafkaWriter


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
