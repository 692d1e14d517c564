"""Interest units by name: how a behaviour sequence becomes a vector for a candidate.

All share the network around them (``ctr.py``), so that what differs is what the papers differ in. Most search the long
part of a sequence beside an attention over its short part, the most recent behaviours; those that are ``whole`` read
one list instead, which has both. docs/models.md has a row for each: paper, equation, cost.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.model.additive import Additive
from trainer.model.afm import AFM
from trainer.model.attention import TargetAttention
from trainer.model.average import Average
from trainer.model.bst import BST
from trainer.model.dien import DIEN
from trainer.model.din import DIN, SigmoidDIN, SoftmaxDIN
from trainer.model.interest import Interest
from trainer.model.mimn import MIMN
from trainer.model.sdim import SDIM
from trainer.model.searches import SearchName
from trainer.model.sim import SAMPLE, SIMSoft
from trainer.model.transformer import PreNormTransformer, Transformer
from trainer.model.twin import TWIN


@dataclass(frozen=True)
class Unit:
    """What reads behaviours, which ones unless the settings say otherwise, and whose counts of near ones go along."""

    read: type[Interest] | None
    """None reads nothing but the short part, and if it is ``whole``, nothing at all, whatever the search."""
    search: SearchName
    counts: str = ""
    """The search that counts near behaviours; empty for the one that picks, if it counts."""
    whole: bool = False
    hashes: bool = False
    """Whether it reads codes as well as vectors."""
    sample: int = 0
    """Of a unit with an auxiliary model: how many behaviours that reads. Rows are half as wide again, for it."""


UNITS: dict[str, Unit] = {
    "none": Unit(None, "none", whole=True),
    "short": Unit(None, "none", counts="inner"),
    "average": Unit(Average, "none", whole=True),
    "afm": Unit(AFM, "recent", whole=True),
    "additive": Unit(Additive, "recent", whole=True),
    "din": Unit(DIN, "recent", whole=True),
    "din_sigmoid": Unit(SigmoidDIN, "recent", whole=True),
    "din_softmax": Unit(SoftmaxDIN, "recent", whole=True),
    "dien": Unit(DIEN, "recent", whole=True),
    "bst": Unit(BST, "recent", whole=True),
    "transformer": Unit(Transformer, "recent", whole=True),
    "transformer_prenorm": Unit(PreNormTransformer, "recent", whole=True),
    "mimn": Unit(MIMN, "recent", whole=True),
    "sim_hard": Unit(TargetAttention, "category"),
    "sim_soft": Unit(SIMSoft, "attention", counts="inner", sample=SAMPLE),
    "eta": Unit(TargetAttention, "hamming"),
    "sdim": Unit(SDIM, "none", counts="hamming", hashes=True),
    "twin": Unit(TWIN, "attention", counts="inner"),
    "exact": Unit(TargetAttention, "inner"),
    "full": Unit(TargetAttention, "none", counts="inner"),
}


def find_unit(name: str) -> Unit:
    """The unit of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in UNITS:
        raise ValueError(f"model: expected one of {', '.join(UNITS)}, got {name!r}")
    return UNITS[name]
