"""``instep.toml``: everything that can be set, with default and bounds. Read by entry points; the core sees values."""

from __future__ import annotations

import re
import tomllib
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from stream.fields import Feature, Fields
from stream.join import JoinRules

if TYPE_CHECKING:  # each is imported where it is made: a joiner needs no torch, a replay no Kafka
    from ranker.ranker import Scorer
    from stream.cluster import Cluster
    from stream.topics import Topic
    from trainer.learner import LearnerConfig
    from trainer.loop import LoopRules

Ms = Annotated[int, Meta(ge=1, le=10**12)]
Ratio = Annotated[float, Meta(gt=0, le=10)]

DAY_MS = 86_400_000


class SettingsError(ValueError):
    """A setting that cannot be: where, what was expected, what came."""


class StreamSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[stream]: the log and the join."""

    partitions: Annotated[int, Meta(ge=1, le=4096)] = 4
    windows: dict[str, Ms] = msgspec.field(default_factory=lambda: {"click": 60_000})
    """Attribution window in ms of each action kind that is a label. The first is what the model ranks by."""
    lateness_ms: Annotated[int, Meta(ge=0, le=10**12)] = 5_000
    """How far events may be out of order."""
    max_jump_ms: Ms = 3_600_000
    """How far one record may push event time."""
    max_history: Annotated[int, Meta(ge=1, le=65_536)] = 2_048
    history_ttl_ms: Ms = 90 * DAY_MS
    policy: Literal["window", "eager"] = "window"
    """When a sample is learned: when its windows have passed, or at once and again when the click comes."""
    history_kinds: tuple[str, ...] = ("click",)
    """Action kinds that become behaviours."""
    max_dead: Annotated[float, Meta(gt=0, le=1)] = 0.2
    """The share of unusable records above which the loop stops."""


class ModelSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[model]: the network and how it learns."""

    unit: Literal["eta", "exact", "category", "full", "short", "average"] = "eta"
    dim: Annotated[int, Meta(ge=4, le=512)] = 32
    heads: Annotated[int, Meta(ge=1, le=64)] = 4
    mlp: tuple[Annotated[int, Meta(ge=1, le=8192)], ...] = (200, 80)
    short: Annotated[int, Meta(ge=1, le=256)] = 16
    top_k: Annotated[int, Meta(ge=1, le=1024)] = 48
    bits: Literal[64, 128, 192, 256] = 64
    """Of an item's code; its coded fields share them."""
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


WorkerName = Literal["joiner", "profiles", "trainer", "indexer", "ranker"]
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
    max_candidates: Annotated[int, Meta(ge=1, le=100_000)] = 5_000
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


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    features: tuple[Feature, ...] = (Feature("category", "item"),)
    stream: StreamSettings = StreamSettings()
    model: ModelSettings = ModelSettings()
    trainer: TrainerSettings = TrainerSettings()
    kafka: KafkaSettings = KafkaSettings()
    service: ServiceSettings = ServiceSettings()
    redis: RedisSettings = RedisSettings()
    ranker: RankerSettings = RankerSettings()

    @property
    def fields(self) -> Fields:
        return Fields(self.features)

    def join_rules(self) -> JoinRules:
        s = self.stream
        return JoinRules(
            windows=dict(s.windows),
            lateness_ms=s.lateness_ms,
            max_jump_ms=s.max_jump_ms,
            max_history=s.max_history,
            history_ttl_ms=s.history_ttl_ms,
            policy=s.policy,
            history_kinds=s.history_kinds,
        )

    @property
    def n_coded(self) -> int:
        """How many item fields have bits of the codes."""
        return min(self.model.coded, len(self.fields.item))

    def learner_config(self) -> LearnerConfig:
        from trainer.learner import LearnerConfig
        from trainer.model.ctr import Shape

        m, fields = self.model, self.fields
        return LearnerConfig(
            shape=Shape(
                unit=m.unit,
                dim=m.dim,
                n_side=len(fields.side),
                n_item_fields=len(fields.item),
                n_coded=self.n_coded,
                n_kinds=len(self.stream.windows),
                heads=m.heads,
                mlp=m.mlp,
            ),
            seed=m.seed,
            bits=m.bits,
            short=m.short,
            k=m.top_k,
            warm_up_steps=m.warm_up_steps,
            row_lr=m.row_lr,
            lr=m.lr,
            init_std=m.init_std,
            admit_after=m.admit_after,
            born_from_category=m.born_from_category,
            threads=self.trainer.threads,
        )

    def scorer(self) -> Scorer:
        from ranker.ranker import Scorer

        m = self.model
        return Scorer(self.fields, m.short, m.top_k, m.warm_up_steps)

    def loop_rules(self) -> LoopRules:
        from trainer.loop import LoopRules

        t = self.trainer
        return LoopRules(t.batch_samples, t.batch_span_ms, t.publish_ms, t.row_ttl_ms)

    def cluster(self) -> Cluster:
        """The Kafka cluster. LogError if ``kafka.client`` has what cannot be there."""
        from stream.cluster import Cluster

        k = self.kafka
        return Cluster(k.bootstrap, k.prefix, k.client, k.timeout_ms, k.transaction_timeout_ms)

    def topics(self) -> dict[str, Topic]:
        """What the topics are to be like, by name."""
        from stream.topics import topics

        k = self.kafka
        return topics(self.stream.partitions, k.replication, k.retention_ms, k.model_retention_ms)

    def public(self) -> dict[str, Any]:
        """As plain values what a model depends on: no addresses, and nothing that may be secret."""
        return {
            part: msgspec.to_builtins(getattr(self, part))
            for part in ("features", "stream", "model", "trainer")
        }

    def with_model(self, **changes: Any) -> Settings:
        """The same with other model settings; checked like a file."""
        model = msgspec.structs.replace(self.model, **changes)
        return check(msgspec.to_builtins(msgspec.structs.replace(self, model=model)))


