"""KuaiRand as an event log: impressions as they were, with what was done, some of them of random videos.

Gao et al., *KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos*, CIKM 2022. The
files are ``log_standard_*.csv``, ``log_random_*.csv``, ``user_features*.csv`` and ``video_features_basic*.csv``;
what their columns mean stands in the set's README. ``video_features_statistic*.csv`` is not read: its averages are
over the whole month, so they know the future.

What is assumed, because the files do not say it
    - Rows of one user with the same ``time_ms``, ``tab`` and ``is_rand`` were shown together: one slate. Where times
      are those of single videos, each is a slate of its own, and gauc is by user only.
    - ``time_ms`` is when the video is shown, and a signal comes once the video has been played for long enough to
      give it: ``click`` after 7 s at most and ``long_view`` after 18 s at most, which is how the set defines
      them (its click is a valid play where there is no cover to click), the others when the play ends, after
      10 minutes at most. Half a second is the least. So the history of a slate holds no click that a play still
      under way would have had to become.
    - The first key in ``tag`` is the category.

Which rows are left out, and counted
    Those of a user, video, time and tab that were there before: of the later file, or further down.

What it leaks, and what its figures do not mean
    - Kuaishou's policies picked the videos of the standard logs for the user. Only those where ``random`` is 1
      say what a model would have earned by itself.
    - User features come without a date, so they may know what came after an impression. KuaiRand-Pure leaves out
      most of what a user saw, so its histories have gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from instep.datasets import CLICK_AFTER_MS, END_S, Account, in_order, ticked
from instep.reading import BadDataset, Progress, read_csv, whole
from instep.sorting import MEMORY, Sorter
from stream.events import Action, Candidate, Event, Impression, Value
from stream.files import write_events

SIGNALS = {
    "click": ("is_click", 7_000),
    "long_view": ("long_view", 18_000),
    "like": ("is_like", 600_000),
    "follow": ("is_follow", 600_000),
    "comment": ("is_comment", 600_000),
    "forward": ("is_forward", 600_000),
    "hate": ("is_hate", 600_000),
}
"""By kind of action: its column, and after how many ms of playing it is given at the latest."""

LOG = ("user_id", "video_id", "time_ms", "tab", "is_rand", "play_time_ms")
USER = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
)
"""Features of a user; the counts come as the ranges that the set makes of them."""
VIDEO = ("video_id", "author_id", "video_type", "tag")
TWICE = "twice the same"

FEATURES = (
    [{"name": name, "of": "item"} for name in ("category", "author")]
    + [{"name": name, "of": "user"} for name in USER]
    + [{"name": name, "of": "context"} for name in ("tab", "random")]
)


def windows() -> dict[str, int]:
    """For a joiner: within how many ms of the slate each kind of action comes."""
    return {kind: at_most_ms for kind, (_, at_most_ms) in SIGNALS.items()}


class _Row(NamedTuple):
    """A row of a log on its way through the sorts; ``kinds`` are those of SIGNALS that came, and after how long."""

    user: int
    video: int
    at_ms: int
    tab: str
    random: str
    kinds: list[tuple[str, int]]
    features: dict[str, Value] | None = None
    """None until the video was looked up, and if it was not found."""


_encode = msgspec.msgpack.Encoder().encode
_row = msgspec.msgpack.Decoder(_Row).decode
_features = msgspec.msgpack.Decoder(dict[str, Value]).decode


def import_kuairand(
    folder: str | Path, out: str | Path, memory: int = MEMORY, progress: Progress | None = None
) -> Account:
    """Write the log of a folder with KuaiRand's files, or of one with a folder ``data`` of them, to ``out``.

    The logs are sorted by video to meet the video's features, and then by time, on the disk; memory grows with
    the users only.

    Raises
    ------
    BadDataset
        Naming file, row and column.
    LogError
        If ``out`` cannot be written.
    OSError
        If there is no room to sort beside it.
    """
    folder = Path(folder)
    if (folder / "data").is_dir():
        folder /= "data"
    # The standard files before the random one, and the earlier ones first, as their names sort.
    logs = _files(folder, "log_standard_", "log_random_")
    users, videos = _files(folder, "user_features"), _files(folder, "video_features_basic")
    progress, account = progress or Progress(), Account()
    n_bytes = {of: sum(path.stat().st_size for path in of) for of in (logs, users, videos)}
    progress.expect(3 * n_bytes[logs] + n_bytes[users] + 2 * n_bytes[videos])

    with ExitStack() as stack:
        by_video, of_videos, by_time = (
            stack.enter_context(Sorter(Path(out), max(1, memory // 3))) for _ in range(3)
        )
        rows = by_video.sort(
            ((row.video, _encode(row)) for row in _rows(logs, account, progress)),
            lambda share: progress.add(share * n_bytes[logs]),
        )
        features = of_videos.sort(
            _videos(videos, progress), lambda share: progress.add(share * n_bytes[videos])
        )
        joined = ((row.at_ms, _encode(row)) for row in _joined(rows, features))
        timed = by_time.sort(joined, lambda share: progress.add(share * n_bytes[logs]))
        of_user = _users(users, progress)
        events = _events(timed, of_user, account)
        account.n_events = write_events(out, ticked(in_order(events)))
    return account


def _files(folder: Path, *prefixes: str) -> tuple[Path, ...]:
    found = tuple(
        path
        for prefix in prefixes
        for path in sorted(folder.glob(f"{prefix}*"))
        if path.name.endswith((".csv", ".csv.gz"))
    )
    if not found:
        names = " or ".join(f"{prefix}*.csv" for prefix in prefixes)
        got = "none" if folder.is_dir() else "no folder"
        raise BadDataset(folder, f"a folder with {names} of KuaiRand", got)
    return found


def _rows(paths: Iterable[Path], account: Account, progress: Progress) -> Iterator[_Row]:
    columns = (*LOG, *(column for column, _ in SIGNALS.values()))
    for path in paths:
        for n, (user, video, time, tab, random, play, *signals) in read_csv(path, columns, progress):
            where = f"{path}:{n}"
            at_ms = whole(f"{where}: time_ms", time, "milliseconds since 1970, before 2106", END_S * 1_000)
            for name, value in zip(("is_rand", *columns[len(LOG) :]), (random, *signals), strict=True):
                if value not in ("0", "1"):
                    raise BadDataset(f"{where}: {name}", "0 or 1", repr(value[:60]))
            played_ms = whole(f"{where}: play_time_ms", play)
            kinds = [
                (kind, max(CLICK_AFTER_MS, min(played_ms, at_most_ms)))
                for (kind, (_, at_most_ms)), given in zip(SIGNALS.items(), signals, strict=True)
                if given == "1"
            ]
            account.n_rows += 1
            ids = whole(f"{where}: user_id", user), whole(f"{where}: video_id", video)
            yield _Row(*ids, at_ms, tab, random, kinds)
    if not account.n_rows:
        raise BadDataset(next(iter(paths)), "at least one row", "none")


def _videos(paths: Iterable[Path], progress: Progress) -> Iterator[tuple[int, bytes]]:
    for path in paths:
        for n, (video, author, kind, tags) in read_csv(path, VIDEO, progress):
            first = tags.partition(",")[0].strip()
            named = {"category": first, "tags": tags, "author": author, "video_type": kind}
            features = {name: value for name, value in named.items() if value}
            yield whole(f"{path}:{n}: video_id", video), _encode(features)


def _users(paths: Iterable[Path], progress: Progress) -> dict[int, dict[str, Value]]:
    return {
        whole(f"{path}:{n}: user_id", user): {
            name: value for name, value in zip(USER, values, strict=True) if value
        }
        for path in paths
        for n, (user, *values) in read_csv(path, ("user_id", *USER), progress)
    }


def _joined(rows: Iterable[tuple[int, bytes]], features: Iterator[tuple[int, bytes]]) -> Iterator[_Row]:
    """Each row with the features of its video, both in order of videos; the first of a video counts."""
    video, raw = next(features, (-1, b""))
    for key, same in groupby(rows, itemgetter(0)):
        while video < key:
            if (found := next(features, None)) is None:
                break
            video, raw = found
        known = _features(raw) if video == key else None
        for _, row in same:
            yield _row(row)._replace(features=known)


def _events(
    timed: Iterable[tuple[int, bytes]], users: dict[int, dict[str, Value]], account: Account
) -> Iterator[Event]:
    """Each slate, and right behind it what was done."""
    for at_ms, same in groupby(timed, itemgetter(0)):
        slates: dict[tuple[int, str, str], dict[int, _Row]] = {}
        seen = set[tuple[int, int, str]]()
        for _, raw in same:
            row = _row(raw)
            if (row.user, row.video, row.tab) in seen:
                account.skipped[TWICE] += 1
                continue
            seen.add((row.user, row.video, row.tab))
            slates.setdefault((row.user, row.tab, row.random), {})[row.video] = row
        for (user, tab, random), shown in sorted(slates.items(), key=itemgetter(0)):
            name = f"{user}-{tab}-{random}-{at_ms}"
            account.noted["of users without features"] += len(shown) * (user not in users)
            account.noted["of videos without features"] += sum(r.features is None for r in shown.values())
            context = {**users.get(user, {}), "tab": tab, "random": random}
            candidates = [Candidate(str(video), row.features or {}) for video, row in shown.items()]
            account.noted["slates"] += 1
            yield Impression(name, str(user), at_ms, candidates, context)
            for video, row in shown.items():
                for kind, after_ms in row.kinds:
                    item, features = str(video), row.features or {}
                    yield Action(kind, str(user), item, at_ms + after_ms, name, features)
