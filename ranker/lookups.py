"""What people ask of a model besides scores: which items are near, and what a score is made of."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from ranker.api import Attended, ExplainResponse, SimilarItem, SimilarResponse
from ranker.explain import explain
from ranker.live import LiveModel
from ranker.mirror import Mirror
from ranker.names import Names
from ranker.ranker import NotReadyError, Scorer
from stream.events import Version, key_of
from trainer.batch import Batch
from trainer.learner import locate_items
from trainer.model.simhash import hamming, item_codes


class Lookups:
    """Answers from the model that ranks, in the words of those who ask.

    Parameters
    ----------
    bits
        Of an item's code.
    """

    def __init__(self, live: LiveModel, scorer: Scorer, names: Names, bits: int) -> None:
        self._live = live
        self._scorer = scorer
        self._names = names
        self._bits = bits

    async def similar(self, item: str, n: int) -> SimilarResponse | None:
        """The items whose codes are nearest, of those asked for of late; None for an item that was not.

        Raises
        ------
        NotReadyError
            Before the first publication.
        """
        known = self._names.of(key_of("item", item))
        if known is None:
            return None
        keys = self._names.keys()
        query = np.array([self._scorer.fields.item_keys(*known)], np.uint64)

        def near(mirror: Mirror) -> tuple[Version, NDArray[np.int64]]:
            if mirror.version is None:
                raise NotReadyError("ranker: expected a published model, got none yet")
            return mirror.version, hamming(_codes(mirror, query), _codes(mirror, keys))

        version, distances = await asyncio.wrap_future(self._live.submit(near))
        found = []
        for place in np.argsort(distances, kind="stable")[: n + 1].tolist():
            named = self._names.of(int(keys[place, 0]))
            if named is not None and named[0] != item:
                found.append(SimilarItem(named[0], int(distances[place])))
        return SimilarResponse(item, self._bits, version, found[:n])

    async def explain(self, item: str, slate: Batch) -> ExplainResponse:
        """What the score of the one candidate of a slate is made of.

        Raises
        ------
        NotReadyError
            Before the first publication, and for a model that does not attend.
        """
        got = await asyncio.wrap_future(
            self._live.submit(lambda mirror: explain(self._scorer, mirror, slate))
        )
        weights = got.weights.mean(1)
        behaviours = []
        for i in np.argsort(-weights, kind="stable").tolist():
            place = int(got.positions[i])
            key = int(slate.sequence[place, 0])
            named = self._names.of(key)
            behaviours.append(
                Attended(
                    item=named[0] if named else None,
                    key=f"{key:016x}",
                    at_ms=int(slate.sequence_at[place]),
                    part="long" if got.is_long[i] else "short",
                    distance=int(got.distances[i]),
                    weight=float(weights[i]),
                )
            )
        kinds = dict(zip(self._scorer.worth, got.p, strict=True)) if len(got.p) > 1 else {}
        return ExplainResponse(
            item, got.score, got.version, got.is_young, len(slate.sequence_at), behaviours, kinds
        )


def _codes(mirror: Mirror, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Codes ``[n, words]`` of items ``[n, F]``; one without a row reads as its category, as in a search."""
    slots = locate_items(mirror.table, keys)
    return item_codes(mirror.table.codes, slots[:, : mirror.network.shape.n_coded])
