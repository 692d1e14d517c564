"""What goes over HTTP: the messages of the ranker's API, and the OpenAPI schema that is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from stream.events import Action, AtMs, Candidate, Id, Impression, Value, Version

Features = dict[str, Value]


class Behaviour(Struct, frozen=True, forbid_unknown_fields=True):
    """What the user did before, for who keeps histories elsewhere."""

    item: Id
    at_ms: AtMs
    features: Features = {}


class RankRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A slate to be scored for a user."""

    user: Id
    candidates: list[Candidate]
    context: Features = {}
    """Features of user and context."""
    behaviours: list[Behaviour] | None = None
    """In the place of the live profile's."""
    at_ms: AtMs | None = None
    """The moment that is asked about; now, if left out. Nothing at or after it is read."""
    log: bool = False
    """Whether the slate counts as shown: the impression goes to the event log."""


class HistoryUsed(Struct, frozen=True):
    """The behaviours that the scores were made with."""

    n: int
    source: Literal["profile", "memory", "request", "none"]
    """``memory``: the profiles do not answer, this is what they said last; ``none``: nor are they remembered."""
    age_ms: int | None
    """How long ago the profile was read."""
    digest: str
    """See `stream.history.digest`."""


class RankResponse(Struct, frozen=True, omit_defaults=True):
    """Scores, and what they were made with."""

    impression: str
    """An id for this slate, for the actions that follow."""
    scores: list[float]
    """What showing each is worth, in the order asked: the sum over kinds of action of ``ranker.weights`` times
    probability. Without weights the probability of the first kind, say a click."""
    version: Version
    """Of model, vectors and codes alike: epoch, step."""
    index_version: Version
    """The newest that the index was seen to have."""
    age_ms: int
    """Since the newest sample that this Version has learned."""
    behind_ms: int
    """Since the index was last seen to hold nothing newer."""
    history: HistoryUsed
    logged: bool
    """Whether the impression is on its way to the event log; False if that was not asked, or has no room."""
    kinds: dict[str, list[float]] = {}
    """Of a model of several kinds of action: the probability of each, in the order asked."""


class NewImpression(Struct, frozen=True, tag_field="type", tag="impression", forbid_unknown_fields=True):
    """A slate that was shown."""

    id: Id
    user: Id
    candidates: Annotated[list[Candidate], Meta(min_length=1, max_length=10_000)]
    context: Features = {}
    at_ms: AtMs | None = None
    """Now, if left out."""
    version: Version | None = None
    digest: Annotated[str, Meta(max_length=64)] = ""

    def event(self, now_ms: int) -> Impression:
        at_ms = now_ms if self.at_ms is None else self.at_ms
        return Impression(self.id, self.user, at_ms, self.candidates, self.context, self.version, self.digest)


class NewAction(Struct, frozen=True, tag_field="type", tag="action", forbid_unknown_fields=True):
    """What a user did to an item."""

    kind: Id
    user: Id
    item: Id
    impression: Id | None = None
    features: Features = {}
    at_ms: AtMs | None = None
    """Now, if left out."""

    def event(self, now_ms: int) -> Action:
        at_ms = now_ms if self.at_ms is None else self.at_ms
        return Action(self.kind, self.user, self.item, at_ms, self.impression, self.features)


class Events(Struct, frozen=True, forbid_unknown_fields=True):
    """Events of one or many users; each is judged by itself."""

    events: list[NewImpression | NewAction]


class RawEvents(Struct, frozen=True, forbid_unknown_fields=True):
    """The same before they are judged."""

    events: list[msgspec.Raw]


class EventResult(Struct, frozen=True, omit_defaults=True):
    """What became of one event."""

    ok: bool
    error: str = ""


class EventsResponse(Struct, frozen=True):
    """In the order sent. One that was taken is on its way to the log, and is sent again until it is there."""

    accepted: int
    results: list[EventResult]


class SimilarQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """How many, at most."""

    n: Annotated[int, Meta(ge=1, le=1_000)] = 10


class SimilarItem(Struct, frozen=True):
    """An item and in how many bits its code differs."""

    item: str
    distance: int


class SimilarResponse(Struct, frozen=True):
    """The nearest first, of the items that this ranker was asked about of late."""

    item: str
    bits: int
    version: Version
    similar: list[SimilarItem]


class ExplainQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """A user and a candidate; features as JSON objects."""

    user: Id
    item: Id
    features: str = ""
    """Of the item; those that it was last seen with, if left out."""
    context: str = "{}"


class Attended(Struct, frozen=True):
    """A behaviour that the candidate attends over."""

    item: str | None
    """None if this ranker has not seen the item of late."""
    key: str
    at_ms: int
    part: Literal["long", "short"]
    """``long``: picked by the search; ``short``: among the most recent."""
    distance: int
    """In bits, of the codes of candidate and behaviour."""
    weight: float
    """Its attention, mean of the heads; those of a part sum up to 1."""


class ExplainResponse(Struct, frozen=True, omit_defaults=True):
    """What a score is made of; the behaviours that weigh most first."""

    item: str
    score: float
    version: Version
    by_category: bool
    """Whether the model is young, and its search compares categories alone."""
    n_behaviours: int
    behaviours: list[Attended]
    kinds: dict[str, float] = {}
    """Of a model of several kinds of action: the probability of each."""


class VersionResponse(Struct, frozen=True):
    """What this ranker answers with."""

    instep: str
    version: Version | None
    index_version: Version | None
    age_ms: int | None
    behind_ms: int


class Problem(Struct, frozen=True):
    """Why there is no other answer: where, what was expected, what came."""

    error: str


MESSAGES = (
    *(RankRequest, RankResponse, Events, EventsResponse, SimilarResponse, ExplainResponse, VersionResponse),
    Problem,
)


def features_schema() -> dict[str, Any]:
    """Features as JSON schema."""
    return msgspec.json.schema(Features)


REF = "#/components/schemas/{name}"


def schemas() -> dict[str, Any]:
    """The messages as JSON schema, by name."""
    _, found = msgspec.json.schema_components(MESSAGES, ref_template=REF)
    return found


def ref(message: type[Struct]) -> dict[str, str]:
    """Where a message's schema stands."""
    return {"$ref": REF.format(name=message.__name__)}
