"""``instep.toml`` as a whole: read, checked, and turned into what the parts are given. The core sees values only."""

from __future__ import annotations

import re
import tomllib
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from instep.sections import (
    BreakerSettings,
    KafkaSettings,
    ModelSettings,
    MonitorSettings,
    RankerSettings,
    RedisSettings,
    ServiceSettings,
    StreamSettings,
    TrainerSettings,
)
from stream.fields import Feature, Fields
from stream.join import JoinRules

if TYPE_CHECKING:  # each is imported where it is made: a joiner needs no torch, a replay no Kafka
    from monitor.breaker import Breaker
    from monitor.rules import Rules
    from monitor.watched import WatchRules
    from ranker.ranker import Scorer
    from stream.cluster import Cluster
    from stream.topics import Topic
    from trainer.canary import Canary
    from trainer.learner import LearnerConfig
    from trainer.loop import LoopRules


SECRET = ("kafka.client", "redis.client", "redis.url", "ranker.tokens", "monitor.webhook")
"""Settings whose values no error shows."""


class SettingsError(ValueError):
    """A setting that cannot be: where, what was expected, what came."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    features: tuple[Feature, ...] = (Feature("category", "item"),)
    stream: StreamSettings = StreamSettings()
    model: ModelSettings = ModelSettings()
    trainer: TrainerSettings = TrainerSettings()
    breaker: BreakerSettings = BreakerSettings()
    kafka: KafkaSettings = KafkaSettings()
    service: ServiceSettings = ServiceSettings()
    redis: RedisSettings = RedisSettings()
    ranker: RankerSettings = RankerSettings()
    monitor: MonitorSettings = MonitorSettings()

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
    def kinds(self) -> tuple[str, ...]:
        """The kinds of action that are labels, in the order of their columns."""
        return tuple(self.stream.windows)

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
                search="" if m.search == "own" else m.search,
                dim=m.dim,
                n_side=len(fields.side),
                n_item_fields=len(fields.item),
                n_coded=self.n_coded,
                n_kinds=len(self.kinds),
                heads=m.heads,
                sharpness=m.sharpness,
                mlp=m.mlp,
                towers=m.towers,
                experts=m.experts,
            ),
            seed=m.seed,
            bits=m.bits,
            short=m.short,
            k=m.top_k,
            warm_up_steps=m.warm_up_steps,
            row_lr=m.row_lr,
            lr=m.lr,
            loss_weights=tuple(m.loss_weights.get(kind, 1.0) for kind in self.kinds if m.loss_weights),
            init_std=m.init_std,
            admit_after=m.admit_after,
            born_from_category=m.born_from_category,
            threads=self.trainer.threads,
        )

    def scorer(self) -> Scorer:
        from ranker.ranker import Scorer

        m = self.model
        weights = self.ranker.weights or {self.kinds[0]: 1.0}
        worth = {kind: weights.get(kind, 0.0) for kind in self.kinds}
        return Scorer(self.fields, m.short, m.top_k, m.warm_up_steps, worth)

    def loop_rules(self) -> LoopRules:
        from trainer.loop import LoopRules

        t = self.trainer
        return LoopRules(t.batch_samples, t.batch_span_ms, t.publish_ms, t.row_ttl_ms)

    def breaker_gate(self) -> Breaker:
        """What decides whether a batch is learned."""
        from monitor.breaker import Bands, Breaker, BreakerRules

        b = self.breaker
        bands = Bands(b.coverage, b.events, b.positives, b.ne)
        on = b.mode == "hold"
        rules = BreakerRules(
            tuple(self.kinds), self.stream.partitions, b.window_ms, b.usual_ms, bands=bands, on=on
        )
        return Breaker(rules)

    def canary(self) -> Canary | None:
        """What publications are tried on; None without."""
        from trainer.canary import Canary, CanaryRules

        share = self.breaker.held_back
        return Canary(CanaryRules(share, len(self.fields.item), len(self.kinds))) if share else None

    def watch_rules(self) -> WatchRules:
        from monitor.watched import WatchRules
        from trainer.model.simhash import make_planes

        m, fields = self.model, self.fields
        return WatchRules(
            partitions=tuple(range(self.stream.partitions)),
            kinds=self.kinds,
            item_fields=fields.item,
            side_fields=fields.side,
            planes=make_planes(self.n_coded, m.dim, m.bits, m.seed),
            k=m.top_k,
        )

    def alert_rules(self) -> Rules:
        """What windows are judged by. RulesError if the file of rules cannot be used."""
        from monitor.rules import read_rules

        return read_rules(Path(self.monitor.rules) if self.monitor.rules else None)

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
            for part in ("features", "stream", "model", "trainer", "breaker")
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
        raise SettingsError(f"{where}: {explain(str(e), raw)}") from None
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
            "model.mlp",
            model.towers != "mmoe" or bool(model.mlp),
            "at least one layer for towers = mmoe",
            list(model.mlp),
        ),
        (
            "ranker.weights",
            not settings.ranker.weights or any(settings.ranker.weights.values()),
            "at least one that is not 0",
            settings.ranker.weights,
        ),
        (
            "model.bits",
            model.bits % settings.n_coded == 0,
            f"a multiple of the {settings.n_coded} coded fields",
            model.bits,
        ),
        (
            "model.search" if model.search == "category" else "model.unit",
            not model.by_category or len(fields.item) > 1,
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
    for setting, weights in (
        ("model.loss_weights", model.loss_weights),
        ("ranker.weights", settings.ranker.weights),
    ):
        for kind in weights:
            if kind not in stream.windows:
                expected = f"a kind of stream.windows ({', '.join(stream.windows)})"
                raise SettingsError(f"{where}: {setting}: expected {expected}, got {kind!r}")
    for feature in settings.features:
        edges = list(feature.edges)
        if edges != sorted(set(edges)) or not all(map(isfinite, edges)):
            raise SettingsError(
                f"{where}: features.{feature.name}.edges: expected ascending finite numbers, got {edges}"
            )


def _allowed(path: str, of: type[Struct]) -> tuple[Any, ...]:
    """The values that the setting at ``path`` may have, of those that have a fixed few."""
    kind: Any = of
    for part in re.findall(r"[^.\[\]]+", path):
        kind = get_args(kind)[0] if get_origin(kind) is tuple else get_type_hints(kind)[part]
    return get_args(kind)


def explain(message: str, raw: dict[str, Any], of: type[Struct] = Settings) -> str:
    """Turn ``Expected `int` >= 1 - at `$.model.top_k``` into ours, with what came of a file that is to be ``of``."""
    what, _, at = message.partition(" - at ")
    path = at.strip("`").removeprefix("$").removeprefix(".")
    got: Any = raw
    for part in re.findall(r"[^.\[\]]+", path):
        try:
            got = got[int(part)] if isinstance(got, list) else got[part]
        except (KeyError, IndexError, ValueError, TypeError):
            break
    is_secret = path.startswith(SECRET)
    what = re.sub(r", got .*$", "", what)
    if what.startswith("Invalid enum value"):
        what = f"expected one of {', '.join(map(str, _allowed(path, of)))}"
    unknown = re.match(r"Object contains unknown field `(.*)`", what)
    if unknown:
        name = f"{path}.{unknown[1]}" if path else unknown[1]
        return f"{name}: expected a setting that exists, got this one"
    missing = re.match(r"Object missing required field `(.*)`", what)
    if missing and not path:
        return f"expected a field {missing[1]!r}, got {', '.join(raw) or 'none'}"
    if missing:
        return f"{path}: expected a field {missing[1]!r}, got {got!r}"
    return f"{path}: {what[0].lower()}{what[1:]}, got {'one that is not shown' if is_secret else repr(got)}"


__all__ = ["Settings", "SettingsError", "check", "explain", "load"]
