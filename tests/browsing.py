"""Debian's chromium, driven by Playwright, and what its pages complain of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.services.servers import NotThere

FLAGS = [
    f"--{flag}"
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    )
]
SIZES = {"desktop": (1280, 900), "phone": (360, 740)}


@contextmanager
def chromium() -> Iterator[Browser]:
    """The chromium of the PATH; NotThere if there is none."""
    program = shutil.which("chromium")
    if program is None:
        raise NotThere("no chromium on the PATH (deploy/browser.sh, or apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()
