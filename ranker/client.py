"""A typed client of the ranker's API.

with RankerClient("http://127.0.0.1:8460") as ranker:
    answer = ranker.rank("ada", [Candidate("n7", {"category": "sport"})], log=True)
    ranker.send([NewAction("click", "ada", "n7", answer.impression)])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx2 as httpx
import msgspec
from msgspec import Struct

from ranker.api import (
    Behaviour,
    Events,
    EventsResponse,
    ExplainResponse,
    NewAction,
    NewImpression,
    Problem,
    RankRequest,
    RankResponse,
    SimilarResponse,
    VersionResponse,
)
from stream.events import Candidate, Value

T = TypeVar("T", bound=Struct)


class RankerError(Exception):
    """The ranker refused, or did not answer: ``status`` is 0 then. The message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RankerClient:
    """Asks one ranker over connections that are kept; may be shared by threads.

    Parameters
    ----------
    token
        One of ``ranker.tokens``, if there are any.
    timeout_s
        After which a ranker that does not answer has refused.

    Raises
    ------
    RankerError
        By every method, and at once for a URL or a token that none can have.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 2.0) -> None:
        _check(url, token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def rank(
        self,
        user: str,
        candidates: Sequence[Candidate],
        context: Mapping[str, Value] | None = None,
        *,
        behaviours: Sequence[Behaviour] | None = None,
        at_ms: int | None = None,
        log: bool = False,
    ) -> RankResponse:
        """Scores in the order of the candidates; ``log`` for a slate that will be shown."""
        past = None if behaviours is None else list(behaviours)
        request = RankRequest(user, list(candidates), dict(context or {}), past, at_ms, log)
        return self._asked("POST", "/v1/rank", RankResponse, request)

    def send(self, events: Sequence[NewImpression | NewAction]) -> EventsResponse:
        """Send what happened; what was not taken has ``ok`` false, and may be sent again."""
        return self._asked("POST", "/v1/events", EventsResponse, Events(list(events)))

    def similar(self, item: str, n: int = 10) -> SimilarResponse:
        """The items whose codes are nearest."""
        return self._asked("GET", f"/v1/similar/{quote(item, safe='')}", SimilarResponse, params={"n": n})

    def explain(
        self, user: str, candidate: Candidate, context: Mapping[str, Value] | None = None
    ) -> ExplainResponse:
        """What the score of a candidate is made of."""
        params = {"user": user, "item": candidate.item, "context": _json(dict(context or {}))}
        if candidate.features:
            params["features"] = _json(candidate.features)
        return self._asked("GET", "/v1/explain", ExplainResponse, params=params)

    def version(self) -> VersionResponse:
        """What it answers with."""
        return self._asked("GET", "/version", VersionResponse)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(
        self,
        method: str,
        path: str,
        kind: type[T],
        message: Struct | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> T:
        body = None if message is None else msgspec.json.encode(message)
        try:
            answer = self._http.request(method, path, content=body, params=params)
        except httpx.HTTPError as e:
            raise RankerError(0, f"{self._http.base_url}: {e}") from e
        try:
            if answer.status_code == 200 or (kind is EventsResponse and answer.status_code in (400, 503)):
                return msgspec.json.decode(answer.content, type=kind)
            raise RankerError(answer.status_code, msgspec.json.decode(answer.content, type=Problem).error)
        except msgspec.DecodeError:
            raise RankerError(answer.status_code, answer.text[:200]) from None


def _check(url: str, token: str | None) -> None:
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise RankerError(0, f"ranker: expected a URL as http://HOST:PORT, got {url!r}")
    if token and not (token.isascii() and token.isprintable()):
        raise RankerError(0, "ranker: expected a token of printable ASCII characters, got others")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


__all__ = ["Behaviour", "Candidate", "NewAction", "NewImpression", "RankerClient", "RankerError"]
