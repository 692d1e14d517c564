from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.datasets import Account
from instep.kuairand import FEATURES, SIGNALS, TWICE, USER, import_kuairand, windows
from instep.reading import BadDataset
from instep.settings import check
from stream.events import Event
from stream.fields import Fields
from tests.instep.importing import actions_of, read, slates_of, write

AT = 1_650_485_801_301
LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view"
)
LOG += ",play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
VIDEOS = """\
video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,tag
4,440,NORMAL,2020-07-08,ShortImport,1,17200.0,720,"12,65"
1,441,AD,2020-07-08,ShortImport,1,17200.0,720,7
3,442,NORMAL,2020-07-08,ShortImport,1,,720,
"""
OF_VIDEO = {
    1: {"category": "7", "tags": "7", "author": "441", "video_type": "AD"},
    3: {"author": "442", "video_type": "NORMAL"},
    4: {"category": "12", "tags": "12,65", "author": "440", "video_type": "NORMAL"},
}
USERS = f"user_id,{','.join(USER)},onehot_feat0\n" + "".join(
    f'{u},full_active,0,,"(0,10]","[10,100)",0,730+,{u}\n' for u in (1, 2)
)
OF_USER = {
    "user_active_degree": "full_active",
    "is_live_streamer": "0",
    "follow_user_num_range": "(0,10]",
    "fans_user_num_range": "[10,100)",
    "friend_user_num_range": "0",
    "register_days_range": "730+",
}
NAMES = {
    "log_standard_4_08_to_4_21_pure.csv": LOG,
    "log_standard_4_22_to_5_08_pure.csv": LOG,
    "log_random_4_22_to_5_08_pure.csv": LOG,
    "user_features_pure.csv": USERS,
    "video_features_basic_pure.csv": VIDEOS,
}


def row(user: int, video: int, at: int, given: str = "", play: int = 0, tab: int = 1, random: int = 0) -> str:
    """A row of a log; ``given`` are the columns that are 1."""
    signals = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view")
    marks = ",".join(str(int(name in given.split())) for name in signals)
    return f"{user},{video},20220421,400,{AT + at},{marks},{play},104400,0,0,0,{random},{tab}"


def kuairand(
    folder: Path,
    logs: tuple[str, str, str],
    memory: int = 1 << 20,
    packed: bool = False,
    others: dict[str, str] | None = None,
) -> tuple[list[Event], Account]:
    """The import of what stands under the heads of the three logs."""
    for (name, head), text in zip(NAMES.items(), (*logs, "", ""), strict=True):
        of = (others or {}).get(name.partition("_")[0], head)
        write(folder / "data" / (name + ".gz" * packed), f"{of}\n{text}" if text else of)
    account = import_kuairand(folder, folder / "out.jsonl", memory)
    assert {path.name for path in folder.iterdir()} == {"data", "out.jsonl"}, "no run is left"
    return read(folder / "out.jsonl", account.n_events), account


def test_impressions_come_as_they_were_with_what_is_known_of_them(tmp_path: Path) -> None:
    early = "\n".join([row(2, 4, 9), row(1, 1, 5, "is_click long_view", 30_000)])
    stream, account = kuairand(tmp_path, (early, row(3, 3, 90), row(1, 4, 7, "is_like", 40, 4, 1)))
    assert [(s.user, s.at_ms - AT, [c.item for c in s.candidates]) for s in slates_of(stream)] == [
        ("1", 5, ["1"]),
        ("1", 7, ["4"]),
        ("2", 9, ["4"]),
        ("3", 90, ["3"]),
    ]
    assert [s.context for s in slates_of(stream)] == [
        {**OF_USER, "tab": "1", "random": "0"},
        {**OF_USER, "tab": "4", "random": "1"},
        {**OF_USER, "tab": "1", "random": "0"},
        {"tab": "1", "random": "0"},
    ]
    assert [s.candidates[0].features for s in slates_of(stream)] == [OF_VIDEO[i] for i in (1, 4, 4, 3)]
    assert [(a.kind, a.user, a.item, a.at_ms - AT) for a in actions_of(stream)] == [
        ("like", "1", "4", 7 + 500),
        ("click", "1", "1", 5 + 7_000),
        ("long_view", "1", "1", 5 + 18_000),
    ]
    assert account.told() == "4 rows; skipped none; 1 of users without features, 4 slates"


@pytest.mark.parametrize("play", [0, 500, 6_999, 7_000, 17_999, 18_000, 600_000, 10**9])
def test_a_signal_comes_when_the_play_has_given_it_and_within_its_window(tmp_path: Path, play: int) -> None:
    given = " ".join(column for column, _ in SIGNALS.values())
    stream, _ = kuairand(tmp_path, (row(1, 1, 0, given, play), "", ""))
    (slate,) = slates_of(stream)
    after = {a.kind: a.at_ms - slate.at_ms for a in actions_of(stream)}
    assert after == {kind: max(500, min(play, most)) for kind, (_, most) in SIGNALS.items()}
    assert all(ms <= windows()[kind] for kind, ms in after.items())
    assert all(a.impression == slate.id for a in actions_of(stream))


