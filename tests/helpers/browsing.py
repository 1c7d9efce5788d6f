"""MLflow's web UI in a headless Chromium, as a first visitor sees it."""

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

# The assistant's panel stays closed: it would open by itself on a first visit.
STORED = {"mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true", "mlflow.assistant.panelOpen_v1": "false"}


@contextlib.contextmanager
def browsing() -> Iterator["Browser"]:
    """A browser; where there is none, the test is skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))]
    path = next(filter(None, found), None)
    with sync_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: install Debian's chromium, or name one by CHROMIUM=<path>")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visiting(browser: "Browser") -> Iterator["Page"]:
    """A page of somebody who has never been there."""
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(MILLISECONDS)
    context.add_init_script("".join(f"localStorage.setItem({key!r}, {value!r});" for key, value in STORED.items()))
    try:
        yield context.new_page()
    finally:
        context.close()


def visible(found: "Locator") -> "Locator":
    """This, once the first of it can be seen."""
    found.first.wait_for(state="visible")
    return found


def shown(page: "Page", *texts: str) -> None:
    """Wait until each of these texts, whole, can be seen."""
    for text in texts:
        visible(page.get_by_text(text, exact=True))


def counted(found: "Locator", count: int) -> None:
    """Wait until there are so many of it."""
    from playwright.sync_api import expect

    expect(found).to_have_count(count, timeout=MILLISECONDS)


def row_of(page: "Page", run_name: str) -> "Locator":
    """The row of a run in the table of runs."""
    return page.locator(".ag-row", has=page.get_by_role("link", name=run_name, exact=True))


def links_to(page: "Page", run_name: str) -> "Locator":
    """What leads to a run: a row has one."""
    return page.get_by_role("link", name=run_name, exact=True)


def curves(page: "Page", metric: str) -> "Locator":
    """The legend's entries of a metric's chart, one a run."""
    area = visible(page.get_by_test_id("experiment-view-compare-runs-chart-area"))
    return area.locator("span, div").get_by_text(f" ({metric})")


def screenshot(page: "Page", name: str) -> None:
    """Keep what can be seen as a PNG of 256 colours in the folder that SCREENSHOTS names, if it names one."""
    if folder := os.environ.get("SCREENSHOTS"):
        file = Path(folder) / f"{name}.png"
        page.mouse.move(0, 0)  # nothing is lit by hovering
        page.screenshot(path=file, animations="disabled")
        with Image.open(file) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
