from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.datasets import HOUR_MS, MINUTE_MS, in_order, ticked
from instep.mind import import_mind, parse_time
from instep.movielens import import_movielens
from instep.reading import BadDataset
from stream.events import Action, Event, Impression, Tick, decode_event

NEWS = """\
N1	news	newspolitics	A title	An abstract	https://example.org/1	[]	[]
N2	sports	football_nfl	Another	"unbalanced quote	https://example.org/2	[]	[]
N3	news	newsworld	Third		https://example.org/3	[]	[]
"""

BEHAVIORS = """\
12	U7	11/12/2019 2:14:46 PM	N1 N3 N1	N2-0 N3-1 N9-0
10	U8	11/12/2019 12:00:00 AM		N1-1 N2-1
11	U7	11/10/2019 9:00:05 AM	N1 N3	N2-1 N1-0
"""

MOVIES = """\
movieId,title,genres
1,"American President, The (1995)",Comedy|Drama
2,Jumanji (1995),Adventure|Comedy
3,Heat (1995),Drama
4,Casino (1995),Drama
5,Nothing (2001),(no genres listed)
6,Balto (1995),Comedy
"""


def mind(tmp_path: Path, behaviors: str = BEHAVIORS, news: str = NEWS) -> list[Event]:
    (tmp_path / "behaviors.tsv").write_text(behaviors)
    (tmp_path / "news.tsv").write_text(news)
    out = tmp_path / "out.jsonl"
    n = import_mind(tmp_path, out)
    return read(out, n)


def movielens(tmp_path: Path, ratings: str, movies: str = MOVIES, seed: int = 0) -> list[Event]:
    (tmp_path / "ratings.csv").write_text(ratings)
    (tmp_path / "movies.csv").write_text(movies)
    out = tmp_path / "out.jsonl"
    n = import_movielens(tmp_path, out, seed)
    return read(out, n)


def read(out: Path, n: int) -> list[Event]:
    stream = [decode_event(line) for line in out.read_bytes().splitlines()]
    assert len(stream) == n
    assert all(a.at_ms <= b.at_ms <= a.at_ms + HOUR_MS for a, b in pairwise(stream))
    return stream


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1_000  # type: ignore[arg-type, misc]


def test_mind_slates_come_as_they_were_shown_in_order_of_time(tmp_path: Path) -> None:
    stream = mind(tmp_path)
    slates = [e for e in stream if isinstance(e, Impression)]
    assert [(i.id, i.user, i.at_ms) for i in slates] == [
        ("11", "U7", ms(2019, 11, 10, 9, 0, 5)),
        ("10", "U8", ms(2019, 11, 12)),
        ("12", "U7", ms(2019, 11, 12, 14, 14, 46)),
    ]
    assert [[c.item for c in i.candidates] for i in slates] == [
        ["N2", "N1"],
        ["N1", "N2"],
        ["N2", "N3", "N9"],
    ]
    assert slates[0].candidates[0].features == {"category": "sports", "subcategory": "football_nfl"}
    assert slates[2].candidates[2].features == {}, "N9 is not in news.tsv"


def test_mind_clicks_follow_their_slate(tmp_path: Path) -> None:
    stream = mind(tmp_path)
    at_ms = {e.id: e.at_ms for e in stream if isinstance(e, Impression)}
    clicks = [e for e in stream if isinstance(e, Action) and e.impression]
    assert [(c.impression, c.user, c.item) for c in clicks] == [
        ("11", "U7", "N2"),
        ("10", "U8", "N1"),
        ("10", "U8", "N2"),
        ("12", "U7", "N3"),
    ]
    assert all(0 < c.at_ms - at_ms[c.impression or ""] < 1_000 for c in clicks)
    assert clicks[3].features == {"category": "news", "subcategory": "newsworld"}


def test_a_mind_history_becomes_organic_clicks_before_all_slates_in_its_order(tmp_path: Path) -> None:
    """The history of the first impression in time, not in the file; the user's later ones repeat it."""
    stream = mind(tmp_path)
    organic = [e for e in stream if isinstance(e, Action) and not e.impression]
    assert [(a.user, a.item) for a in organic] == [("U7", "N1"), ("U7", "N3")]
    assert organic[0].at_ms < organic[1].at_ms < ms(2019, 11, 10, 9, 0, 5)
    assert organic[0].at_ms > ms(2019, 11, 10) - 28 * 24 * HOUR_MS


