"""The monitor's page as pictures, of a day that is made: ``python -m benchmarks.screenshots [FOLDER]``.

Light and dark, on a desktop and on a phone, into docs/images if no other folder is named. They are written in 256
colours, which is a third of what the browser writes. How long the first paint took is printed.
"""

from __future__ import annotations

import base64
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page

from tests.browsing import SIZES, chromium
from tests.monitor import made
from tests.monitor.serving import listening

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SHOWN = "#last=24h&size=10m"
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
PIXELS = """async (png) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const { data } = pen.getImageData(0, 0, image.width, image.height), parts = [];
  for (let i = 0; i < data.length; i += 32768) parts.push(String.fromCharCode(...data.subarray(i, i + 32768)));
  return [image.width, btoa(parts.join(""))];
}"""


def main(folder: Path) -> None:
    """Take all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    board = made.board(time.time_ns() // 1_000_000)
    with listening(board) as address, chromium() as browser:
        for size, (width, height) in SIZES.items():
            for scheme in SCHEMES:
                path = folder / f"monitor-{scheme}-{size}.png"
                path.write_bytes(_taken(browser, address + SHOWN, width, height, scheme))
                print(f"{path}: {path.stat().st_size / 1_000:.0f} kB")


def _taken(
    browser: Browser, address: str, width: int, height: int, scheme: Literal["light", "dark"]
) -> bytes:
    """One picture as PNG."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(address)
    page.wait_for_selector("body[data-loaded]")
    page.locator("figure.plot .stage[data-drawn]").first.wait_for()
    page.evaluate(FRAME)
    print(f"first paint after {page.evaluate(PAINTED):.0f} ms")
    found = encoded(_pixels(page, page.screenshot()))
    page.close()
    return found


def _pixels(page: Page, png: bytes) -> NDArray[np.uint8]:
    """uint8 ``[height, width, 3]``: a browser reads what it wrote."""
    width, raw = page.evaluate(PIXELS, base64.b64encode(png).decode())
    return np.frombuffer(base64.b64decode(raw), np.uint8).reshape(-1, width, 4)[..., :3]


def encoded(pixels: NDArray[np.uint8], n_most: int = 256) -> bytes:
    """A picture as PNG in its most frequent colours, all others as the nearest of them.

    Parameters
    ----------
    pixels
        uint8 ``[height, width, 3]``.
    """
    height, width, _ = pixels.shape
    colours, place, counts = np.unique(
        pixels.reshape(-1, 3) & 0xFC, axis=0, return_inverse=True, return_counts=True
    )
    kept = np.sort(np.argsort(-counts, kind="stable")[:n_most])
    palette = colours[kept].astype(np.int32)
    far = ((colours[:, None].astype(np.int32) - palette) ** 2).sum(axis=2)
    indices = far.argmin(axis=1).astype(np.uint8)[place.reshape(height, width)]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), indices], axis=1)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": _mean_colours(pixels, indices, len(kept)).tobytes(),
        b"IDAT": zlib.compress(lines.tobytes(), 9),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(raw)) + name + raw + struct.pack(">I", zlib.crc32(name + raw))
        for name, raw in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _mean_colours(pixels: NDArray[np.uint8], indices: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
    """uint8 ``[n, 3]``: of all that is shown as each."""
    counts = np.bincount(indices.ravel(), minlength=n)
    sums = [np.bincount(indices.ravel(), pixels[..., c].ravel(), n) for c in range(3)]
    return np.rint(np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]).astype(np.uint8)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "images")
