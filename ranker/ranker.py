"""A request in, scores out: one user's live behaviours against a slate, by one Version of the model.

A score is what showing the candidate is worth: the sum over kinds of action of what one is worth times how probable it
is. Expectations add up however kinds depend on each other (a like follows a click), so an order by this sum is one of
greatest expected worth, as far as the probabilities are right; a product of their powers means no such thing. Each
kind's probability is that of a candidate that is shown, not of one that is clicked already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream.events import Candidate, Value, Version, key_of
from stream.fields import Fields
from stream.profiles import Profiles
from trainer.batch import Batch, side_by_side
from trainer.learner import predict
from trainer.model.ctr import Network
from trainer.table import EmbeddingTable


class NotReadyError(RuntimeError):
    """Nothing has been published yet."""


@dataclass(frozen=True)
class Ranked:
    """Scores in the order asked, and what they were made with."""

    scores: NDArray[np.float32]
    """``[n]`` what showing each is worth."""
    p: NDArray[np.float32]
    """``[n, K]`` probability of each kind of action."""
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


History = tuple[NDArray[np.uint64], NDArray[np.int64]]
"""Keys ``[L, F]`` and event times ``[L]`` of behaviours, oldest first; see `Profiles.get`."""


@dataclass(frozen=True)
class Scorer:
    """How a request becomes a batch, and a batch scores; holds no model, so that any may be given.

    Parameters
    ----------
    short, k, warm_up_steps
        As the trainer's: how many behaviours are attended over always, how many are searched, and up to which step by
        category alone.
    worth
        Of each kind of action, in the order of the model's columns.
    """

    fields: Fields
    short: int
    k: int
    warm_up_steps: int = 0
    worth: Mapping[str, float] = field(default_factory=lambda: {"click": 1.0})

    def slate(
        self,
        user: str,
        candidates: Sequence[Candidate],
        context: Mapping[str, Value],
        at_ms: int,
        history: History,
    ) -> Batch:
        """A request as a batch of one sample, without labels.

        Raises
        ------
        BadEvent
            If a feature has the wrong type.
        """
        keys, at = history
        items = [
            self.fields.item_keys(c.item, c.features, f"$.candidates[{i}]") for i, c in enumerate(candidates)
        ]
        n = len(items)
        return Batch(
            side=np.array([self.fields.side_keys(user, context)], np.uint64),
            at_ms=np.array([at_ms]),
            items=np.array(items, np.uint64).reshape(n, len(self.fields.item)),
            first=np.array([0, n]),
            labels=np.zeros((n, len(self.worth)), np.float32),
            stage=np.zeros(1, np.uint8),
            sequence=keys,
            sequence_at=at,
            start=np.array([0, len(at)]),
        )

    def score(self, model: Model, slate: Batch) -> Ranked:
        """Scores of a batch of one sample.

        Raises
        ------
        NotReadyError
            Before the first publication.
        """
        return self.score_all(model, [slate])[0]

    def score_all(self, model: Model, slates: Sequence[Batch]) -> list[Ranked]:
        """As `score`, of some at once: the same but for rounding, since sums are added in another order."""
        version = model.version
        if version is None:
            raise NotReadyError("ranker: expected a published model, got none yet")
        each = [np.zeros((0, len(self.worth)), np.float32) for _ in slates]
        asked = [i for i, slate in enumerate(slates) if slate.n_candidates]
        if asked:
            batch = side_by_side([slates[i] for i in asked])
            young = self.is_young(version)
            p = predict(model.network, model.table, batch, self.short, self.k, young=young)
            for i, mine in zip(asked, np.split(p, batch.first[1:-1]), strict=True):
                each[i] = mine
        return [
            Ranked(self.combine(p), p, version, model.at_ms, len(slate.sequence_at))
            for p, slate in zip(each, slates, strict=True)
        ]

    def combine(self, p: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores float32 ``[n]`` of probabilities ``[n, K]``."""
        scores: NDArray[np.float32] = (p * np.array(list(self.worth.values()), np.float32)).sum(1)
        return scores

    def warm_up(self, model: Model) -> None:
        """Let everything that is compiled on its first use be compiled before a request comes."""
        n_fields, n = len(self.fields.item), self.short + self.k + 1
        keys = np.arange(1, 1 + n * n_fields, dtype=np.uint64).reshape(n, n_fields)
        self.score(model, self.slate("", [Candidate("-")] * 2, {}, n, (keys, np.arange(n))))

    def is_young(self, version: Version) -> bool:
        """Whether that Version searches by category alone."""
        return version.step < self.warm_up_steps


class Ranker:
    """Ranks slates with a model and profiles that are in this process.

    Parameters
    ----------
    model
        Whose scores are given out; what it is may change between requests, never within one.
    max_history
        As the joiner's.
    """

    def __init__(self, model: Model, profiles: Profiles, scorer: Scorer, max_history: int) -> None:
        self._model = model
        self._profiles = profiles
        self._scorer = scorer
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
        return self._scorer.score(self._model, self.slate(user, candidates, context, at_ms))

    def slate(
        self, user: str, candidates: Sequence[Candidate], context: Mapping[str, Value], at_ms: int
    ) -> Batch:
        """A request, with the user's live behaviours, as a batch of one sample."""
        history = self._profiles.get(key_of("user", user), at_ms, self._max_history)
        return self._scorer.slate(user, candidates, context, at_ms, history)