shown = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 5),
        st.integers(0, 3),
        st.sampled_from(["", "is_click", "is_click is_like"]),
        st.integers(0, 9_000),
        st.integers(0, 1),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(shown, shown, st.integers(1, 4_000))
def test_rows_of_a_user_at_one_time_and_tab_are_one_slate(
    tmp_path_factory: pytest.TempPathFactory, first: list[tuple[int, int, int, str, int, int, int]],
    second: list[tuple[int, int, int, str, int, int, int]], memory: int,
) -> None:  # fmt: skip
    """Against a loop over all rows that keeps them; sorted on the disk or not."""
    logs = ("\n".join(row(*r) for r in first), "", "\n".join(row(*r) for r in second))
    stream, account = kuairand(tmp_path_factory.mktemp("kuairand"), logs, memory)
    expected: defaultdict[tuple[str, int, str, str], set[str]] = defaultdict(set)
    done, seen = set(), set()
    for user, video, at, signals, play, tab, random in first + second:
        if (user, video, at, tab) in seen:
            continue
        seen.add((user, video, at, tab))
        expected[str(user), AT + at, str(tab), str(random)].add(str(video))
        for kind, (column, most) in SIGNALS.items():
            if column in signals.split():
                done.add((str(user), str(video), kind, AT + at + max(500, min(play, most))))
    slates = slates_of(stream)
    assert len(slates) == len(expected) == account.noted["slates"]
    assert len({s.id for s in slates}) == len(slates)
    for s in slates:
        of = (s.user, s.at_ms, str(s.context["tab"]), str(s.context["random"]))
        assert {c.item for c in s.candidates} == expected[of]
        assert all(c.features == OF_VIDEO.get(int(c.item), {}) for c in s.candidates)
    assert {(a.user, a.item, a.kind, a.at_ms) for a in actions_of(stream)} == done
    assert account.skipped[TWICE] == len(first) + len(second) - len(seen)
    unknown = set(range(1, 6)) - OF_VIDEO.keys()
    assert account.noted["of videos without features"] == sum(video in unknown for _, video, *_ in seen)


def test_gzipped_files_give_the_same_log(tmp_path: Path) -> None:
    logs = (row(1, 1, 5, "is_click"), row(2, 4, 9), "")
    assert kuairand(tmp_path / "a", logs) == kuairand(tmp_path / "b", logs, packed=True)


def test_its_settings_declare_what_its_events_bring(tmp_path: Path) -> None:
    fields = Fields(check({"features": FEATURES}).features)
    users = USERS.replace(",0,,", ",0,1,")
    stream, _ = kuairand(tmp_path, (row(1, 4, 0), "", ""), others={"user": users})
    (slate,) = slates_of(stream)
    assert 0 not in fields.item_keys(slate.candidates[0].item, slate.candidates[0].features)
    assert 0 not in fields.side_keys(slate.user, slate.context)


WHOLE = "expected a whole number, got"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log", f"{LOG.replace('tab', 'tap')}", ":1: expected the columns user_id, "),
        ("log", f"{LOG}\n{row(1, 1, 0)},9", ":2: expected 19 columns, got 20"),
        ("log", f"{LOG}\n{row(1, 1, 0)}\n{row(1, 1, 0, play=-1)}", f":3: play_time_ms: {WHOLE} '-1'"),
        ("log", f"{LOG}\n{row(1, 1, 0, random=2)}", ":2: is_rand: expected 0 or 1, got '2'"),
        ("log", f"{LOG}\n{row(1, 1, 10**15)}", ":2: time_ms: expected milliseconds since 1970, before 2106, got "),
        ("log", LOG, ": expected at least one row, got none"),
        ("user", f"{USERS}x,,,,,,,,", ":4: user_id: expected a whole number, got 'x'"),
        ("video", f"{VIDEOS}-3,,,,,,,,", ":5: video_id: expected a whole number, got '-3'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_column(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(BadDataset) as e:
        kuairand(tmp_path, (("" if name == "log" else row(1, 1, 0)), "", ""), others={name: text})
    path = next(n for n in NAMES if n.startswith(name))
    assert str(e.value).startswith(f"{tmp_path / 'data' / path}{message}")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_files_that_are_missing_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"expected a folder with log_standard_\*.csv or log_random_\*.csv"):
        import_kuairand(tmp_path, tmp_path / "out.jsonl")
    write(tmp_path / "log_random_x.csv", LOG)
    with pytest.raises(BadDataset, match=r"expected a folder with user_features\*.csv of KuaiRand, got none"):
        import_kuairand(tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(BadDataset, match=r"got no folder"):
        import_kuairand(tmp_path / "gone", tmp_path / "out.jsonl")
