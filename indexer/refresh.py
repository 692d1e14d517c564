"""From a publication to what the index holds: the codes that belong to its vectors, and nothing older."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.index import Update
from trainer.model.simhash import encode
from trainer.publication import Publication


def refresh(publication: Publication, planes: NDArray[np.float32]) -> Update:
    """Recompute codes for the rows that changed; rows of fields without planes keep code 0.

    Parameters
    ----------
    planes
        float32 ``[coded fields, dim, bits]``, those of the trainer.
    """
    words = planes.shape[2] // 64
    codes = np.zeros((len(publication.keys), words), np.uint64)
    for number, of_field in enumerate(planes):
        rows = np.flatnonzero(publication.fields == number)
        codes[rows] = encode(publication.vectors[rows], of_field)
    return Update(
        version=publication.version,
        since=publication.since,
        at_ms=publication.at_ms,
        keys=publication.keys,
        fields=publication.fields,
        steps=publication.steps,
        codes=codes,
        vectors=publication.vectors,
        tombstones=publication.tombstones,
        dense=publication.dense,
    )
