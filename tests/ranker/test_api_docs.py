"""What docs/api.md shows is what happens."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.events import Action, Impression
from tests.ranker.serving import WITHIN_S, Serving

API = (Path(__file__).parent.parent.parent / "docs" / "api.md").read_text()
EXAMPLE = "http://127.0.0.1:8460"


@pytest.fixture(scope="module")
def serving() -> Serving:
    made = Serving()
    made.learn()
    made.live.follow()
    return made


@pytest.fixture(scope="module")
def url(serving: Serving) -> Iterator[str]:
    with serving.listening() as address:
        yield address


def shown(text: str) -> list[tuple[str, str]]:
    """Each curl of a page, and the answer shown below it."""
    blocks = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    plain = ["\n".join(line[4:] for line in block.splitlines()) for block in blocks]
    return [(plain[i], plain[i + 1]) for i in range(len(plain) - 1) if plain[i].startswith("curl")]


def test_the_curl_lines_do_what_is_shown(serving: Serving, url: str) -> None:
    examples = shown(API)
    assert len(examples) == 2
    for command, answer in examples:
        at = command.replace("localhost:8460", url.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", at], capture_output=True, text=True, check=True, timeout=20)
        got, wanted = json.loads(done.stdout), json.loads(answer)
        assert got.keys() == wanted.keys()
        assert {k: type(v) for k, v in got.items()} == {k: type(v) for k, v in wanted.items()}
    deadline = time.monotonic() + WITHIN_S
    while len(logged := serving.logged()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [type(event) for event in logged] == [Impression, Action]


def test_the_python_does_what_is_shown(url: str) -> None:
    found = re.search(r"```python\n(.*?)```", API, re.DOTALL)
    assert found is not None
    code = found[1]
    assert EXAMPLE in code
    names: dict[str, object] = {}
    exec(code.replace(EXAMPLE, url), names)
    assert len(names["answer"].scores) == 1  # type: ignore[attr-defined]


def test_every_path_is_listed() -> None:
    serving = Serving()
    with serving.client() as http:
        paths = http.get("/openapi.json").json()["paths"]
    for path in paths:
        assert path.replace("{item}", "ITEM") in API, path
    serving.live.close()
