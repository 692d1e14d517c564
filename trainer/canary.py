"""A publication is tried on slates that were never learned, before it goes live.

A share of the users is held back: their samples are predicted like all others and never learned. The newest slates of
theirs are scored by each Version that goes live, and again by the next one that is due: their losses are compared,
slate by slate. One that is worse beyond chance is refused: the model log says so, and what is served stays. It is tried
again when the next publication is due, with what was learned since.

A slate that came since the live Version waits for the next one. What the model in training said of it is no measure: a
model that is spoiled would be compared with itself. So while Versions are refused the trial stays on the same slates,
however long that takes::

    live Version 0.35    scored these slates:  a b c d
    0.36 due             is tried on           a b c d        e came meanwhile: it waits
    0.36 refused, 0.37   is tried on           a b c d        e f wait
    0.37 live            scored these slates:      c d e f
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from stream.events import Sample
from trainer.batch import Batch, make_batch
from trainer.scores import losses

Predict = Callable[[Batch], NDArray[np.float32]]

LEAST = 16
"""Slates below which nothing is refused that predicts at all."""
MIX = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class CanaryRules:
    """Who is held back, and what is worse.

    Parameters
    ----------
    share
        Of the users, 0 to 1.
    n_slates
        That a publication is tried on, the newest that the live one has scored.
    worse
        Part by which the loss must be greater to be refused.
    surprise
        And by how many standard errors, with the slate as the unit.
    doubt
        By how many once one has been refused, for those that follow: they are looked at over and over, and it is for
        them to show that they are better.
    """

    share: float
    n_item_fields: int
    n_kinds: int
    n_slates: int = 64
    worse: float = 0.05
    surprise: float = 3.0
    doubt: float = 1.0


class _Kept(Struct, array_like=True):
    sample: Sample
    loss: float | None = None
    """Under the live Version; None of a slate that came since, or that nothing is to be compared by."""


class Canary:
    """Slates of users who are held back, and the judgement by them."""

    def __init__(self, rules: CanaryRules) -> None:
        self.rules = rules
        self._kept: list[_Kept] = []

    def is_held_back(self, sample: Sample) -> bool:
        """Whether it must not be learned: by its user, so that nothing else of that user is either."""
        return ((sample.user * MIX) % 2**64) < self.rules.share * 2**64

    def add(self, samples: Sequence[Sample]) -> None:
        """Slates that came just now: the next Version that goes live scores them."""
        self._kept += [_Kept(sample) for sample in samples if sample.stage == "final"]
        n_scored = sum(kept.loss is not None for kept in self._kept)
        del self._kept[n_scored : -self.rules.n_slates]

    def why_not(self, predict: Predict, *, again: bool = False) -> str:
        """Why a model is not to go live, in words; empty to let it, and to compare with it from now on.

        ``again`` says that the one before it was refused.
        """
        if not self._kept:
            return ""
        rules = self.rules
        batch = make_batch([k.sample for k in self._kept], rules.n_item_fields, rules.n_kinds)
        p = predict(batch)
        if not np.isfinite(p).all():  # which chance never does, of however few
            return f"what it predicts of {len(self._kept)} slates held back is not finite"
        lost = losses(p[:, 0].astype(np.float64), batch.labels[:, 0].astype(np.float64))
        new = np.array([lost[a:b].sum() for a, b in pairwise(batch.first.tolist())])
        old = np.array([k.loss for k in self._kept if k.loss is not None])
        more = new[: len(old)] - old
        if len(more) >= LEAST and more.sum() > rules.worse * old.sum():
            error = float(np.sqrt(len(more) * more.var(ddof=1)))
            if more.sum() > (rules.doubt if again else rules.surprise) * error:
                part = more.sum() / old.sum()
                return (
                    f"its loss on {len(more)} slates held back is {100 * part:.0f} % more than the live one's"
                )
        for kept, loss in zip(self._kept, new.tolist(), strict=True):
            kept.loss = loss
        del self._kept[: -rules.n_slates]
        return ""

    def forgive(self) -> None:
        """Let the next Version go live however it compares, if it predicts at all, and compare with that one."""
        for kept in self._kept:
            kept.loss = None

    def state(self) -> bytes:
        """All that the next judgement depends on."""
        return msgspec.msgpack.encode(self._kept)

    def load(self, state: bytes) -> None:
        """Go on from a state."""
        self._kept = msgspec.msgpack.decode(state, type=list[_Kept])
