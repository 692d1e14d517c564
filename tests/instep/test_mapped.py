from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.datasets import Account
from instep.mapped import BEFORE, MOST, TWICE, import_mapped
from instep.mapping import load
from instep.reading import BadDataset
from instep.replay import Refresh, replay
from instep.settings import SettingsError, check
from instep.toml import to_toml
from stream.events import Event
from tests.instep.importing import actions_of, read, slates_of, write

DOCS = Path(__file__).parents[2] / "docs" / "importing.md"

MAPPING: dict[str, Any] = {
    "user": "who",
    "item": "what",
    "time": {"column": "when", "unit": "ms"},
    "actions": [
        {"kind": "click", "column": "clicked", "delay_ms": 7},
        {"kind": "buy", "column": "bought", "yes": ["y", "Y"], "at": "bought_at", "window_ms": 100},
    ],
    "features": [
        {"name": "category", "of": "item", "column": "topic"},
        {"name": "price", "of": "item", "kind": "numeric", "edges": [1, 10]},
        {"name": "age", "of": "user"},
    ],
    "null": ["", "-"],
}
HEAD = "who,what,when,clicked,bought,bought_at,topic,price,age,request"


def mapped(
    folder: Path, text: str, memory: int = 1 << 20, name: str = "rows.csv", **changes: Any
) -> tuple[list[Event], Account]:
    """The import of a file, by MAPPING with changes; None takes one away."""
    raw = {k: v for k, v in {**MAPPING, **changes}.items() if v is not None}
    write(folder / "mapping.toml", to_toml(raw))
    write(folder / name, text)
    account = import_mapped(folder / name, folder / "mapping.toml", folder / "out.jsonl", memory)
    assert {path.name for path in folder.iterdir()} == {name, "mapping.toml", "out.jsonl"}, "no run is left"
    return read(folder / "out.jsonl", account.n_events), account


def test_a_row_is_a_slate_with_what_the_mapping_makes_of_it(tmp_path: Path) -> None:
    rows = ["ada,n7,900,1,Y,950,news,1.5,36,", "bob,n8,5,0,n,,-,,,", 'ada,"n,9",905,0,y,904,,10,36,']
    stream, account = mapped(tmp_path, "\n".join([HEAD, *rows]))
    assert [(s.id, s.user, s.at_ms, s.context) for s in slates_of(stream)] == [
        ("r3", "bob", 5, {}),
        ("r2", "ada", 900, {"age": "36"}),
        ("r4", "ada", 905, {"age": "36"}),
    ]
    assert [[(c.item, c.features) for c in s.candidates] for s in slates_of(stream)] == [
        [("n8", {})],
        [("n7", {"category": "news", "price": 1.5})],
        [("n,9", {"price": 10.0})],
    ]
    assert [(a.kind, a.user, a.item, a.at_ms, a.impression) for a in actions_of(stream)] == [
        ("click", "ada", "n7", 907, "r2"),
        ("buy", "ada", "n7", 950, "r2"),
    ]
    assert actions_of(stream)[0].features == {"category": "news", "price": 1.5}
    assert account.told() == f"3 rows; skipped none; 1 {BEFORE}, 3 slates"


