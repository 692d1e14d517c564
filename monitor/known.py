"""What all windows share: what is declared, and what the samples so far have told of keys."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.popular import Popular
from monitor.seen import Seen


@dataclass(frozen=True)
class Known:
    """Kinds and fields in the order of their columns, and what is known of keys."""

    kinds: tuple[str, ...]
    item_fields: tuple[str, ...]
    side_fields: tuple[str, ...]
    k: int
    """How many behaviours a search finds."""
    seen: dict[str, Seen]
    """By field, since when each key is known."""
    popular: Popular
