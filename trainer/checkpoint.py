"""Everything a trainer needs to go on as if nothing had happened, in a folder that is whole or not there.

    PATH/latest                        the name of the newest one
    PATH/0.00001500/manifest.json      what it holds, with the sha256 of each file and of itself
    PATH/0.00001500/tensors.safetensors
    PATH/0.00001500/NAME.bin           what is not arrays

A checkpoint is written aside, synced and renamed (in an object store: its manifest goes up last); then
``latest`` is moved. Nothing is ever written into an older one, so that there is a whole one at every moment.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stream.events import Version

logger = logging.getLogger(__name__)

Tensors = Mapping[str, NDArray[Any]]
TENSORS, MANIFEST, LATEST = "tensors.safetensors", "manifest.json", "latest"
_NAME = re.compile(r"(\d+)\.(\d{8,})(?:-(\d+))?")


class CheckpointError(Exception):
    """A checkpoint that cannot be written, or that is not there."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that is not what was saved: which file, what was expected, what came."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved. Of the manifest what JSON makes of it: keys are strings, tuples are lists."""

    name: str
    tensors: dict[str, NDArray[Any]]
    manifest: dict[str, Any]
    blobs: dict[str, bytes]

    @property
    def version(self) -> Version:
        return Version(*self.manifest["version"])


def save(
    path: str | Path,
    tensors: Tensors,
    manifest: Mapping[str, Any],
    blobs: Mapping[str, bytes] | None = None,
    *,
    keep: int = 3,
) -> str:
    """Save a checkpoint and drop all but the last ``keep``.

    Parameters
    ----------
    path
        A folder, or any URL that fsspec knows (``memory://x``, ``s3://bucket/x``).
    tensors
        Arrays of any shape, of numbers or booleans.
    manifest
        Anything else that JSON can say; ``version``, a `Version`, gives the checkpoint its name.
    blobs
        Anything that JSON cannot say.

    Returns
    -------
    The name: ``0.00001500`` for epoch 0, step 1500; with ``-1`` behind it if that name was taken.

    Raises
    ------
    CheckpointError
        If it cannot be written (a full disk). Those before it are as they were.
    """
    fs, root = url_to_fs(str(path))
    epoch, step = manifest["version"]
    try:
        fs.makedirs(root, exist_ok=True)
        taken = names(path)
        _remove_halves(fs, root, taken)
        same = [order[2] for other in taken if (order := _order(other))[:2] == (epoch, step)]
        name = f"{epoch}.{step:08d}" + (f"-{max(same) + 1}" if same else "")
        with _aside(fs, root, name) as folder:
            _write(folder, name, tensors, manifest, blobs or {})
        _point(fs, root, name)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{path}: checkpoint cannot be written: {e}") from None
    older = [other for other in taken if _order(other) < _order(name)]
    for other in older[: max(0, len(older) + 1 - keep)]:
        fs.rm_file(f"{root}/{other}/{MANIFEST}")  # first, so that a half removed one is none
        fs.rm(f"{root}/{other}", recursive=True)
    return name


def load(path: str | Path, name: str | None = None) -> Checkpoint:
    """Load the checkpoint of this name, or the latest, or where that is damaged the one before it.

    Raises
    ------
    DamagedCheckpoint
        If it is damaged, or all of them are.
    CheckpointError
        If there is none.
    """
    fs, root = url_to_fs(str(path))
    found = names(path)
    if name is not None:
        if name not in found:
            raise CheckpointError(f"{path}: expected a checkpoint {name}, got {', '.join(found) or 'none'}")
        return _load(fs, root, name)
    damaged: list[DamagedCheckpoint] = []
    for candidate in _newest_first(fs, root, found):
        try:
            whole = _load(fs, root, candidate)
        except DamagedCheckpoint as e:
            damaged.append(e)
            continue
        for refused in damaged:
            logger.warning("checkpoint refused, the one before it is used: %s", refused)
        return whole
    raise damaged[0] if damaged else CheckpointError(f"{path}: expected a checkpoint, got none")


def names(path: str | Path) -> list[str]:
    """The checkpoints there are, oldest first; whether they are whole is only known when they are loaded."""
    fs, root = url_to_fs(str(path))
    fs.invalidate_cache(root)
    if not fs.isdir(root):
        return []
    found = [Path(folder).name for folder in fs.ls(root, detail=False)]
    whole = [name for name in found if _NAME.fullmatch(name) and fs.exists(f"{root}/{name}/{MANIFEST}")]
    return sorted(whole, key=_order)


def weights_sha256(tensors: Tensors) -> str:
    """One hash of names, dtypes, shapes and bytes: equal where and only where two models are, bit for bit.

    >>> a, b = np.zeros(3, np.float32), np.ones((2, 2))
    >>> weights_sha256({"a": a, "b": b}) == weights_sha256({"b": b, "a": a})
    True
    >>> weights_sha256({"a": a, "b": b}) == weights_sha256({"a": b, "b": a})
    False
    """
    digest = sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _order(name: str) -> tuple[int, int, int]:
    match = _NAME.fullmatch(name)
    epoch, step, n = match.groups() if match else (-1, -1, None)
    return int(epoch), int(step), int(n or 0)


def _newest_first(fs: AbstractFileSystem, root: str, found: list[str]) -> list[str]:
    """The one that ``latest`` names, those before it, and only then any that it never came to name."""
    try:
        latest = fs.cat_file(f"{root}/{LATEST}").decode(errors="replace").strip()
    except FileNotFoundError:
        latest = ""
    named = {latest} if _NAME.fullmatch(latest) else set()  # also if it is not there: then that is said
    return sorted(
        named.union(found), key=lambda name: (_order(name) <= _order(latest), _order(name)), reverse=True
    )


@contextmanager
def _aside(fs: AbstractFileSystem, root: str, name: str) -> Iterator[Path]:
    """A local folder to write into, which becomes the checkpoint ``name`` at the end."""
    if not isinstance(fs, LocalFileSystem):
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
            # Without its manifest it is no checkpoint, so that goes last.
            for file in sorted(Path(temporary).iterdir(), key=lambda file: file.name == MANIFEST):
                fs.put_file(str(file), f"{root}/{name}/{file.name}")
        return
    folder = Path(root) / f".{name}"
    folder.mkdir()
    try:
        yield folder
        for file in (*folder.iterdir(), folder):
            _sync(file)
        folder.rename(Path(root) / name)
        _sync(Path(root))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _at_hand(fs: AbstractFileSystem, root: str, name: str) -> Iterator[Path]:
    """A local folder with the files of a checkpoint."""
    if isinstance(fs, LocalFileSystem):
        yield Path(root) / name
        return
    with TemporaryDirectory() as folder:
        for file in fs.ls(f"{root}/{name}", detail=False):
            fs.get_file(file, f"{folder}/{Path(file).name}")
        yield Path(folder)


def _point(fs: AbstractFileSystem, root: str, name: str) -> None:
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(f"{root}/{LATEST}", f"{name}\n".encode())
        return
    aside = Path(root) / f".{LATEST}"
    aside.write_text(f"{name}\n")
    _sync(aside)
    aside.replace(Path(root) / LATEST)
    _sync(Path(root))


def _write(
    folder: Path, name: str, tensors: Tensors, manifest: Mapping[str, Any], blobs: Mapping[str, bytes]
) -> None:
    save_file({key: np.asarray(array, order="C") for key, array in tensors.items()}, folder / TENSORS)
    for blob, data in blobs.items():
        (folder / f"{blob}.bin").write_bytes(data)
    files = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    # The hash is that of the text as it will be read back.
    body = json.loads(json.dumps({"name": name, "files": files, "manifest": manifest}, allow_nan=False))
    (folder / MANIFEST).write_text(json.dumps({"sha256": _body_sha256(body), **body}, indent=1) + "\n")


def _load(fs: AbstractFileSystem, root: str, name: str) -> Checkpoint:
    where = f"{root}/{name}"
    try:
        with _at_hand(fs, root, name) as folder:
            body = json.loads((folder / MANIFEST).read_text())
            expected, got = body.pop("sha256"), _body_sha256(body)
            if expected != got:
                raise DamagedCheckpoint(f"{where}/{MANIFEST}: expected sha256 {expected}, got {got}")
            for file, expected in body["files"].items():
                if (got := _sha256(folder / file)) != expected:
                    raise DamagedCheckpoint(f"{where}/{file}: expected sha256 {expected}, got {got}")
            blobs = {
                file[:-4]: (folder / file).read_bytes() for file in body["files"] if file.endswith(".bin")
            }
            return Checkpoint(name, load_file(folder / TENSORS), body["manifest"], blobs)
    except FileNotFoundError as e:
        raise DamagedCheckpoint(
            f"{where}/{Path(e.filename or MANIFEST).name}: expected a file, got none"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise DamagedCheckpoint(f"{where}/{MANIFEST}: expected a manifest, got {e!r}") from None


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return file_digest(f, "sha256").hexdigest()


def _body_sha256(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _remove_halves(fs: AbstractFileSystem, root: str, whole: list[str]) -> None:
    """What an interrupted save or removal has left."""
    for folder in fs.ls(root, detail=False):
        name = Path(folder).name
        if _NAME.fullmatch(name.removeprefix(".")) and name not in whole:
            fs.rm(folder, recursive=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
