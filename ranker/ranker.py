"""A request in, scores out: one user's live behaviours against a slate, by one Version of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream.events import Candidate, Value, Version, key_of
from stream.fields import Fields
from stream.profiles import Profiles
from trainer.batch import Batch
from trainer.learner import predict
from trainer.model.ctr import Network
from trainer.table import EmbeddingTable


class NotReadyError(RuntimeError):
    """Nothing has been published yet."""


@dataclass(frozen=True)
class Ranked:
    """Scores in the order asked, and what they were made with."""

    scores: NDArray[np.float32]
    """``[n]`` probability of a click."""
    version: Version
    at_ms: int
    """Event time of the newest sample that this Version has learned."""
    n_behaviours: int


class Model(Protocol):
    """What a ranker scores with: a mirror, or for a comparison the trainer itself."""

    @property
    def network(self) -> Network: ...

    @property
    def table(self) -> EmbeddingTable: ...

    @property
    def version(self) -> Version | None: ...

    @property
    def at_ms(self) -> int: ...


class Ranker:
    """Ranks slates.

    Parameters
    ----------
    model
        Whose scores are given out; what it is may change between requests, never within one.
    short, k, warm_up_steps
        As the trainer's: how many behaviours are attended over always, how many are searched, and up to which step by
        category alone.
    max_history
        As the joiner's.
    """

    def __init__(
        self,
        model: Model,
        profiles: Profiles,
        fields: Fields,
        *,
        short: int,
        k: int,
        max_history: int,
        warm_up_steps: int = 0,
    ) -> None:
        self._model = model
        self._profiles = profiles
        self._fields = fields
        self._short = short
        self._k = k
        self._warm_up_steps = warm_up_steps
        self._max_history = max_history

    def rank(
        self, user: str, candidates: Sequence[Candidate], context: Mapping[str, Value], at_ms: int
    ) -> Ranked:
        """Score a slate for a user at a moment; nothing that happened at or after it is read.

        Raises
        ------
        NotReadyError
            Before the first publication.
        BadEvent
            If a feature has the wrong type.
        """
        version = self._model.version
        if version is None:
            raise NotReadyError("ranker: expected a published model, got none yet")
        batch = self.slate(user, candidates, context, at_ms)
        scores = np.zeros(0, np.float32)
        if batch.n_candidates:
            young = version.step < self._warm_up_steps
            p = predict(self._model.network, self._model.table, batch, self._short, self._k, young=young)
            scores = p[:, 0]
        return Ranked(scores, version, self._model.at_ms, len(batch.sequence_at))

    def slate(
        self, user: str, candidates: Sequence[Candidate], context: Mapping[str, Value], at_ms: int
    ) -> Batch:
        """A request as a batch of one sample, without labels."""
        keys, at = self._profiles.get(key_of("user", user), at_ms, self._max_history)
        items = [
            self._fields.item_keys(c.item, c.features, f"$.candidates[{i}]") for i, c in enumerate(candidates)
        ]
        n = len(items)
        return Batch(
            side=np.array([self._fields.side_keys(user, context)], np.uint64),
            at_ms=np.array([at_ms]),
            items=np.array(items, np.uint64).reshape(n, len(self._fields.item)),
            first=np.array([0, n]),
            labels=np.zeros((n, 1), np.float32),
            stage=np.zeros(1, np.uint8),
            sequence=keys,
            sequence_at=at,
            start=np.array([0, len(at)]),
        )
