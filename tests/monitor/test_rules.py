"""Rules as they are read: the shipped ones, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

import pytest

from monitor.measures import MEASURES, measure_of
from monitor.row import Value
from monitor.rules import WORDS, Rule, Rules, RulesError, read_rules
from monitor.verdict import Verdict

RULE = """
[[rule]]
id = "{id}"
metrics = ["{metric}"]
size_ms = {size_ms}
detector = {detector}
severity = "{severity}"
reason = "{reason}"
remedy = "Look."
explains = [{explains}]
"""
USUAL = {
    "id": "one",
    "metric": "quality.ne.*",
    "size_ms": "60_000",
    "detector": '{ kind = "band", z = 4 }',
    "severity": "note",
    "reason": "it is {value}",
    "explains": "",
}


def text(**changes: str) -> str:
    out = RULE
    for name, value in {**USUAL, **changes}.items():
        out = out.replace("{" + name + "}", value)
    return out


def read(folder: Path, *rules: str) -> Rules:
    path = folder / "alerts.toml"
    path.write_text("\n".join(rules))
    return read_rules(path)


def names(rule: Rule) -> list[str]:
    """A metric for each pattern of a rule."""
    return [pattern.replace("*", "x") for pattern in rule.metrics]


def test_there_is_a_rule_for_each_thing_that_may_happen() -> None:
    assert {
        *("ctr-jump", "clicks-stopped", "ids-swapped", "codes-jumped", "indexer-stalled", "trainer-stopped"),
        *("poison", "feature-constant", "new-category", "ne-worse", "calibration-off", "serving-stale"),
        *("late", "duplicates"),
    } <= {rule.id for rule in read_rules()}


@pytest.mark.parametrize("rule", read_rules(), ids=lambda rule: rule.id)
def test_a_shipped_rule_says_its_figures_in_words(rule: Rule) -> None:
    for metric in names(rule):
        told = rule.told(metric, Value(0.02, 1_234, 0.001), Verdict(True, 0.4166, 0.03))
        assert "{" not in told
        assert "0.02" in told
        assert "unknown" not in told
        assert "{" not in rule.advised(metric)


def test_a_reason_reads_as_a_person_would_say_it() -> None:
    rule = read_rules()["clicks-stopped"]
    told = rule.told("data.coverage.click", Value(0.02, 1_300, 0.001), Verdict(True, 0.4166, 0.0312))
    assert told == "click coverage is 0.02 over 1,300 impressions; it was 0.417 ± 0.0312 before"


def test_causes_stand_before_what_they_explain() -> None:
    order = [rule.id for rule in read_rules()]
    for rule in read_rules():
        assert all(order.index(rule.id) < order.index(effect) for effect in rule.explains)


def test_what_an_explained_rule_explains_is_explained_too(tmp_path: Path) -> None:
    rules = read(
        tmp_path,
        text(id="c"),
        text(id="a", explains='"b"'),
        text(id="b", explains='"c"'),
    )
    assert [rule.id for rule in rules] == ["a", "b", "c"]
    assert rules.explained_by("a") == {"b", "c"}
    assert [rule.id for rule in rules.causes_of("c")] == ["a", "b"]
    assert rules.causes_of("a") == ()


def test_a_rule_is_about_its_pattern_but_not_what_is_left_out() -> None:
    rules = read_rules()
    assert rules.of("data.unseen.device", 60_000) == (rules["new-category"],)
    assert rules.of("data.unseen.user", 60_000) == ()
    assert rules.of("data.unseen.device", 600_000) == ()


def test_every_word_that_a_reason_may_use_is_filled_in() -> None:
    rule = read_rules()["ne-worse"]
    every = Rule(
        **{f: getattr(rule, f) for f in rule.__struct_fields__}
        | {"reason": " ".join(f"{{{w}}}" for w in sorted(WORDS))}
    )
    told = every.told("quality.ne.click", Value(0.9, 500, 0.01), Verdict(True, 0.8, 0.02))
    assert told == "candidates 0.01 500 click 0.8 0.02 normalised entropy 0.9 minute"
    assert {name for _, name, _, _ in Formatter().parse(every.reason) if name} == WORDS


QUALITY = ", ".join(m.name for m in MEASURES if m.panel == "quality")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [text(metric="quality.me.*")],
            f"one: metrics: expected a name of monitor/measures.py ({QUALITY}), got 'quality.me.*'",
        ),
        (
            [text(metric="quality.ne")],
            "one: metrics: expected quality.ne.KIND or quality.ne.*, got 'quality.ne'",
        ),
        ([text(metric="data.late.x")], "one: metrics: expected data.late, got 'data.late.x'"),
        ([text(size_ms="90_000")], "one: size_ms: expected one of 60000, 600000, 3600000, got 90000"),
        ([text(severity="loud")], "one: severity: expected one of page, ticket, note, got 'loud'"),
        (
            [text(detector='{ kind = "bend" }')],
            "one: detector.kind: expected one of adwin, band, first, kswin, limits, page-hinkley, got 'bend'",
        ),
        ([text(detector='{ kind = "band", y = 1 }')], "one: detector: object contains unknown field `y`"),
        ([text(detector='{ kind = "band", z = -1 }')], "one: detector.z: expected `float` >= 0.0, got -1"),
        (
            [text(reason="it is {mood}")],
            f"one: reason: expected {', '.join(sorted(WORDS))} in braces, got 'mood'",
        ),
        ([text(reason="it is {")], "one: reason: expected words and figures in braces, got: "),
        ([text(), text()], "one: expected an id that no other rule has"),
        ([text(explains='"two"')], "one: explains: expected the id of a rule, got 'two'"),
        (
            [text(size_ms="600_000", explains='"two"'), text(id="two")],
            "one: explains: expected a rule of windows of 600000 ms or longer, as its own, got 'two' of 60000",
        ),
        ([text(explains='"one"')], "explains: expected causes and effects, got a circle: one -> one"),
        (
            [text(id="a", explains='"b"'), text(id="b", explains='"c"'), text(id="c", explains='"b"')],
            "explains: expected causes and effects, got a circle: ",
        ),
        (
            [text(id="Loud One")],
            "Loud One: id: expected `str` matching regex '^[a-z][a-z0-9-]*$', got 'Loud One'",
        ),
        (["[[rule]]\nid = 'x'"], "x: object missing required field `metrics`"),
        (["a = 1"], "object contains unknown field `a`"),
        ([""], "object missing required field `rule`"),
        (["rule = 1"], "rule: expected `array`, got 1"),
        (["[["], "expected TOML, got: "),
    ],
)
def test_what_cannot_be_is_refused_with_where_and_what_was_expected(
    tmp_path: Path, rules: list[str], message: str
) -> None:
    with pytest.raises(RulesError) as e:
        read(tmp_path, *rules)
    assert str(e.value).startswith(f"{tmp_path / 'alerts.toml'}: {message}")
    assert message.endswith(": ") or str(e.value).endswith(message)
    assert "\n" not in str(e.value)


def test_a_circle_is_shown_whole(tmp_path: Path) -> None:
    with pytest.raises(RulesError) as e:
        read(
            tmp_path, text(id="a", explains='"b"'), text(id="b", explains='"c"'), text(id="c", explains='"b"')
        )
    assert str(e.value).split("circle: ")[1] in {"b -> c -> b", "c -> b -> c"}


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"none\.toml: expected a file of rules, got: No such file"):
        read_rules(tmp_path / "none.toml")


def test_every_metric_that_a_shipped_rule_names_is_measured() -> None:
    for rule in read_rules():
        for metric in names(rule):
            assert measure_of(metric).least >= 0
