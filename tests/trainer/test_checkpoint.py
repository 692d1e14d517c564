"""A checkpoint is whole or not there: round trips, damage, crashes, a full disk; on a disk and in a store."""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray

from stream.events import Version
from trainer.checkpoint import (
    CheckpointError,
    DamagedCheckpoint,
    load,
    names,
    save,
    weights_sha256,
)


@pytest.fixture(params=["disk", "store"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "checkpoints") if request.param == "disk" else f"memory://{tmp_path}"


def tensors(seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(7, 5))
    return {
        "rows": rows.astype(np.float32),
        "transposed": rows.T,
        "strided": np.arange(40, dtype=np.int64)[::3],
        "big_endian": rows.astype(">f8"),
        "codes": rng.integers(0, 2**64, (4, 2), np.uint64),
        "none": np.zeros((0, 3), np.int32),
        "scalar": np.array(seed, np.int64),
        "fields": np.arange(3, dtype=np.uint8),
        "mask": np.array([True, False]),
    }


def save_step(path: str, step: int, keep: int = 3) -> str:
    return save(path, tensors(step), {"version": Version(0, step)}, {"joiner": b"%d" % step}, keep=keep)


def damage(path: str, file: str, change: Callable[[bytes], bytes]) -> None:
    fs, root = fsspec.core.url_to_fs(path)
    fs.pipe_file(f"{root}/{file}", change(fs.cat_file(f"{root}/{file}")))


def flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def test_what_was_saved_comes_back_bit_for_bit(path: str) -> None:
    saved = tensors()
    manifest = {"version": Version(2, 1500), "offsets": {"0": 7}, "threads": 1, "lr": 0.1, "note": "ü\n"}
    blobs = {"joiner": os.urandom(99), "empty": b""}
    assert save(path, saved, manifest, blobs) == "2.00001500"
    loaded = load(path)
    assert (loaded.name, loaded.version, loaded.blobs) == ("2.00001500", Version(2, 1500), blobs)
    assert loaded.manifest == {**manifest, "version": [2, 1500]}
    assert loaded.tensors.keys() == saved.keys()
    for name, array in saved.items():
        got = loaded.tensors[name]
        assert (got.dtype, got.shape) == (array.dtype.newbyteorder("="), array.shape)
        assert np.array_equal(got, array)
        assert got.flags.writeable


def test_the_latest_is_loaded_and_the_last_n_are_kept(path: str) -> None:
    for n, step in enumerate([0, 9, 10, 99_999_999, 100_000_000], 1):
        name = save_step(path, step)
        assert load(path).name == name == names(path)[-1]
        assert len(names(path)) == min(n, 3)
    assert names(path) == ["0.00000010", "0.99999999", "0.100000000"]
    assert [load(path, name).blobs["joiner"] for name in names(path)] == [b"10", b"99999999", b"100000000"]
    assert save(path, {"x": np.zeros(1)}, {"version": (1, 0)}, keep=1) == "1.00000000"
    assert names(path) == ["1.00000000"]


def test_a_version_saved_again_stands_beside_the_first_and_before_nothing(path: str) -> None:
    assert [save_step(path, 5, keep=20) for _ in range(12)] == [
        "0.00000005",
        *(f"0.00000005-{n}" for n in range(1, 12)),
    ]
    assert load(path).name == names(path)[-1] == "0.00000005-11"


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json", "joiner.bin"])
@pytest.mark.parametrize(
    "change", [flip, lambda data: data[:-2], lambda _: b""], ids=["flipped", "cut", "emptied"]
)
def test_a_damaged_one_is_refused_by_name_and_the_one_before_it_used(
    path: str, file: str, change: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        save_step(path, step)
    damage(path, f"0.00000003/{file}", change)
    with pytest.raises(DamagedCheckpoint, match=rf"0\.00000003/{file}: expected"):
        load(path, "0.00000003")
    with caplog.at_level(logging.WARNING):
        assert load(path).name == "0.00000002"
    assert "0.00000003" in caplog.text
    assert save_step(path, 4) == load(path).name


def test_every_field_of_the_manifest_is_covered_by_its_hash(path: str) -> None:
    save_step(path, 1)

    def change(data: bytes) -> bytes:
        manifest = json.loads(data)
        manifest["manifest"]["version"] = [0, 2]
        return json.dumps(manifest).encode()

    damage(path, "0.00000001/manifest.json", change)
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json: expected sha256 \w+, got \w+"):
        load(path)


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json", "joiner.bin"])
def test_a_missing_file_is_damage(path: str, file: str, caplog: pytest.LogCaptureFixture) -> None:
    save_step(path, 1)
    save_step(path, 2)
    fs, root = fsspec.core.url_to_fs(path)
    fs.rm_file(f"{root}/0.00000002/{file}")
    with caplog.at_level(logging.WARNING):
        assert load(path).name == "0.00000001"
    assert f"0.00000002/{file}: expected a file, got none" in caplog.text


def test_if_all_are_damaged_or_none_is_there_it_says_so(path: str) -> None:
    with pytest.raises(CheckpointError, match=r"expected a checkpoint, got none$"):
        load(path)
    assert names(path) == []
    save_step(path, 1)
    with pytest.raises(CheckpointError, match=r"expected a checkpoint 0\.00000002, got 0\.00000001$"):
        load(path, "0.00000002")
    damage(path, "0.00000001/joiner.bin", flip)
    with pytest.raises(DamagedCheckpoint, match=r"0\.00000001/joiner\.bin"):
        load(path)


def test_one_that_latest_never_came_to_name_is_used_only_if_nothing_else_can_be(path: str) -> None:
    save_step(path, 1)
    fs, root = fsspec.core.url_to_fs(path)
    latest = fs.cat_file(f"{root}/latest")
    save_step(path, 2)
    fs.pipe_file(f"{root}/latest", latest)
    assert load(path).name == "0.00000001"
    damage(path, "0.00000001/joiner.bin", flip)
    assert load(path).name == "0.00000002"
    for content in (b"", b"\xff nonsense"):
        fs.pipe_file(f"{root}/latest", content)
        assert load(path).name == "0.00000002"
    fs.rm_file(f"{root}/latest")
    assert load(path).name == "0.00000002"


def test_what_a_crash_left_half_done_is_ignored_and_removed_and_nothing_else_is(tmp_path: Path) -> None:
    save_step(str(tmp_path), 1)
    shutil.copytree(tmp_path / "0.00000001", tmp_path / ".0.00000002")
    (tmp_path / "0.00000000").mkdir()  # its manifest went first
    (tmp_path / "0.00000000" / "joiner.bin").touch()
    (tmp_path / "notes").mkdir()
    assert load(tmp_path).name == "0.00000001"
    save_step(str(tmp_path), 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.00000001", "0.00000002", "latest", "notes"]


def test_a_full_disk_is_a_clear_error_and_leaves_the_one_before(tmp_path: Path) -> None:
    save_step(str(tmp_path), 1)
    before = sorted(tmp_path.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for n_bytes in (0, 300, 3000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            with pytest.raises(CheckpointError, match=r"checkpoint cannot be written: .*File too large"):
                save(tmp_path, tensors(2), {"version": (0, 2)}, {"joiner": bytes(5000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert sorted(tmp_path.rglob("*")) == before
        assert load(tmp_path).name == "0.00000001"


SAVER = """
import sys
import numpy as np
from trainer.checkpoint import load, names, save
step = load(sys.argv[1]).version.step if names(sys.argv[1]) else 0
print("ready", flush=True)
while True:
    step += 1
    x = np.full(20_000, step, np.int64)
    save(sys.argv[1], {"x": x}, {"version": (0, step)}, {"y": b"%d" % step}, keep=2)
    print(step, flush=True)
"""


def test_a_process_killed_while_it_saves_leaves_a_whole_one_at_every_moment(tmp_path: Path) -> None:
    rng = random.Random(0)
    reached = 0
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE) as saver:
            assert saver.stdout is not None
            assert saver.stdout.readline() == b"ready\n"
            reached = max(reached, int(saver.stdout.readline()))
            # Somewhere within the next saves: after a random number of looks at the folder.
            for _ in range(rng.randrange(400)):
                list(tmp_path.iterdir())
            os.kill(saver.pid, signal.SIGKILL)
            told = [int(line) for line in saver.stdout.read().split(b"\n")[:-1]]
        checkpoint = load(tmp_path)
        reached = max([reached, *told])
        assert checkpoint.version.step in (reached, reached + 1)
        assert (checkpoint.tensors["x"] == checkpoint.version.step).all()
        assert checkpoint.blobs == {"y": b"%d" % checkpoint.version.step}
        for name in names(tmp_path):
            load(tmp_path, name)


def test_the_hash_of_weights_sees_every_bit_name_type_and_shape_and_no_order() -> None:
    saved = tensors()
    same = {name: np.array(array) for name, array in reversed(saved.items())}
    assert weights_sha256(same) == weights_sha256(saved)
    others = [{**saved, "rows": np.nextafter(saved["rows"], np.float32(9))}]
    others.append({**saved, "rows": saved["rows"].reshape(5, 7)})
    others.append({**saved, "rows": saved["rows"].view(np.int32)})
    others.append({**saved, "none": np.zeros((3, 0), np.int32)})
    others.append({name + "x" * (name == "rows"): array for name, array in saved.items()})
    others.append({name: array for name, array in saved.items() if name != "none"})
    assert len({weights_sha256(other) for other in [saved, *others]}) == 7
