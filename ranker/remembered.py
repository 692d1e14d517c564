"""Histories of users, from the profiles while they answer, and from memory for a while when they do not."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from stream.log import Unavailable
from stream.profiles import Profiles

log = logging.getLogger(__name__)

ASK_AGAIN_MS = 500
"""After the profiles did not answer, one request in so long asks them again, and the others do not wait for it."""

NOW_MS = 1_000
"""Who asks about a moment that is no longer ago asks about now, and the answer is worth remembering."""


@dataclass(frozen=True)
class Read:
    """A user's behaviours before a moment, and when they were read."""

    keys: NDArray[np.uint64]
    """``[L, F]``."""
    at_ms: NDArray[np.int64]
    """``[L]``, oldest first."""
    read_ms: int | None
    """Wall time at which the profiles said so; None if they do not answer and never told of this user."""
    is_fresh: bool
    """Whether they said so now."""


class RememberedProfiles:
    """Profiles whose last answers are remembered, so that a request is answered while they are away.

    Parameters
    ----------
    n_users
        How many answers are remembered, the most recently used ones. One takes 24 bytes a behaviour of two fields.
    """

    def __init__(
        self, profiles: Profiles, n_fields: int, limit: int, *, n_users: int, now_ms: Callable[[], int]
    ) -> None:
        self._profiles = profiles
        self._n_fields = n_fields
        self._limit = limit
        self._n_users = n_users
        self._now_ms = now_ms
        self._lock = Lock()
        self._known: OrderedDict[int, Read] = OrderedDict()
        self._ask_ms = 0

    def get(self, user: int, at_ms: int) -> Read:
        """The behaviours strictly before a moment; from any thread."""
        with self._lock:
            now_ms = self._now_ms()
            may_ask = now_ms >= self._ask_ms
            if may_ask and self._ask_ms:
                self._ask_ms = now_ms + ASK_AGAIN_MS
        if may_ask:
            try:
                keys, at = self._profiles.get(user, at_ms, self._limit)
            except Unavailable as e:
                self._missed(e)
            else:
                return self._remember(user, Read(keys, at, now_ms, True), at_ms >= now_ms - NOW_MS)
        with self._lock:
            known = self._known.get(user)
        if known is None:
            return Read(np.zeros((0, self._n_fields), np.uint64), np.zeros(0, np.int64), None, False)
        n = int(np.searchsorted(known.at_ms, at_ms))
        return Read(known.keys[:n], known.at_ms[:n], known.read_ms, False)

    def _missed(self, error: Unavailable) -> None:
        with self._lock:
            if not self._ask_ms:
                log.warning("profiles are away, answering with what is remembered error=%s", error)
            self._ask_ms = self._now_ms() + ASK_AGAIN_MS

    def _remember(self, user: int, read: Read, is_whole: bool) -> Read:
        with self._lock:
            if self._ask_ms:
                log.info("profiles answer again")
                self._ask_ms = 0
            if not is_whole:
                return read
            self._known[user] = read
            self._known.move_to_end(user)
            if len(self._known) > self._n_users:
                self._known.popitem(last=False)
        return read


__all__ = ["Read", "RememberedProfiles"]
