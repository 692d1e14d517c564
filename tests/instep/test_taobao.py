from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.datasets import Account, sample
from instep.reading import BadDataset
from instep.replay import Refresh, replay
from instep.settings import check
from instep.taobao import END_S, FIRST_S, KINDS, OUTSIDE, TWICE, import_taobao, windows
from stream.events import Event, Impression
from tests.instep.importing import actions_of, read, slates_of, write

Rows = list[tuple[int, int, str, int]]
BEHAVIOURS = ("pv", "fav", "cart", "buy")
KIND = dict(zip(BEHAVIOURS, KINDS, strict=True))
WINDOW_S = 8


def category_of(item: int) -> int:
    return 90 + item % 2


rows_of_few = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(1, 6), st.sampled_from(["pv", "pv", *BEHAVIOURS]), st.integers(0, 20)
    ),
    min_size=1,
    max_size=50,
)


def as_csv(rows: Rows) -> str:
    return "".join(f"{u},{i},{category_of(i)},{b},{FIRST_S + t}\n" for u, i, b, t in rows)


def taobao(
    folder: Path,
    text: str,
    negatives: int = 1,
    seed: int = 0,
    memory: int = 1 << 20,
    name: str = "UserBehavior.csv",
) -> tuple[list[Event], Account]:
    write(folder / name, text)
    out = folder / "out.jsonl"
    account = import_taobao(folder, out, negatives, WINDOW_S, seed, memory)
    assert {path.name for path in folder.iterdir()} == {name, "out.jsonl"}, "no run is left"
    return read(out, account.n_events), account


@settings(max_examples=150, deadline=None)
@given(rows_of_few, st.integers(1, 3))
def test_rows_become_what_the_protocol_says(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, negatives: int
) -> None:
    """Against the protocol's words, over everything that was before."""
    stream, account = taobao(tmp_path_factory.mktemp("taobao"), as_csv(rows), negatives)
    different = sorted(set(rows), key=lambda r: (r[3], BEHAVIOURS.index(r[2]), str(r[0]), str(r[1])))
    assert account.n_rows == len(rows)
    assert account.skipped.total() == account.skipped[TWICE] == len(rows) - len(different)
    slates = {e.id: e for e in slates_of(stream)}
    actions = {(a.user, a.item, a.kind, a.at_ms): a for a in actions_of(stream)}
    assert len(actions) == len(different)
    known: set[int] = set()
    last: dict[tuple[int, int], Impression] = {}
    for user, item, behaviour, at in different:
        at_ms = (FIRST_S + at) * 1_000
        action = actions[str(user), str(item), KIND[behaviour], at_ms + 500]
        assert action.features == {"category": str(category_of(item))}
        if behaviour == "pv":
            others = {i for i in known if category_of(i) == category_of(item) and i != item}
            if item in known and others:
                slate = slates.pop(action.impression or "")
                shown = [int(c.item) for c in slate.candidates]
                assert (slate.user, slate.at_ms) == (str(user), at_ms)
                assert len(shown) == len(set(shown)) == 1 + min(negatives, len(others))
                assert set(shown) <= {item, *others}
                assert item in shown
                assert all(c.features == action.features for c in slate.candidates)
                last[user, item] = slate
            else:
                assert action.impression is None
            known.add(item)
        else:
            slate_then = last.get((user, item))
            is_recent = slate_then is not None and at_ms - slate_then.at_ms <= WINDOW_S * 1_000
            assert action.impression == (slate_then.id if slate_then and is_recent else None)
            if is_recent and slate_then:
                assert action.at_ms - slate_then.at_ms <= windows(WINDOW_S)[action.kind]
    assert not slates, "each has its click"