rows_of_few = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, 4),
        st.integers(0, 30),
        st.sampled_from("01"),
        st.sampled_from(["", "3", "20", "90"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(rows_of_few, st.integers(2, 4_000))
def test_rows_of_a_user_with_one_value_are_one_slate_wherever_they_stand(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int, str, str, int]], memory: int
) -> None:
    """Against a loop over all rows that keeps them."""
    lines = [
        f"{who},n{what},{when},{clicked},{'y' if bought else 'n'},{bought},t{what},,{when},q{request}"
        for who, what, when, clicked, bought, request in rows
    ]
    stream, account = mapped(
        tmp_path_factory.mktemp("mapped"), "\n".join([HEAD, *lines]), memory, slate="request"
    )
    by: defaultdict[tuple[str, str], list[tuple[str, int, int, str, str, int]]] = defaultdict(list)
    for row in rows:
        by[row[0], f"q{row[5]}"].append(row)
    slates = {(s.user, s.id): s for s in slates_of(stream)}
    assert len(slates_of(stream)) == len(slates) == len(by) == account.noted["slates"]
    expected, n_before = set(), 0
    for (who, request), of in by.items():
        slate, at_ms = slates[who, request], min(row[2] for row in of)
        items = list(dict.fromkeys(f"n{row[1]}" for row in of))
        assert (slate.at_ms, slate.context) == (at_ms, {"age": str(at_ms)})
        assert [c.item for c in slate.candidates] == items
        for item in items:
            clicks = [row for row in of if f"n{row[1]}" == item and row[3] == "1"]
            if clicks:
                expected.add(("click", who, item, at_ms + 7, request))
            buys = [int(row[4]) for row in of if f"n{row[1]}" == item and row[4]]
            if buys and buys[0] >= at_ms:
                expected.add(("buy", who, item, buys[0], request))
            n_before += bool(buys) and buys[0] < at_ms
    got = [(a.kind, a.user, a.item, a.at_ms, a.impression) for a in actions_of(stream)]
    assert len(got) == len(set(got))
    assert set(got) == expected
    assert account.noted[BEFORE] == n_before
    assert account.skipped[TWICE] == len(rows) - sum(len(s.candidates) for s in slates_of(stream))


def test_times_are_brought_to_milliseconds_since_1970(tmp_path: Path) -> None:
    for when, unit, offset_ms, at_ms in (("2", "s", 5, 2_005), ("2.25", "s", 0, 2_250), ("7", "ms", -7, 0)):
        row = f"a,b,{when},0,n,,,,,"
        time = {"column": "when", "unit": unit, "offset_ms": offset_ms}
        stream, _ = mapped(tmp_path, f"{HEAD}\n{row}\n", time=time)
        assert [s.at_ms for s in slates_of(stream)] == [at_ms]


def test_names_may_come_from_the_mapping_and_the_file_may_be_gzipped(tmp_path: Path) -> None:
    rows = "a\tb\t5\t1\tn\t\t\t\t\t\n" * 3
    stream, account = mapped(tmp_path, rows, name="rows.tsv.gz", columns=HEAD.split(","), delimiter="\t")
    assert (account.n_rows, len(slates_of(stream)), len(actions_of(stream))) == (3, 3, 3)