def load(path: Path | None) -> Settings:
    """Read a settings file; the defaults without one.

    Raises
    ------
    SettingsError
        In one line: file, setting, what was expected, what came.
    """
    if path is None:
        return Settings()
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as e:
        raise SettingsError(f"{path}: expected a settings file, got: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path}: expected TOML, got: {e}") from None
    return check(raw, str(path))


def check(raw: dict[str, Any], where: str = "settings") -> Settings:
    """Settings from plain values.

    >>> check({"model": {"top_k": 0}})
    Traceback (most recent call last):
    instep.settings.SettingsError: settings: model.top_k: expected `int` >= 1, got 0
    """
    try:
        settings = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as e:
        raise SettingsError(f"{where}: {_explain(str(e), raw)}") from None
    _check_together(settings, where)
    return settings


def _check_together(settings: Settings, where: str) -> None:
    """What one setting asks of another."""
    model, stream, trainer = settings.model, settings.stream, settings.trainer
    fields = settings.fields
    wide = model.dim * len(fields.item)
    names = [f.name for f in settings.features]
    rules: tuple[tuple[str, bool, str, object], ...] = (
        ("features", len(set(names)) == len(names), "names that differ", names),
        ("features", not {"item", "user"} & set(names), "names other than item and user", names),
        ("model.heads", wide % model.heads == 0, f"a divisor of dim times item fields = {wide}", model.heads),
        ("stream.windows", bool(stream.windows), "at least one action kind", {}),
        (
            "model.bits",
            model.bits % settings.n_coded == 0,
            f"a multiple of the {settings.n_coded} coded fields",
            model.bits,
        ),
        (
            "model.unit",
            model.unit != "category" or len(fields.item) > 1,
            "an item feature to be the category",
            "none declared",
        ),
        (
            "trainer.row_ttl_ms",
            trainer.row_ttl_ms >= stream.history_ttl_ms,
            f"at least stream.history_ttl_ms = {stream.history_ttl_ms}",
            trainer.row_ttl_ms,
        ),
        (
            "kafka.transaction_timeout_ms",
            settings.kafka.transaction_timeout_ms > settings.kafka.timeout_ms,
            f"more than kafka.timeout_ms = {settings.kafka.timeout_ms}",
            settings.kafka.transaction_timeout_ms,
        ),
    )
    for setting, ok, expected, got in rules:
        if not ok:
            raise SettingsError(f"{where}: {setting}: expected {expected}, got {got}")
    for feature in settings.features:
        edges = list(feature.edges)
        if edges != sorted(set(edges)) or not all(map(isfinite, edges)):
            raise SettingsError(
                f"{where}: features.{feature.name}.edges: expected ascending finite numbers, got {edges}"
            )


def _allowed(path: str) -> tuple[Any, ...]:
    """The values that the setting at ``path`` may have, of those that have a fixed few."""
    kind: Any = Settings
    for part in re.findall(r"[^.\[\]]+", path):
        kind = get_args(kind)[0] if get_origin(kind) is tuple else get_type_hints(kind)[part]
    return get_args(kind)


def _explain(message: str, raw: dict[str, Any]) -> str:
    """Turn ``Expected `int` >= 1 - at `$.model.top_k``` into ours, with what came."""
    what, _, at = message.partition(" - at ")
    path = at.strip("`").removeprefix("$").removeprefix(".")
    got: Any = raw
    for part in re.findall(r"[^.\[\]]+", path):
        try:
            got = got[int(part)] if isinstance(got, list) else got[part]
        except (KeyError, IndexError, ValueError, TypeError):
            break
    if path.startswith("kafka.client"):
        got = "one that is not shown"
    what = re.sub(r", got .*$", "", what)
    if what.startswith("Invalid enum value"):
        what = f"expected one of {', '.join(map(str, _allowed(path)))}"
    unknown = re.match(r"Object contains unknown field `(.*)`", what)
    if unknown:
        name = f"{path}.{unknown[1]}" if path else unknown[1]
        return f"{name}: expected a setting that exists, got this one"
    missing = re.match(r"Object missing required field `(.*)`", what)
    if missing:
        return f"{path}: expected a field {missing[1]!r}, got {got!r}"
    return f"{path}: {what[0].lower()}{what[1:]}, got {got if path.startswith('kafka.client') else repr(got)}"


__all__ = ["Settings", "SettingsError", "check", "load"]
