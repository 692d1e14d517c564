"""MovieLens as an event log: every good rating becomes a click in a slate with movies that were not rated.

Harper and Konstan, *The MovieLens Datasets: History and Context*, ACM TiiS 2015. The files are
``ratings.csv`` (userId, movieId, rating, timestamp) and ``movies.csv`` (movieId, title, genres).

The protocol
    In order of time, a rating of 4 or more is a click. The movie is shown in a slate, at a random place, with
    up to nine others that share a genre with it, that somebody has rated before, and that this user has not
    rated so far. They are drawn with a seed; one that shares more genres comes more often. Where the movie
    itself was never rated before, or nothing like it is there, the click is organic: it extends the history
    and is no label. Lower ratings are no events, but count as rated.

What it leaks, and what its figures do not mean
    - Slates are made around what is known to be clicked: exactly one click in each. AUC within such slates
      says which movies a user rates well, not what a real slate would have earned.
    - The others are drawn evenly from what exists, while clicks follow popularity: to know how popular an
      item is helps much here. Only ratings up to that time decide what exists and what was rated, so the
      future does not enter, and a movie that nobody knows is never the click.
    - A movie that the user rates later counts as not clicked now.
    - People rate dozens of movies in one sitting, long after they saw them, in the order in which the site
      showed them: neighbours in time resemble each other for reasons of the site's.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from random import Random

import numpy as np

from instep.datasets import CLICK_AFTER_MS, END_S, in_order, ticked
from instep.reading import BadDataset, Progress, find, read_csv, whole
from stream.events import Action, Candidate, Event, Impression, Value
from stream.files import write_events

CLICK = 4.0
OTHERS = 9
NO_GENRES = "(no genres listed)"


def import_movielens(
    folder: str | Path, out: str | Path, seed: int = 0, progress: Progress | None = None
) -> int:
    """Write the log of a folder with ``ratings.csv`` and ``movies.csv``, or both as ``.gz``, to ``out``.

    An item's features are ``category``, its first genre, and ``genres``, all of them as one.

    Returns
    -------
    The number of events written.

    Raises
    ------
    BadDataset
        Naming file, row and column.
    LogError
        If ``out`` cannot be written.
    """
    ratings, movies = find(folder, "ratings.csv", "MovieLens"), find(folder, "movies.csv", "MovieLens")
    progress = progress or Progress()
    size = ratings.stat().st_size
    progress.expect(movies.stat().st_size + 2 * size)
    genres = _read_movies(movies, progress)
    user, movie, rating, at_s = _read_ratings(ratings, progress)
    order = progress.over(np.lexsort((user, at_s)).tolist(), len(user), size)
    slates = _Slates(genres, Random(seed))
    events = (event for n in order for event in slates.rate(n, user[n], movie[n], rating[n], at_s[n] * 1_000))
    return write_events(out, ticked(in_order(events)))


class _Slates:
    """What has been rated so far, by whom, and the slates that can be made of it."""

    def __init__(self, genres: dict[int, tuple[str, ...]], chance: Random) -> None:
        self._genres = genres
        self._features: dict[int, dict[str, Value]] = {
            movie: {"category": names[0], "genres": "|".join(names)}
            for movie, names in genres.items()
            if names
        }
        self._chance = chance
        self._known: set[int] = set()
        self._by_genre: defaultdict[str, list[int]] = defaultdict(list)
        self._rated: defaultdict[int, set[int]] = defaultdict(set)

    def rate(self, n: int, user: int, movie: int, rating: float, at_ms: int) -> Iterator[Event]:
        """The events that rating ``n`` makes."""
        if rating >= CLICK:
            others = self._others(user, movie) if movie in self._known else []
            if others:
                slate = [*others]
                slate.insert(int(self._chance.random() * (len(others) + 1)), movie)
                candidates = [Candidate(str(m), self._features.get(m, {})) for m in slate]
                yield Impression(f"r{n}", str(user), at_ms, candidates)
            features = self._features.get(movie, {})
            of = f"r{n}" if others else None
            yield Action("click", str(user), str(movie), at_ms + CLICK_AFTER_MS, of, features)
        self._rated[user].add(movie)
        if movie not in self._known:
            self._known.add(movie)
            for genre in self._genres.get(movie, ()):
                self._by_genre[genre].append(movie)

    def _others(self, user: int, movie: int) -> list[int]:
        """Up to ``OTHERS`` known movies that share a genre with this one and that the user has not rated."""
        lists = [self._by_genre[genre] for genre in self._genres.get(movie, ())]
        n_all = sum(map(len, lists))
        taken = self._rated[user] | {movie}
        others: list[int] = []
        for _ in range(10 * OTHERS if n_all else 0):
            place = int(self._chance.random() * n_all)
            for movies in lists:
                if place < len(movies):
                    break
                place -= len(movies)
            if movies[place] not in taken:
                taken.add(movies[place])
                others.append(movies[place])
                if len(others) == OTHERS:
                    break
        return others


def _read_movies(path: Path, progress: Progress) -> dict[int, tuple[str, ...]]:
    genres = {}
    for n, (movie, names) in read_csv(path, ("movieId", "genres"), progress):
        key = whole(f"{path}:{n}: movieId", movie)
        genres[key] = () if names == NO_GENRES else tuple(name for name in names.split("|") if name)
    return genres


def _read_ratings(path: Path, progress: Progress) -> tuple[array[int], array[int], array[float], array[int]]:
    """User, movie, rating and time in s of each rating, in the order of the file."""
    users, movies, ratings, times = array("q"), array("q"), array("d"), array("q")
    columns = ("userId", "movieId", "rating", "timestamp")
    for n, (user, movie, rating, at_s) in read_csv(path, columns, progress):
        users.append(whole(f"{path}:{n}: userId", user))
        movies.append(whole(f"{path}:{n}: movieId", movie))
        ratings.append(_number(f"{path}:{n}: rating", rating))
        times.append(whole(f"{path}:{n}: timestamp", at_s, "whole seconds since 1970, before 2106", END_S))
    if not users:
        raise BadDataset(path, "at least one rating", "none")
    return users, movies, ratings, times


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise BadDataset(where, "a number", repr(text[:60]))
    return value