@settings(max_examples=60, deadline=None)
@given(rows_of_few, st.randoms(use_true_random=False), st.integers(1, 3_000))
def test_neither_memory_nor_the_order_of_rows_changes_anything(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, chance: Random, memory: int
) -> None:
    folder = tmp_path_factory.mktemp("taobao")
    expected, _ = taobao(folder, as_csv(rows), 2)
    shuffled = list(rows)
    chance.shuffle(shuffled)
    got, _ = taobao(folder, as_csv(shuffled), 2, memory=memory)
    assert got == expected


def shop(n: int = 400, seed: int = 0) -> Rows:
    """Users who look at things, and sometimes want one."""
    chance, rows = Random(seed), Rows()
    for user in range(1, 21):
        at = chance.randrange(1_000)
        for _ in range(n // 20):
            item = chance.choice([user % 5, chance.randrange(30)]) + 1
            rows.append((user, item, "pv", at))
            at += chance.randrange(1, 4)
            rows += [(user, item, b, at + k) for k, b in enumerate(BEHAVIOURS[1:]) if chance.random() < 0.2]
            at += chance.randrange(5, 40)
    return rows


def test_the_seed_decides_who_else_is_shown_and_nothing_else(tmp_path: Path) -> None:
    first, again, other = (taobao(tmp_path, as_csv(shop()), 3, seed)[0] for seed in (1, 1, 2))
    assert first == again != other
    assert actions_of(first) == actions_of(other)


@pytest.mark.parametrize(("after_s", "is_within"), [(0, True), (WINDOW_S, True), (WINDOW_S + 1, False)])
def test_the_last_second_of_the_window_is_within(tmp_path: Path, after_s: int, is_within: bool) -> None:
    rows = [(1, 2, "pv", 0), (1, 4, "pv", 0), (1, 2, "pv", 5), (1, 2, "buy", 5 + after_s)]
    stream, _ = taobao(tmp_path, as_csv(rows))
    (slate,), bought = slates_of(stream), actions_of(stream)[-1]
    assert (bought.kind, bought.impression) == ("buy", slate.id if is_within else None)


def test_hash_randomisation_changes_nothing(tmp_path: Path) -> None:
    expected, account = taobao(tmp_path, as_csv(shop(100)), 2)
    where = f"{str(tmp_path)!r}, {str(tmp_path / 'out.jsonl')!r}"
    code = f"from instep.taobao import import_taobao; import_taobao({where}, 2, {WINDOW_S})"
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True)
        assert read(tmp_path / "out.jsonl", account.n_events) == expected


def test_every_set_is_as_likely_and_every_place_for_the_click(tmp_path: Path) -> None:
    sets = Counter(tuple(sorted(sample(5, 2, f"key {n}"))) for n in range(4_000))
    assert len(sets) == 10
    assert max(abs(count - 400) for count in sets.values()) < 80, "four standard deviations"
    first = [(1, item, "pv", 0) for item in range(2, 42, 2)]
    rows = [*first, *((n, 2 * (n % 20) + 2, "pv", n) for n in range(1, 2_001))]
    slates = slates_of(taobao(tmp_path, as_csv(rows), 3)[0])
    assert len(slates) == 2_000
    places = Counter([c.item for c in s.candidates].index(s.id.split("-")[1]) for s in slates)
    assert max(abs(places[place] - 500) for place in range(4)) < 80
    shown = Counter(c.item for s in slates for c in s.candidates)
    assert max(abs(count - 400) for count in shown.values()) < 80


def test_rows_of_other_days_are_left_out_and_counted(tmp_path: Path) -> None:
    times = [FIRST_S - 1, FIRST_S, END_S - 1, END_S, -2_134_949_234, 0, 2_122_867_355]
    stream, account = taobao(tmp_path, "".join(f"1,2,3,pv,{t}\n" for t in times))
    assert [a.at_ms for a in actions_of(stream)] == [FIRST_S * 1_000 + 500, END_S * 1_000 - 500]
    assert (account.n_rows, account.skipped) == (7, {OUTSIDE: 5})
    assert account.told() == (
        "7 rows; skipped 5: 5 outside of 2017-11-25..2017-12-03; 1 clicks on items new to the log, "
        "1 clicks on the only item of a category"
    )


