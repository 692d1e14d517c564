from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep.toml import to_toml

plain = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=8)
)
keys = st.text(max_size=6)
values: st.SearchStrategy[Any] = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(keys, values, max_size=5))
def test_what_is_written_is_read_back_as_it_was(raw: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(raw)) == raw


def test_tables_stand_under_heads_and_plain_values_before_them() -> None:
    raw = {"stream": {"windows": {"click": 1, "add to cart": 2}, "kinds": ["click"]}, "name": 'a "b"'}
    assert to_toml(raw) == (
        'name = "a \\"b\\""\n\n[stream]\nkinds = ["click"]\n\n[stream.windows]\nclick = 1\n"add to cart" = 2\n'
    )


def test_what_toml_has_not_is_refused() -> None:
    with pytest.raises(TypeError, match="expected what TOML has, got NoneType"):
        to_toml({"a": None})
