"""A publication is tried on slates that were never learned, before it goes live.

A share of the users is held back: their samples are predicted like all others and never learned. The newest slates of
theirs are scored by each Version that is due to be published, and their losses are compared, slate by slate, with those
under the Version that is live. One that is worse beyond chance is refused: the model log says so, and what is served
stays. It is tried again when the next publication is due, with what was learned since.
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
"""Slates below which nothing is refused."""
MIX = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class CanaryRules:
    """Who is held back, and what is worse.

    Parameters
    ----------
    share
        Of the users, 0 to 1.
    n_slates
        That a publication is tried on, the newest.
    worse
        Part by which the loss must be greater to be refused.
    surprise
        And by how many standard errors, with the slate as the unit.
    """

    share: float
    n_item_fields: int
    n_kinds: int
    n_slates: int = 64
    worse: float = 0.05
    surprise: float = 3.0


class _Kept(Struct, array_like=True):
    sample: Sample
    loss: float
    """Under the live Version; of a slate that is newer than that, when it came."""


class Canary:
    """Slates of users who are held back, and the judgement by them."""

    def __init__(self, rules: CanaryRules) -> None:
        self.rules = rules
        self._kept: list[_Kept] = []

    def is_held_back(self, sample: Sample) -> bool:
        """Whether it must not be learned: by its user, so that nothing else of that user is either."""
        return ((sample.user * MIX) % 2**64) < self.rules.share * 2**64

    def add(self, samples: Sequence[Sample], p: NDArray[np.float32]) -> None:
        """Slates that were predicted just now, float32 ``[N, K]``."""
        at = 0
        for sample in samples:
            n = len(sample.labels) // self.rules.n_kinds
            said, labels = p[at : at + n, 0], sample.label_matrix(self.rules.n_kinds)[:, 0]
            at += n
            if sample.stage == "final":
                lost = float(losses(said.astype(np.float64), labels.astype(np.float64)).sum())
                self._kept.append(_Kept(sample, lost))
        del self._kept[: -self.rules.n_slates]

    def why_not(self, predict: Predict) -> str:
        """Why a model is not to go live, in words; empty to let it, and to compare with it from now on."""
        if not self._kept:
            return ""
        rules = self.rules
        batch = make_batch([k.sample for k in self._kept], rules.n_item_fields, rules.n_kinds)
        lost = losses(predict(batch)[:, 0].astype(np.float64), batch.labels[:, 0].astype(np.float64))
        new = np.array([lost[a:b].sum() for a, b in pairwise(batch.first.tolist())])
        old = np.array([k.loss for k in self._kept])
        more = new - old
        if len(more) >= LEAST and more.sum() > rules.worse * old.sum():
            error = float(np.sqrt(len(more) * more.var(ddof=1)))
            if more.sum() > rules.surprise * error:
                part = more.sum() / old.sum()
                return (
                    f"its loss on {len(more)} slates held back is {100 * part:.0f} % more than the live one's"
                )
        for kept, loss in zip(self._kept, new.tolist(), strict=True):
            kept.loss = loss
        return ""

    def state(self) -> bytes:
        """All that the next judgement depends on."""
        return msgspec.msgpack.encode(self._kept)

    def load(self, state: bytes) -> None:
        """Go on from a state."""
        self._kept = msgspec.msgpack.decode(state, type=list[_Kept])
