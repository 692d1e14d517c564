"""The sections of ``instep.toml``: every setting, its default and its bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Ms = Annotated[int, Meta(ge=1, le=10**12)]
Ratio = Annotated[float, Meta(gt=0, le=10)]

DAY_MS = 86_400_000


class StreamSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[stream]: the log and the join."""

    partitions: Annotated[int, Meta(ge=1, le=4096)] = 4
    windows: dict[str, Ms] = field(default_factory=lambda: {"click": 60_000})
    """Attribution window in ms of each action kind that is a label. The first is what is ranked by, unless
    ``ranker.weights`` says otherwise."""
    lateness_ms: Annotated[int, Meta(ge=0, le=10**12)] = 5_000
    """How far events may be out of order."""
    max_jump_ms: Ms = 3_600_000
    """How far one record may push event time; two Ticks that agree push it further."""
    max_history: Annotated[int, Meta(ge=1, le=65_536)] = 2_048
    history_ttl_ms: Ms = 90 * DAY_MS
    policy: Literal["window", "eager"] = "window"
    """When a sample is learned: when its windows have passed, or at once and again when the click comes."""
    history_kinds: tuple[str, ...] = ("click",)
    """Action kinds that become behaviours."""
    max_dead: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """The share of unusable records above which the loop stops; see `stream.dead`."""


class ModelSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[model]: the network and how it learns."""

    unit: Literal[
        "none",
        "short",
        "average",
        "afm",
        "additive",
        "din",
        "din_sigmoid",
        "din_softmax",
        "dien",
        "bst",
        "transformer",
        "transformer_prenorm",
        "mimn",
        "sim_hard",
        "sim_soft",
        "eta",
        "sdim",
        "twin",
        "exact",
        "full",
    ] = "eta"
    search: Literal["own", "hamming", "inner", "category", "recent", "none"] = "own"
    """How the unit finds behaviours, if not its own way."""
    dim: Annotated[int, Meta(ge=4, le=512)] = 32
    heads: Annotated[int, Meta(ge=1, le=64)] = 4
    sharpness: Annotated[float, Meta(gt=0, le=100)] = 0.5
    """Where the temperature of attention starts: the score of a unit vector with itself."""
    mlp: tuple[Annotated[int, Meta(ge=1, le=8192)], ...] = (200, 80)
    towers: Literal["shared", "mmoe"] = "shared"
    """How a candidate becomes a logit for each kind: one MLP with a head for each, or a mixture of experts."""
    experts: Annotated[int, Meta(ge=1, le=64)] = 4
    """Of a mixture, each an MLP of its own."""
    loss_weights: dict[str, Annotated[float, Meta(ge=0, le=1_000)]] = {}
    """Of each kind's loss in what is learned; 1 for a kind that is not named."""
    short: Annotated[int, Meta(ge=1, le=256)] = 16
    top_k: Annotated[int, Meta(ge=1, le=1024)] = 48
    bits: Literal[16, 32, 64, 128, 192, 256] = 64
    """Of an item's code; its coded fields share them. Fewer than 64 take as much room as 64."""
    coded: Annotated[int, Meta(ge=1, le=8)] = 2
    """How many item fields have codes: 1 is the item's id alone, 2 the id and the category."""
    warm_up_steps: Annotated[int, Meta(ge=0, le=10**9)] = 600
    """The first so many steps search by category, whatever ``coded`` is above 1."""
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    row_lr: Ratio = 0.05
    lr: Ratio = 0.001
    init_std: Ratio = 0.05
    admit_after: Annotated[int, Meta(ge=1, le=255)] = 1
    born_from_category: bool = True

    @property
    def by_category(self) -> bool:
        """Whether behaviours are found by the category."""
        return self.search == "category" or (self.search == "own" and self.unit == "sim_hard")


class TrainerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[trainer]: batches, publications, checkpoints; all in event time."""

    batch_samples: Annotated[int, Meta(ge=1, le=65_536)] = 16
    batch_span_ms: Ms = 10_000
    publish_ms: Ms = 1_000
    checkpoint_ms: Ms = 600_000
    checkpoints: Annotated[str, Meta(min_length=1)] = "checkpoints"
    """Where the trainer as a service keeps them: a folder, or a URL that fsspec knows."""
    keep: Annotated[int, Meta(ge=1, le=1000)] = 3
    """Checkpoints that are kept."""
    row_ttl_ms: Ms = 90 * DAY_MS
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    capacity: Annotated[int, Meta(ge=1024, le=2**31)] = 1 << 24
    """Rows that the table may ever hold. Memory is taken as they come."""


Band = tuple[Annotated[float, Meta(ge=0, le=1)], Annotated[float, Meta(ge=1, le=10**6)]]


class BreakerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[breaker]: when training holds; all in event time. Bands are ratios to what is usual."""

    mode: Literal["hold", "off"] = "hold"
    """``off`` holds by a person's order only."""
    window_ms: Annotated[int, Meta(ge=1_000, le=10**9)] = 60_000
    """What is looked at."""
    usual_ms: Ms = 3_600_000
    """What it is compared with: its weight falls to a third in this time."""
    coverage: Band = (0.5, 3.0)
    """Actions for each impression, as they are read."""
    events: Band = (0.05, 20.0)
    """Impressions a second."""
    positives: Band = (0.5, 3.0)
    """Mean label of the samples."""
    ne: Band = (0.0, 1.5)
    """Normalised entropy of the predictions."""
    held_back: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """Share of the users who are predicted and never learned: each publication is tried on them. 0 tries none."""


class KafkaSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[kafka]: the cluster and the topics on it."""

    bootstrap: Annotated[str, Meta(pattern=r"^[^\s,:]+:[0-9]+(,[^\s,:]+:[0-9]+)*$")] = "127.0.0.1:9092"
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+$")] = "instep"
    replication: Annotated[int, Meta(ge=1, le=100)] = 1
    retention_ms: Ms = 7 * DAY_MS
    """Of events, samples, scores and dead records. A worker that was away for longer cannot go on."""
    model_retention_ms: Ms = 30 * DAY_MS
    timeout_ms: Annotated[int, Meta(ge=1_000, le=10**7)] = 30_000
    """How long to wait for an answer."""
    transaction_timeout_ms: Annotated[int, Meta(ge=1_000, le=10**7)] = 60_000
    """How long a writer that died can hold up its readers."""
    client: dict[str, str | bool | int | float] = {}
    """Passed on to kafka-python: security_protocol, ssl_*, sasl_* ... May be secret: never shown, never saved."""


WorkerName = Literal["joiner", "profiles", "trainer", "indexer", "monitor", "ranker"]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class Ports(Struct, frozen=True, forbid_unknown_fields=True):
    """Where each worker answers for its health; 0 takes a free port, which is logged."""

    joiner: Port = 9461
    profiles: Port = 9462
    trainer: Port = 9463
    indexer: Port = 9464


class ServiceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[service]: what runs around each worker. Times are wall time."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """Where the workers answer for their health."""
    ports: Ports = Ports()
    poll_records: Annotated[int, Meta(ge=1, le=1_000_000)] = 2_000
    """At most so many records a step, which is one transaction for each partition."""
    linger_ms: Annotated[int, Meta(ge=0, le=60_000)] = 100
    """How long a joiner that found fewer waits for more, so that transactions are fewer and larger."""
    stall_ms: Ms = 60_000
    """A step that takes longer makes the worker unhealthy."""
    retry_ms: Ms = 30_000
    """The longest wait before a worker whose Kafka or Redis is away tries again; the first is a second."""
    log: Literal["text", "json"] = "text"

    @property
    def stall_s(self) -> float:
        """As `stream.service.serve` takes it."""
        return self.stall_ms / 1000

    @property
    def retry_s(self) -> tuple[float, float]:
        """The first and the longest wait."""
        return min(1.0, self.retry_ms / 1000), self.retry_ms / 1000


class RedisSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[redis]: where index and profiles are. May hold a password, so it is neither logged nor saved."""

    url: Annotated[str, Meta(min_length=1)] = "redis://127.0.0.1:6379/0"
    """``redis://``, ``rediss://`` for TLS, or ``unix://``; user and password may stand in it."""
    cluster: bool = False
    prefix: Annotated[str, Meta(pattern=r"^[^{}\s]+$")] = "instep"
    """Of all keys."""
    timeout_ms: Ms = 5_000
    """How long to wait for a connection or an answer, in wall time, each of four times."""
    keep_updates: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """How many publications a ranker may be behind before it loads everything."""
    client: dict[str, str | int | float | bool] = {}
    """More that redis-py takes: username, password, ssl_ca_certs and so on."""


class RankerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[ranker]: the HTTP API. Times are wall time."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8460
    tokens: tuple[Annotated[str, Meta(min_length=8)], ...] = ()
    """Bearer tokens of which each request must bring one; none asks for none. Secret: never shown, never saved."""
    max_candidates: Annotated[int, Meta(ge=1, le=10_000)] = 5_000
    """Of one request; an Impression has no more than the bound."""
    max_body_bytes: Annotated[int, Meta(ge=1_024, le=1 << 30)] = 8 << 20
    max_behind_ms: Ms = 60_000
    """A ranker that has not been in step with the index for so long says that it is not ready."""
    max_waiting: Annotated[int, Meta(ge=1, le=10**7)] = 10_000
    """Events that may wait for Kafka; more are refused."""
    tick_ms: Annotated[int, Meta(ge=0, le=10**9)] = 1_000
    """How often a Tick goes to every partition of the events; 0 if who sends events sends Ticks too."""
    remembered_users: Annotated[int, Meta(ge=1, le=10**7)] = 2_000
    """Of whom the history is known while Redis is away."""
    profile_timeout_ms: Ms = 250
    """How long a request waits for a user's history before it takes the one that is remembered."""
    named_items: Annotated[int, Meta(ge=1, le=10**8)] = 100_000
    """Of which the name is known: those that were asked about last."""
    audit_ms: Annotated[int, Meta(ge=0, le=10**9)] = 10_000
    """How often rows are audited; 0 for never."""
    weights: dict[str, Annotated[float, Meta(ge=-(10**6), le=10**6)]] = {}
    """What each kind is worth in a score, which is the sum over kinds of worth times probability; 0 for a kind that is
    not named. Without any the first kind alone, 1."""


class MonitorSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[monitor]: the page, what is judged, and who is told. Times are wall time."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8461
    """Of the page, and of what a worker says of its health."""
    folder: Annotated[str, Meta(min_length=1)] = "monitor"
    """Where windows, alerts and what is needed to go on are kept."""
    rules: str = ""
    """File of rules, in place of those of `monitor/alerts.toml`."""
    webhook: Annotated[str, Meta(pattern=r"^(https?://.+)?$")] = ""
    """URL to which alerts are posted. Secret: never shown, never saved, never logged."""
    webhook_timeout_ms: Ms = 5_000
    """Of one try."""
