"""Every metric of every worker: the one list of names, and the thin way to set them.

Nothing else gives a metric its name; what is used or documented and not listed here fails a test. All of them
carry the label ``worker`` and are found at ``/metrics``.

>>> metrics = Metrics("joiner")
>>> metrics.add("instep_records_in_total", 3, partition=0)
>>> metrics.set("instep_ready", True)
>>> [line for line in metrics.page().decode().splitlines() if line.startswith("instep_records_in_total")]
['instep_records_in_total{partition="0",worker="joiner"} 3.0']
>>> metrics.add("instep_records_total", 3)
Traceback (most recent call last):
KeyError: "metric: expected a name listed in stream/metrics.py, got 'instep_records_total'"
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300)
"""Fine where we promise something: 200 ms to a profile, 3 s and 10 s to the index."""

WORK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUEST_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True)
class Metric:
    """One name of the list. ``labels`` are those besides ``worker``."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = WORK_S


METRICS = (
    # every worker
    Metric("instep_ready", "gauge", "1 while the worker does its work; 0 while it starts or cannot."),
    Metric(
        "instep_restarts_total",
        "counter",
        "Times that Kafka or Redis did not answer and the worker was built anew.",
    ),
    Metric("instep_step_seconds", "histogram", "Time of a step that found records, all told."),
    Metric(
        "instep_last_success_timestamp_seconds",
        "gauge",
        "Wall time of the last step that found records and kept what came of them.",
    ),
    Metric("instep_records_in_total", "counter", "Records read and done with.", ("partition",)),
    Metric("instep_records_out_total", "counter", "Records written and committed.", ("topic",)),
    Metric("instep_bytes_out_total", "counter", "Bytes of keys and values committed.", ("topic",)),
    Metric(
        "instep_outcomes_total",
        "counter",
        "What became of records, by reason: used.x, dead.x, duplicate.x, late.x, orphan.x, refused.x.",
        ("outcome",),
    ),
    Metric("instep_partitions", "gauge", "Input partitions that the worker owns."),
    Metric("instep_lag_records", "gauge", "Records that wait in the input.", ("partition",)),
    Metric(
        "instep_watermark_timestamp_seconds",
        "gauge",
        "Event time up to which everything is complete.",
        ("partition",),
    ),
    Metric("instep_commit_seconds", "histogram", "Time until what a step made was durable."),
    Metric("instep_restore_seconds", "histogram", "Time until kept state was read back."),
    Metric(
        "instep_event_latency_seconds",
        "histogram",
        "Wall time less event time of the newest event when it was joined, in a profile, trained, published, "
        "indexed, served.",
        ("stage",),
        LATENCY_S,
    ),
    # joiner, profiles
    Metric("instep_users", "gauge", "Users of whom something is remembered."),
    Metric("instep_pending", "gauge", "Impressions and actions that wait for their windows or each other."),
    Metric(
        "instep_sequences_total",
        "counter",
        "Samples with the behaviours that their impression was scored with (same), or with others (other): "
        "the skew between training and serving.",
        ("outcome",),
    ),
    # trainer
    Metric("instep_batches_total", "counter", "Batches learned."),
    Metric("instep_candidates_total", "counter", "Candidates predicted, then learned."),
    Metric("instep_holding", "gauge", "1 while samples are predicted and not learned."),
    Metric("instep_held_samples_total", "counter", "Samples that were predicted and not learned."),
    Metric("instep_publications_total", "counter", "Publications committed or applied."),
    Metric(
        "instep_publications_refused_total",
        "counter",
        "Publications that were worse than the one before and did not go live.",
    ),
    Metric("instep_version_epoch", "gauge", "Epoch of the Version that the worker stands at."),
    Metric("instep_version_step", "gauge", "Step of the Version that the worker stands at."),
    Metric("instep_table_rows", "gauge", "Rows of the embedding table."),
    Metric("instep_checkpoint_seconds", "histogram", "Time to write a checkpoint."),
    Metric(
        "instep_last_checkpoint_timestamp_seconds", "gauge", "Wall time of the last checkpoint that is whole."
    ),
    # indexer
    Metric(
        "instep_index_rows_total",
        "counter",
        "Rows sent to the index: written, removed, or refused because it holds newer.",
        ("outcome",),
    ),
    Metric("instep_index_items", "gauge", "Items in the index."),
    # ranker
    Metric("instep_requests_total", "counter", "Requests by path and status.", ("path", "status")),
    Metric(
        "instep_request_seconds", "histogram", "Time of a request within the process.", ("path",), REQUEST_S
    ),
    Metric("instep_behind_seconds", "gauge", "Since the index was last seen to hold nothing newer."),
    Metric("instep_age_seconds", "gauge", "Since the newest sample that the Version served has learned."),
    Metric(
        "instep_histories_total",
        "counter",
        "Histories that slates were scored with, by where they came from: profile, memory, request, none.",
        ("outcome",),
    ),
    Metric("instep_outbox_waiting", "gauge", "Events that are not known to be on the log."),
    Metric(
        "instep_outbox_dropped_total",
        "counter",
        "Events refused because too many waited, or lost at the end.",
    ),
    Metric(
        "instep_audit_rows_total",
        "counter",
        "Rows whose code was computed again and compared, with the mirror's and the index's.",
        ("outcome",),
    ),
    Metric("instep_audit_bits_total", "counter", "Bits in which these differed; 0 is in step.", ("outcome",)),
    # monitor
    Metric(
        "instep_window_value",
        "gauge",
        "Figures of the newest window that has closed, those of enough.",
        ("measure", "window"),
    ),
    Metric(
        "instep_window_end_timestamp_seconds",
        "gauge",
        "Event time at which the newest window that has closed ends.",
        ("source", "window"),
    ),
    Metric("instep_alerts_total", "counter", "Alerts raised.", ("rule", "severity")),
    Metric("instep_alerts_open", "gauge", "Alerts that are raised and not over.", ("severity",)),
    Metric(
        "instep_webhook_posts_total",
        "counter",
        "Alerts sent to the webhook (sent), tries that did not work (failed), alerts that were let go (lost).",
        ("outcome",),
    ),
)