@pytest.mark.parametrize("slate", ["N1-0 N2-0 N1-1", "N1-1 N2-0 N1-0", "N1-1 N2-0 N1-1"])
def test_a_mind_item_that_is_shown_twice_is_one_candidate(tmp_path: Path, slate: str) -> None:
    stream = mind(tmp_path, f"1\tU1\t11/12/2019 2:14:46 PM\t\t{slate}\n")
    (shown,) = (e for e in stream if isinstance(e, Impression))
    assert [c.item for c in shown.candidates] == ["N1", "N2"]
    assert [e.item for e in stream if isinstance(e, Action)] == ["N1"]


@given(st.datetimes(datetime(1970, 1, 1), datetime(2105, 12, 31)))
def test_mind_times_are_read_as_strptime_reads_them(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    text = f"{moment.month}/{moment.day}/{moment.year} {moment.strftime('%I').lstrip('0')}"
    text += moment.strftime(":%M:%S %p")
    expected = datetime.strptime(text, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC)
    assert parse_time(text) == expected.timestamp() * 1_000 == moment.timestamp() * 1_000


AT = "11/12/2019 2:14:46 PM"
A_TIME = f"time: expected a time like {AT}, from 1970 to 2105, got"
A_SLATE = "slate: expected candidates like N7-0 or N7-1, got"
COLUMNS = "expected 5 columns separated by tabs (impression, user, time, history, slate), got 4"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"1\tU1\t{AT}\tN1", COLUMNS),
        (f"1\t\t{AT}\t\tN1-0", "user: expected 1..512 characters, got 0"),
        ("1\tU1\t2019-11-12\t\tN1-0", f"{A_TIME} '2019-11-12'"),
        ("1\tU1\t1/2/2019 14:14:46 PM\t\tN1-0", f"{A_TIME} '1/2/2019 14:14:46 PM'"),
        ("1\tU1\t2/30/2019 2:14:46 PM\t\tN1-0", f"{A_TIME} '2/30/2019 2:14:46 PM'"),
        (f"1\tU1\t{AT}\t\tN1-0 N2", f"{A_SLATE} 'N2'"),
        (f"1\tU1\t{AT}\t\tN1-2", f"{A_SLATE} 'N1-2'"),
        (f"1\tU1\t{AT}\tN1\t", "slate: expected at least one candidate, got none"),
        ("\x001\tU1\udcff", "expected UTF-8, got byte 0xff"),
    ],
)
def test_a_bad_mind_row_is_named_with_its_column(tmp_path: Path, line: str, message: str) -> None:
    good = "1\tU1\t11/12/2019 2:14:46 PM\t\tN1-0\n"
    (tmp_path / "behaviors.tsv").write_bytes(f"{good}{line}\n".encode(errors="surrogateescape"))
    (tmp_path / "news.tsv").write_text(NEWS)
    with pytest.raises(BadDataset) as e:
        import_mind(tmp_path, tmp_path / "out.jsonl")
    assert str(e.value) == f"{tmp_path / 'behaviors.tsv'}:2: {message}"
    assert not (tmp_path / "out.jsonl").exists()


