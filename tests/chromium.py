"""A real browser for the tests of pages."""

import os
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# Without these, Chromium itself calls home, and asks for a display and a sandbox that a container lacks.
_QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")  # while it runs, its thread has an event loop, which other modules may want to start
def browser():
    """Start a headless Chromium. Where there is none the test is skipped, but in CI it fails."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("There is no Chromium, and CI needs one: apt-get install chromium.")
        pytest.skip("There is no Chromium on the PATH: apt-get install chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_QUIET)
        yield browser
        browser.close()