_KINDS = {"counter": Counter, "gauge": Gauge}


class Metrics:
    """The metrics of one worker process, in a registry of its own.

    Parameters
    ----------
    worker
        Value of the label ``worker``.

    Raises
    ------
    KeyError
        By its methods, for a name that is not listed. ValueError for other labels than listed.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._metrics: dict[str, MetricWrapperBase] = {}

    def add(self, name: str, n: float = 1, **labels: object) -> None:
        """Count ``n`` more."""
        counter = self._labelled(name, labels)
        assert isinstance(counter, Counter), f"{name} is no counter"
        counter.inc(n)

    def set(self, name: str, value: float, **labels: object) -> None:
        """Let a gauge stand at a value."""
        gauge = self._labelled(name, labels)
        assert isinstance(gauge, Gauge), f"{name} is no gauge"
        gauge.set(value)

    def touch(self, name: str, **labels: object) -> None:
        """Let a gauge stand at the wall time of now."""
        gauge = self._labelled(name, labels)
        assert isinstance(gauge, Gauge), f"{name} is no gauge"
        gauge.set_to_current_time()

    def observe(self, name: str, value: float, **labels: object) -> None:
        """Put a value into a histogram."""
        histogram = self._labelled(name, labels)
        assert isinstance(histogram, Histogram), f"{name} is no histogram"
        histogram.observe(value)

    def timed(self, name: str, **labels: object) -> AbstractContextManager[object]:
        """Put the seconds that a ``with`` block takes into a histogram, if it ends well or not."""
        histogram = self._labelled(name, labels)
        assert isinstance(histogram, Histogram), f"{name} is no histogram"
        return histogram.time()

    def forget(self, name: str, **labels: object) -> None:
        """Show no value under these labels any more, since another process has one now."""
        self._metric(name).remove_by_labels({key: str(value) for key, value in labels.items()})

    def page(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def _metric(self, name: str) -> MetricWrapperBase:
        if (metric := self._metrics.get(name)) is None:
            listed = next((m for m in METRICS if m.name == name), None)
            if listed is None:
                raise KeyError(f"metric: expected a name listed in stream/metrics.py, got {name!r}")
            labels = ("worker", *listed.labels)
            if listed.kind == "histogram":
                metric = Histogram(name, listed.help, labels, buckets=listed.buckets, registry=self._registry)
            else:
                metric = _KINDS[listed.kind](name, listed.help, labels, registry=self._registry)
            self._metrics[name] = metric
        return metric

    def _labelled(self, name: str, labels: dict[str, object]) -> MetricWrapperBase:
        return self._metric(name).labels(worker=self.worker, **labels)


def table() -> str:
    """The list as a table in Markdown, for the docs."""
    lines = ["| metric | kind | labels | is |", "|---|---|---|---|"]
    lines += [f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} |" for m in METRICS]
    return "\n".join(lines) + "\n"