def test_a_data_set_that_is_not_there_or_empty_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"expected a folder with behaviors.tsv of MIND, got none$"):
        import_mind(tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(
        BadDataset, match=r"nowhere: expected a folder with ratings.csv of MovieLens, got no f"
    ):
        import_movielens(tmp_path / "nowhere", tmp_path / "out.jsonl")
    with pytest.raises(BadDataset, match=r"behaviors.tsv: expected at least one impression, got none"):
        mind(tmp_path, "\n")
    with pytest.raises(BadDataset, match=r"ratings.csv: expected at least one rating, got none"):
        movielens(tmp_path, "userId,movieId,rating,timestamp\n")
    with pytest.raises(
        BadDataset, match=r"news.tsv:1: expected news, category, subcategory, .*, got 2 columns"
    ):
        mind(tmp_path, BEHAVIORS, "N1\tnews\n")


Ratings = list[tuple[int, int, float, int]]

ratings = st.lists(
    st.tuples(
        st.integers(1, 4), st.integers(1, 7), st.sampled_from([0.5, 3.5, 4.0, 5.0]), st.integers(0, 20)
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda r: r[:2],
)
GENRES = {1: "Comedy|Drama", 2: "Adventure|Comedy", 3: "Drama", 4: "Drama", 6: "Comedy"}


def as_csv(rows: Ratings) -> str:
    lines = [f"{user},{movie},{rating},{900_000_000 + at}" for user, movie, rating, at in rows]
    return "\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n"


@settings(max_examples=60, deadline=None)
@given(ratings, st.integers(0, 3))
def test_every_good_rating_is_one_click_and_its_slate_holds_only_what_the_protocol_allows(
    tmp_path_factory: pytest.TempPathFactory, rows: Ratings, seed: int
) -> None:
    """Against the protocol's words, over what was rated strictly before in (time, user, row)."""
    stream = movielens(tmp_path_factory.mktemp("movielens"), as_csv(rows), seed=seed)
    slates = {e.id: e for e in stream if isinstance(e, Impression)}
    clicks = [e for e in stream if isinstance(e, Action)]
    assert Counter((c.user, c.item) for c in clicks) == Counter(
        (str(u), str(m)) for u, m, rating, _ in rows if rating >= 4
    )
    assert Counter(c.impression for c in clicks if c.impression) == Counter(dict.fromkeys(slates, 1))
    rated: defaultdict[int, set[int]] = defaultdict(set)
    by = {(c.user, c.item): c for c in clicks}
    for user, movie, rating, at in sorted(rows, key=lambda r: (r[3], r[0])):
        known = set().union(*rated.values()) if rated else set()
        allowed = {m for m in known - rated[user] - {movie} if shared(m, movie)} if movie in known else set()
        rated[user].add(movie)
        if rating < 4:
            continue
        click = by[str(user), str(movie)]
        assert click.at_ms == (900_000_000 + at) * 1_000 + 500
        if not allowed:
            assert click.impression is None
            continue
        slate = slates[click.impression or ""]
        items = [int(c.item) for c in slate.candidates]
        assert (slate.user, slate.at_ms) == (str(user), click.at_ms - 500)
        assert len(items) == len(set(items)) <= 10
        assert set(items) <= allowed | {movie}
        assert movie in items
        for candidate in slate.candidates:
            genres = GENRES[int(candidate.item)]
            assert candidate.features == {"category": genres.split("|")[0], "genres": genres}


def shared(a: int, b: int) -> bool:
    return bool(set(GENRES.get(a, "").split("|")) & set(GENRES.get(b, "").split("|")) - {""})


def test_slates_hold_nine_others_where_there_are_enough_and_the_click_stands_anywhere(tmp_path: Path) -> None:
    movies = "movieId,title,genres\n" + "".join(f"{m},T,Drama\n" for m in range(40))
    rows = [(1, m, 3.0, m) for m in range(40)] + [(u, u % 40, 5.0, 50 + u) for u in range(2, 302)]
    stream = movielens(tmp_path, as_csv(rows), movies)
    slates = [e for e in stream if isinstance(e, Impression)]
    assert [len(i.candidates) for i in slates] == [10] * 300
    clicked = {e.impression: e.item for e in stream if isinstance(e, Action)}
    places = Counter([c.item for c in i.candidates].index(clicked[i.id]) for i in slates)
    assert min(places[place] for place in range(10)) >= 12, "30 each on average"
    shown = Counter(c.item for i in slates for c in i.candidates)
    assert min(shown.values()) > 40, "75 each on average"


def test_the_seed_decides_the_slates_and_nothing_else(tmp_path: Path) -> None:
    movies = "movieId,title,genres\n" + "".join(f"{m},T,Drama\n" for m in range(40))
    rows = as_csv([(u, m, 4.0, u * 40 + m) for u in range(5) for m in range(40)])
    first, again, other = (movielens(tmp_path, rows, movies, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert [e for e in first if isinstance(e, Action)] == [e for e in other if isinstance(e, Action)]


COMMA = "userId, movieId, rating, timestamp"
RATINGS = "userId,movieId,rating,timestamp"
LATEST = "timestamp: expected whole seconds since 1970, before 2106, got"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ratings", "userId,movie\n", f"1: expected the columns {COMMA}, got none called {COMMA[8:]}"),
        ("ratings", f"{RATINGS}\n1,2,4.0\n", "2: expected 4 columns, got 3"),
        ("ratings", f"{RATINGS}\n1,2,4,7\n1,x,4,7\n", "3: movieId: expected a whole number, got 'x'"),
        ("ratings", f"{RATINGS}\n1,2,good,7\n", "2: rating: expected a number, got 'good'"),
        ("ratings", f"{RATINGS}\n1,2,nan,7\n", "2: rating: expected a number, got 'nan'"),
        ("ratings", f"{RATINGS}\n1,2,4,1537799250123\n", f"2: {LATEST} '1537799250123'"),
        ("movies", "movieId,title\n", "1: expected the columns movieId, genres, got none called genres"),
        ("movies", "movieId,title,genres\n-1,T,Drama\n", "2: movieId: expected a whole number, got '-1'"),
        ("movies", "movieId,title,genres\n1,American President, The,Drama\n", "2: expected 3 columns, got 4"),
    ],
)
def test_a_bad_movielens_row_is_named_with_its_column(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    files = {"ratings": as_csv([(1, 1, 4.0, 5)]), "movies": MOVIES} | {name: text}
    with pytest.raises(BadDataset) as e:
        movielens(tmp_path, files["ratings"], files["movies"])
    assert str(e.value) == f"{tmp_path / name}.csv:{message}"


times = st.lists(st.integers(0, 10 * HOUR_MS), min_size=1, max_size=30).map(sorted)


@given(times)
def test_ticks_leave_no_gap_that_a_joiner_would_doubt_and_no_event_a_minute_behind(at: list[int]) -> None:
    clicks: list[Event] = [Action("click", "ada", f"n{n}", at_ms) for n, at_ms in enumerate(at)]
    stream = list(ticked(clicks))
    assert [e for e in stream if not isinstance(e, Tick)] == clicks
    assert all(0 <= b.at_ms - a.at_ms <= HOUR_MS for a, b in pairwise(stream))
    assert stream[-1].at_ms == at[-1] + 24 * HOUR_MS
    assert all(a.at_ms < b.at_ms for a, b in pairwise(stream) if isinstance(a, Tick)), "no window ends early"
    tick = at[0]
    for event in stream:
        tick = event.at_ms if isinstance(event, Tick) else tick
        assert event.at_ms - tick <= MINUTE_MS
    assert sum(isinstance(e, Tick) for e in stream) <= 24 + 11 + len(at)


@given(times, st.integers(0, 50 * HOUR_MS))
def test_ticks_go_on_until_the_longest_window_is_over(at: list[int], longest_ms: int) -> None:
    clicks: list[Event] = [Action("click", "ada", "n7", at_ms) for at_ms in at]
    stream = list(ticked(clicks, longest_ms))
    assert stream[-1].at_ms > at[-1] + longest_ms
    assert stream[-1].at_ms <= at[-1] + max(24 * HOUR_MS, longest_ms + HOUR_MS)


@given(times)
def test_clicks_behind_their_slate_are_put_in_order_of_time(at: list[int]) -> None:
    def each() -> list[Event]:
        events: list[Event] = []
        for n, at_ms in enumerate(at):
            slate = decode_event(
                b'{"type":"impression","id":"%d","user":"u","at_ms":%d,"candidates":[{"item":"n"}]}'
                % (n, at_ms)
            )
            events += [slate, Action("click", "u", "n", at_ms + 500, str(n))]
        return events

    got = list(in_order(each()))
    assert [e.at_ms for e in got] == sorted(e.at_ms for e in got)
    assert Counter(map(repr, got)) == Counter(map(repr, each()))
