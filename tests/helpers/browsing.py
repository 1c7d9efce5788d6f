"""Open MLflow's web UI in a headless Chromium, as on a first visit."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

MILLISECONDS = 60_000  # a first load takes long on two cores
VIEWPORT = {"width": 1280, "height": 720}

# Keeps the assistant's panel closed, which opens on a first visit.
STORED = {"mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true", "mlflow.assistant.panelOpen_v1": "false"}


@contextlib.contextmanager
def browsing() -> Iterator["Browser"]:
    """Start a browser; the test is skipped if none is installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))]
    path = next(filter(None, candidates), None)
    with sync_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("Chromium is not installed: install Debian's chromium, or set CHROMIUM=<path>")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visiting(browser: "Browser") -> Iterator["Page"]:
    """Open a page without stored state."""
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(MILLISECONDS)
    context.add_init_script("".join(f"localStorage.setItem({key!r}, {value!r});" for key, value in STORED.items()))
    try:
        yield context.new_page()
    finally:
        context.close()


def visible(locator: "Locator") -> "Locator":
    """Wait until the first match is visible, and return the locator."""
    locator.first.wait_for(state="visible")
    return locator


def shown(page: "Page", *texts: str) -> None:
    """Wait until each of these texts is visible, as a whole text."""
    for text in texts:
        visible(page.get_by_text(text, exact=True))


def counted(locator: "Locator", count: int) -> None:
    """Wait until there are so many matches."""
    from playwright.sync_api import expect

    expect(locator).to_have_count(count, timeout=MILLISECONDS)


def row_of(page: "Page", run_name: str) -> "Locator":
    """Return the row of a run in the table of runs."""
    return page.locator(".ag-row", has=page.get_by_role("link", name=run_name, exact=True))


def links_to(page: "Page", run_name: str) -> "Locator":
    """Return the links to a run: each row has one."""
    return page.get_by_role("link", name=run_name, exact=True)


def curves(page: "Page", metric: str) -> "Locator":
    """Return the legend's entries of a metric's chart, one per run."""
    area = visible(page.get_by_test_id("experiment-view-compare-runs-chart-area"))
    return area.locator("span, div").get_by_text(f" ({metric})")


def screenshot(page: "Page", name: str) -> None:
    """Save a PNG of 256 colors in the folder that SCREENSHOTS names, if it is set."""
    if folder := os.environ.get("SCREENSHOTS"):
        file = Path(folder) / f"{name}.png"
        page.mouse.move(0, 0)  # nothing is highlighted by hovering
        page.screenshot(path=file, animations="disabled")
        with Image.open(file) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