def test_a_gzipped_file_gives_the_same_log(tmp_path: Path) -> None:
    expected = taobao(tmp_path / "plain", as_csv(shop()))
    assert taobao(tmp_path / "packed", as_csv(shop()), name="UserBehavior.csv.gz") == expected


FIVE = "expected 5 columns separated by commas (user, item, category, behaviour, timestamp)"
WHOLE = "expected a whole number, got"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3,pv", f"2: {FIVE}, got 4"),
        ("1,2,3,pv,1511544070,", f"2: {FIVE}, got 6"),
        ("user,2,3,pv,1511544070", f"2: user: {WHOLE} 'user'"),
        ("1,,3,pv,1511544070", f"2: item: {WHOLE} ''"),
        ("1,-2,3,pv,1511544070", f"2: item: {WHOLE} '-2'"),
        (f"1,2,{'3' * 19},pv,1511544070", f"2: category: {WHOLE} '{'3' * 19}'"),
        ("1,2,3,PV,1511544070", "2: behaviour: expected pv, cart, fav or buy, got 'PV'"),
        ("1,2,3,\udcff,1511544070", "2: behaviour: expected pv, cart, fav or buy, got '�'"),
        ("1,2,3,pv,1511544070.5", "2: timestamp: expected whole seconds since 1970, got '1511544070.5'"),
        ("1,2,3,pv,--5", "2: timestamp: expected whole seconds since 1970, got '--5'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_column(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(BadDataset) as e:
        taobao(tmp_path, f"1,2,3,pv,{FIRST_S}\n{line}\n")
    assert str(e.value) == f"{tmp_path / 'UserBehavior.csv'}:{message}"
    assert [path.name for path in tmp_path.iterdir()] == ["UserBehavior.csv"]


@pytest.mark.parametrize(("text", "got"), [("", "none"), ("\n", "none"), ("1,2,3,pv,5\n", "1 rows, none")])
def test_a_file_with_nothing_to_import_is_said_so(tmp_path: Path, text: str, got: str) -> None:
    with pytest.raises(BadDataset, match=rf"expected at least one row of 2017-11-25..2017-12-03, got {got}"):
        taobao(tmp_path, text)
    with pytest.raises(
        BadDataset, match=r"expected a folder with UserBehavior\.csv of Taobao, got no folder"
    ):
        import_taobao(tmp_path / "gone", tmp_path / "out.jsonl")


def test_a_replay_learns_every_kind_from_its_log(tmp_path: Path) -> None:
    """Every slate is scored, every action is a label or a behaviour, and labels add up to those of the rows."""
    stream, _ = taobao(tmp_path, as_csv(shop()))
    chosen = check(
        {
            "stream": {"windows": windows(WINDOW_S), "lateness_ms": 0, "history_kinds": list(KINDS)},
            "model": {"dim": 8, "heads": 2, "mlp": [16, 8], "short": 4, "top_k": 8, "warm_up_steps": 0},
            "trainer": {"batch_samples": 8, "capacity": 4_096},
        }
    )
    found = replay(tmp_path / "out.jsonl", chosen, tmp_path / "replayed", refresh=Refresh())
    slates, actions = slates_of(stream), actions_of(stream)
    assert len(slates) > 250
    assert found["samples"] == len(slates)
    assert found["candidates"] == sum(len(s.candidates) for s in slates)
    labelled = [a for a in actions if a.impression]
    assert Counter(a.kind for a in labelled).keys() == set(KINDS)
    assert found["ctr"] * found["candidates"] == pytest.approx(sum(a.kind == "click" for a in labelled))
    counts = found["counts"]
    assert counts["used.label"] == len(labelled)
    assert counts["used.history"] == len(actions) - len(labelled)
    assert not {name for name in counts if name.startswith(("dead", "late", "orphan", "duplicate"))}