def test_the_mapping_in_the_docs_imports_criteos_format_and_its_log_is_learned(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    write(tmp_path / "criteo.toml", found[1])
    head = "timestamp uid campaign conversion conversion_timestamp conversion_id attribution click click_pos"
    head += " click_nb cost cpo time_since_last_click cat1 cat2 cat3 cat4 cat5 cat6 cat7 cat8 cat9"
    lines = [head]
    for n in range(120):
        at, converts, clicks = 20 * n, n % 5 == 0, n % 3 == 0
        conversion = f"1 {at + 60} {n} 1" if converts else "0 -1 -1 0"
        end = (
            f"{int(clicks)} -1 -1 0.0001 0.1 {[-1, 400][n % 2]} {' '.join(str(n % k) for k in range(2, 11))}"
        )
        lines.append(f"{at} {n % 7} {n % 11} {conversion} {end}")
    text = "".join(line.replace(" ", "\t") + "\n" for line in lines)
    write(tmp_path / "criteo_attribution_dataset.tsv.gz", text)
    account = import_mapped(
        tmp_path / "criteo_attribution_dataset.tsv.gz", tmp_path / "criteo.toml", tmp_path / "out.jsonl"
    )
    stream = read(tmp_path / "out.jsonl", account.n_events)
    first = slates_of(stream)[0]
    assert (first.id, first.at_ms, first.user) == ("r2", 1_483_228_800_000, "0")
    assert first.context == {"cat8": "0", "since_click": -1.0}
    assert first.candidates[0].features == {"category": "0"}
    raw = load(tmp_path / "criteo.toml").settings()
    assert raw["stream"] == {"windows": {"click": 500, "conversion": 86_400_000}, "history_kinds": ["click"]}
    raw["stream"]["lateness_ms"] = 0
    model = {"dim": 8, "heads": 2, "mlp": [16, 8], "short": 4, "top_k": 8, "warm_up_steps": 0}
    chosen = check({**raw, "model": model, "trainer": {"batch_samples": 8, "capacity": 4_096}})
    metrics = replay(tmp_path / "out.jsonl", chosen, tmp_path / "replayed", refresh=Refresh())
    assert (metrics["samples"], metrics["ctr"]) == (120, pytest.approx(40 / 120))
    assert metrics["counts"]["used.label"] == 40 + 24
    assert not {n for n in metrics["counts"] if n.startswith(("dead", "late", "orphan", "duplicate"))}


SECONDS = "when: expected milliseconds that with the offset are from 1970 to 2105, got"
AN_ID = "expected 1..512 characters and no null value, got"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,b,5,0,n,,,,", "3: expected 10 columns, got 9"),
        (",b,5,0,n,,,,,", f"3: who: {AN_ID} ''"),
        ("a,-,5,0,n,,,,,", f"3: what: {AN_ID} '-'"),
        (f"a,{'b' * 513},5,0,n,,,,,", f"3: what: {AN_ID} '{'b' * 60}'"),
        ("a,b,then,0,n,,,,,", f"3: {SECONDS} 'then'"),
        ("a,b,-5,0,n,,,,,", f"3: {SECONDS} '-5'"),
        ("a,b,nan,0,n,,,,,", f"3: {SECONDS} 'nan'"),
        ("a,b,1e99,0,n,,,,,", f"3: {SECONDS} '1e99'"),
        ("a,b,5,0,y,,,,,", f"3: bought_at: {SECONDS[6:]} ''"),
        ("a,b,5,0,n,,,dear,,", "3: price: expected a number, got 'dear'"),
        ("a,b,5,0,n,,,inf,,", "3: price: expected a number, got 'inf'"),
        ('a,"b,5', "3: expected values separated by commas, got unexpected end of data"),
    ],
)
def test_a_bad_row_is_named_with_its_column(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(BadDataset) as e:
        mapped(tmp_path, f"{HEAD}\na,b,5,0,n,,,,,\n{line}\n")
    assert str(e.value) == f"{tmp_path / 'rows.csv'}:{message}"
    assert not (tmp_path / "out.jsonl").exists()


def test_a_slate_of_too_many_rows_is_named(tmp_path: Path) -> None:
    rows = "".join(f"a,b{n},5,0,n,,,,,q\n" for n in range(MOST + 1))
    with pytest.raises(BadDataset) as e:
        mapped(tmp_path, f"{HEAD}\n{rows}", slate="request")
    assert (
        str(e.value)
        == f"{tmp_path / 'rows.csv'}:{MOST + 2}: expected at most {MOST} rows of one slate, got one more"
    )
    with pytest.raises(BadDataset, match=rf"rows.csv:2: request: {AN_ID} ''"):
        mapped(tmp_path, f"{HEAD}\na,b,5,0,n,,,,,\n", slate="request")


def test_a_file_that_is_none_or_empty_or_has_a_column_twice_is_said_so(tmp_path: Path) -> None:
    for text in ("", f"{HEAD}\n"):
        with pytest.raises(BadDataset, match=r"rows.csv: expected at least one row, got none"):
            mapped(tmp_path, text)
    with pytest.raises(BadDataset, match=r"rows.csv:1: expected one column when, got 2"):
        mapped(tmp_path, f"{HEAD},when\n")
    for place, got in ((tmp_path / "gone.csv", "nothing there"), (tmp_path, "a folder")):
        with pytest.raises(BadDataset, match=f"expected a file, got {got}"):
            import_mapped(place, tmp_path / "mapping.toml", tmp_path / "out.jsonl")
    write(tmp_path / "cut.csv.gz", f"{HEAD}\n")
    raw = (tmp_path / "cut.csv.gz").read_bytes()
    for broken in (raw[:-4], b"no gzip"):
        (tmp_path / "cut.csv.gz").write_bytes(broken)
        with pytest.raises(BadDataset, match=r"cut.csv.gz: expected a whole gzip file, got "):
            import_mapped(tmp_path / "cut.csv.gz", tmp_path / "mapping.toml", tmp_path / "out.jsonl")


CLICK, LATER = MAPPING["actions"]
WITHOUT = {"kind": "later", "column": "clicked", "at": "when"}
AGE = MAPPING["features"][2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": None}, "expected a field 'user', got item, null, time, actions, features"),
        ({"itme": "what"}, "itme: expected a setting that exists, got this one"),
        ({"user": "whom"}, "user: expected a column of {file} (who, what, "),
        ({"slate": "q"}, "slate: expected a column of {file} ("),
        ({"time": {"column": "at"}}, "time.column: expected a column of {file} ("),
        ({"time": {"column": "when", "unit": "min"}}, "time.unit: expected one of s, ms, got 'min'"),
        ({"time": {}}, "time: expected a field 'column', got {}"),
        ({"actions": []}, "actions: expected `array` of length >= 1, got []"),
        ({"actions": [{**CLICK, "column": "c"}]}, "actions[0].column: expected a column of {file} ("),
        ({"actions": [CLICK, {**LATER, "at": "t"}]}, "actions[1].at: expected a column of {file} ("),
        ({"actions": [CLICK, CLICK]}, "actions: expected kinds that differ, got ['click', 'click']"),
        ({"actions": [{**CLICK, "window_ms": 6}]}, "actions[0].window_ms: expected at least the delay of 7, got 6"),
        ({"actions": [{**CLICK, "at": "when"}]}, "actions[0].delay_ms: expected none where there is an at, got 7"),
        ({"actions": [WITHOUT]}, "actions[0].window_ms: expected one where there is an at, got 'none'"),
        ({"actions": [{**CLICK, "yes": []}]}, "actions[0].yes: expected at least one value, got 'none'"),
        ({"history_kinds": ["view"]}, "history_kinds: expected kinds of actions (click, buy), got ['view']"),
        ({"features": [{**AGE, "name": "aeg"}]}, "features[0].name: expected a column of {file} ("),
        ({"features": [{**AGE, "column": "x"}]}, "features[0].column: expected a column of {file} ("),
        ({"features": [{**AGE, "of": "page"}]}, "features[0].of: expected one of user, context, item, got 'page'"),
        ({"features": [{**AGE, "name": "user", "column": "who"}]}, "features: expected names other than item"),
        ({"features": [{**AGE, "kind": "numeric", "edges": [2, 1]}]}, "features.age.edges: expected ascending"),
        ({"delimiter": "||"}, "delimiter: expected `str` of length <= 1, got '||'"),
        ({"delimiter": "\n"}, "delimiter: expected a character that separates, got '\\n'"),
        ({"columns": ["a", "a"]}, "columns: expected names that differ, got ['a', 'a']"),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_be_is_told_with_its_place(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as e:
        mapped(tmp_path, f"{HEAD}\na,b,5,0,n,,,,,\n", **changes)
    expected = f"{tmp_path / 'mapping.toml'}: {message.replace('{file}', str(tmp_path / 'rows.csv'))}"
    assert str(e.value).startswith(expected), str(e.value)


def test_a_mapping_that_is_no_toml_is_said_so(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", "user")
    write(tmp_path / "b.toml", "user = '\udcff'")
    for name in ("a", "b"):
        with pytest.raises(SettingsError, match=rf"{name}.toml: expected TOML, got: "):
            load(tmp_path / f"{name}.toml")
    with pytest.raises(SettingsError, match=r"c.toml: expected a mapping, got: No such file"):
        load(tmp_path / "c.toml")
