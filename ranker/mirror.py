"""What a ranker scores with: vectors, codes and dense weights of exactly one Version, copied from the index."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from indexer.index import Index, Update, check_follows
from stream.events import Version
from trainer.model.ctr import Network, Shape
from trainer.model.simhash import WORD
from trainer.table import EmbeddingTable

log = logging.getLogger(__name__)


class Mirror:
    """Follows an index, whole publications at a time.

    Parameters
    ----------
    shape
        Of the network whose weights are published.
    bits
        Of an item's code.
    """

    def __init__(self, shape: Shape, bits: int, capacity: int = 1 << 24) -> None:
        self.version: Version | None = None
        self.at_ms = 0
        self.network = Network(shape)
        self._shape = shape
        self._bits = bits
        self._capacity = capacity
        self.table = self._empty()

    def follow(self, index: Index) -> int:
        """Apply what the index published since; returns how many publications that were."""
        updates = index.since(self.version)
        if updates is None:
            whole = index.load()
            updates = [whole] if whole else []
            log.info("mirror reloads version=%s", whole and whole.version)
        for update in updates:
            self.apply(update)
        return len(updates)

    def apply(self, update: Update) -> None:
        """Take one publication whole.

        Raises
        ------
        GapError
            If it begins after the Version held or in another epoch.
        """
        check_follows(update, self.version, "mirror")
        if update.since is None:
            self.table = self._empty()
        slots = self.table.put(update.keys, update.fields, update.vectors, encode=False)
        self.table.codes[slots] = update.codes  # the index's, not our own: what is audited is what is used
        self.table.changed[slots] = update.steps
        self.table.remove(update.tombstones)
        weights = {name: torch.from_numpy(w.copy()) for name, w in update.dense.items()}
        self.network.load_state_dict(weights)
        self.version = update.version
        self.at_ms = update.at_ms

    def codes(self, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Codes uint64 ``[n, words]`` of keys ``[n]``, 0 for unknown ones."""
        return self.table.codes[self.table.find(keys)]

    def _empty(self) -> EmbeddingTable:
        # codes come from the index, so the mirror's table never uses its planes
        planes = np.zeros((self._shape.n_coded, self._shape.row_dim, max(self._bits, WORD)), np.float32)
        n_fields = self._shape.n_item_fields + self._shape.n_side
        return EmbeddingTable(self._shape.row_dim, n_fields, planes, seed=0, capacity=self._capacity)
