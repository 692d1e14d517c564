"""Settings: what can be set, and what is said when it cannot."""

from __future__ import annotations

import re
from math import inf, nan
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.sections import ModelSettings
from instep.settings import Settings, SettingsError, check, load
from stream.fields import Fields
from stream.join import Joiner
from trainer.batcher import Batcher
from trainer.model.ctr import Network
from trainer.model.simhash import make_planes
from trainer.model.units import UNITS

ITEM = {"name": "a", "of": "item"}


def test_without_a_file_everything_has_a_default() -> None:
    assert load(None) == check({}) == Settings()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"model": {"top_k": 0}}, "model.top_k: expected `int` >= 1, got 0"),
        ({"model": {"top_k": "many"}}, "model.top_k: expected `int`, got 'many'"),
        ({"model": {"seed": 1.5}}, "model.seed: expected `int`, got 1.5"),
        ({"model": {"row_lr": nan}}, "model.row_lr: expected `float` > 0.0, got nan"),
        ({"model": {"lr": inf}}, "model.lr: expected `float` <= 10.0, got inf"),
        ({"model": {"mlp": [80, 0]}}, "model.mlp[1]: expected `int` >= 1, got 0"),
        (
            {"model": {"unit": "etta"}},
            f"model.unit: expected one of {', '.join(UNITS)}, got 'etta'",
        ),
        ({"model": {"bits": 100}}, "model.bits: expected one of 16, 32, 64, 128, 192, 256, got 100"),
        ({"model": {"heads": 5}}, "model.heads: expected a divisor of dim times item fields = 64, got 5"),
        ({"model": {"towers": "ple"}}, "model.towers: expected one of shared, mmoe, got 'ple'"),
        ({"model": {"experts": 0}}, "model.experts: expected `int` >= 1, got 0"),
        (
            {"model": {"towers": "mmoe", "mlp": []}},
            "model.mlp: expected at least one layer for towers = mmoe, got []",
        ),
        (
            {"model": {"loss_weights": {"share": 1}}, "stream": {"windows": {"click": 1, "like": 1}}},
            "model.loss_weights: expected a kind of stream.windows (click, like), got 'share'",
        ),
        (
            {"model": {"loss_weights": {"click": -1}}},
            "model.loss_weights[...]: expected `float` >= 0.0, got {'click': -1}",
        ),
        (
            {"ranker": {"weights": {"click": 1, "like": 0.5}}},
            "ranker.weights: expected a kind of stream.windows (click), got 'like'",
        ),
        (
            {"ranker": {"weights": {"click": 0.0}}},
            "ranker.weights: expected at least one that is not 0, got {'click': 0.0}",
        ),
        (
            {"ranker": {"weights": {"click": nan}}},
            "ranker.weights[...]: expected `float` >= -1000000.0, got {'click': nan}",
        ),
        ({"model": {"tok_k": 3}}, "model.tok_k: expected a setting that exists, got this one"),
        ({"modle": {}}, "modle: expected a setting that exists, got this one"),
        ({"model": 3}, "model: expected `object`, got 3"),
        (
            {"model": {"unit": "sim_hard"}, "features": []},
            "model.unit: expected an item feature to be the category, got none declared",
        ),
        (
            {"model": {"coded": 3}, "features": [ITEM, {"name": "b", "of": "item"}]},
            "model.bits: expected a multiple of the 3 coded fields, got 64",
        ),
        ({"stream": {"policy": "lazy"}}, "stream.policy: expected one of window, eager, got 'lazy'"),
        ({"stream": {"windows": {}}}, "stream.windows: expected at least one action kind, got {}"),
        ({"stream": {"windows": {"click": 0}}}, "stream.windows[...]: expected `int` >= 1, got {'click': 0}"),
        ({"stream": {"history_kinds": "click"}}, "stream.history_kinds: expected `array`, got 'click'"),
        ({"stream": {"max_dead": 0}}, "stream.max_dead: expected `float` > 0.0, got 0"),
        (
            {"trainer": {"row_ttl_ms": 5}},
            "trainer.row_ttl_ms: expected at least stream.history_ttl_ms = 7776000000, got 5",
        ),
        ({"features": [{"of": "item"}]}, "features[0]: expected a field 'name', got {'of': 'item'}"),
        (
            {"features": [ITEM, {"name": "b", "of": "itm"}]},
            "features[1].of: expected one of user, context, item, got 'itm'",
        ),
        ({"features": [{**ITEM, "z": 1}]}, "features[0].z: expected a setting that exists, got this one"),
        ({"features": [ITEM, ITEM]}, "features: expected names that differ, got ['a', 'a']"),
        (
            {"features": [{"name": "user", "of": "user"}]},
            "features: expected names other than item and user, got ['user']",
        ),
        *(
            (
                {"features": [{**ITEM, "kind": "numeric", "edges": edges}]},
                f"features.a.edges: expected ascending finite numbers, got {edges}",
            )
            for edges in ([2.0, 1.0], [1.0, 1.0], [nan], [0.0, inf])
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line_with_place_expected_and_got(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as e:
        check(raw, "instep.toml")
    assert str(e.value) == f"instep.toml: {said}"


def test_a_file_is_read_and_its_name_is_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "instep.toml"
    path.write_text('[model]\nunit = "short"\n[stream.windows]\nlike = 7\nclick = 5\n')
    found = load(path)
    assert found.model.unit == "short"
    assert list(found.join_rules().windows.items()) == [("like", 7), ("click", 5)]  # the order of the labels
    path.write_text("[model]\nheads = 0\n")
    with pytest.raises(
        SettingsError, match=f"^{re.escape(str(path))}: model.heads: expected `int` >= 1, got 0$"
    ):
        load(path)


@pytest.mark.parametrize("raw", [b"[model", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_one_line(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "instep.toml"
    path.write_bytes(raw)
    with pytest.raises(SettingsError, match=f"^{re.escape(str(path))}: expected TOML, got: .*$"):
        load(path)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.toml"):
        with pytest.raises(SettingsError, match=r"expected a settings file, got: .* directory$"):
            load(path)


def test_other_model_settings_are_checked_like_a_file() -> None:
    assert Settings().with_model(unit="full", seed=7).model == msgspec.structs.replace(
        Settings().model, unit="full", seed=7
    )
    assert Settings().with_model() == Settings()
    with pytest.raises(SettingsError, match=r"settings: model\.unit: expected one of none, .*, got 'dnn'"):
        Settings().with_model(unit="dnn")
    with pytest.raises(SettingsError, match=r"settings: model\.seed: expected `int` >= 0, got -1"):
        Settings().with_model(seed=-1)


features = st.lists(
    st.builds(
        lambda name, of: {"name": name, "of": of},
        st.sampled_from("abcde"),
        st.sampled_from(["item", "user", "context"]),
    ),
    max_size=4,
)
models = st.fixed_dictionaries(
    {
        "dim": st.integers(4, 12),
        "heads": st.integers(1, 6),
        "bits": st.sampled_from([16, 32, 64, 128, 192, 256]),
        "coded": st.integers(1, 8),
        "mlp": st.lists(st.integers(1, 5), max_size=2),
        "unit": st.sampled_from(list(UNITS)),
        "towers": st.sampled_from(["shared", "mmoe"]),
        "experts": st.integers(1, 3),
    }
)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(features=features, model=models, kinds=st.sets(st.sampled_from(["click", "like"]), min_size=1))
def test_what_passes_can_be_built_and_written_down(
    features: list[dict[str, str]], model: dict[str, Any], kinds: set[str]
) -> None:
    raw = {"features": features, "model": model, "stream": {"windows": dict.fromkeys(sorted(kinds), 1_000)}}
    try:
        found = check(raw)
    except SettingsError:
        return
    assert check(msgspec.to_builtins(found)) == found
    assert msgspec.json.decode(msgspec.json.encode(found), type=Settings) == found
    config = found.learner_config()
    planes = make_planes(config.shape.n_coded, config.shape.dim, config.bits, config.seed)
    assert planes.shape == (config.shape.n_coded, model["dim"], max(64, model["bits"]))
    assert (config.shape.n_item_fields, config.shape.n_side) == (
        len(found.fields.item),
        len(found.fields.side),
    )
    assert config.shape.n_kinds == len(kinds)
    torch.manual_seed(0)
    Network(config.shape)
    Joiner(found.join_rules(), Fields(found.features), 0)
    rules = found.loop_rules()
    Batcher([0], rules.batch_samples, rules.batch_span_ms)


def test_what_is_passed_on_to_kafka_is_neither_shown_nor_saved(tmp_path: Path) -> None:
    (file := tmp_path / "instep.toml").write_text(
        '[kafka]\nclient = { sasl_plain_username = "ada", sasl_plain_password = "secret" }\n'
    )
    settings = load(file)
    assert settings.cluster().client["sasl_plain_password"] == "secret"
    assert "secret" not in repr(settings.public()) + repr(settings.cluster())
    with pytest.raises(
        SettingsError, match=r"^settings: kafka\.client.*, got one that is not shown$"
    ) as told:
        check({"kafka": {"client": {"sasl_plain_password": ["secret"]}}})
    assert "secret" not in str(told.value)


def test_a_transaction_may_take_longer_than_an_answer() -> None:
    told = r"kafka\.transaction_timeout_ms: expected more than kafka\.timeout_ms = 30000, got 30000$"
    with pytest.raises(SettingsError, match=told):
        check({"kafka": {"transaction_timeout_ms": 30_000}})


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ("kafka", {"client": {"sasl_plain_password": ["my-secret"]}}),
        ("redis", {"client": {"password": ["my-secret"]}}),
        ("redis", {"url": ["redis://:my-secret@cache"]}),
        ("ranker", {"tokens": ["a-token-that-is-long", "secret"]}),
        ("ranker", {"tokens": "my-secret"}),
        ("monitor", {"webhook": "ftp://my-secret"}),
    ],
)
def test_no_error_shows_what_is_secret(section: str, wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as told:
        check({section: wrong})
    assert str(told.value).startswith(f"settings: {section}.")
    assert str(told.value).endswith("got one that is not shown")
    assert "secret" not in str(told.value)


def test_weights_are_of_the_kinds_in_the_order_of_their_columns() -> None:
    windows = {"like": 5, "click": 7, "hide": 9}
    plain = check({"stream": {"windows": windows}})
    assert plain.kinds == ("like", "click", "hide")
    assert plain.scorer().worth == {"like": 1.0, "click": 0.0, "hide": 0.0}
    assert plain.learner_config().loss_weights == ()
    weighed = check(
        {
            "stream": {"windows": windows},
            "model": {"loss_weights": {"click": 0.5}},
            "ranker": {"weights": {"hide": -2.0, "click": 1.0}},
        }
    )
    assert list(weighed.scorer().worth.items()) == [("like", 0.0), ("click", 1.0), ("hide", -2.0)]
    assert weighed.learner_config().loss_weights == (1.0, 0.5, 1.0)


def test_the_units_that_can_be_set_are_those_there_are() -> None:
    assert get_args(get_type_hints(ModelSettings)["unit"]) == tuple(UNITS)
