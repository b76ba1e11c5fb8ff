"""A browser, pages that are watched, and the server with scripted answers.

`make test-browser` runs these tests. They need Playwright and a Chromium; where one is missing they are skipped, but
fail if `CI` is set.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fake_api import FakeApi

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REFUSED = "Failed to load resource:"  # Chromium notes each request that fails so
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Skip the tests of this folder without a browser, with what is missing; never in continuous integration."""
    why = missing()
    if why is None or (os.environ.get("CI") and "PADDLEMIX_TEST_BROWSER" in os.environ):
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=why))


def missing() -> str | None:
    if "PADDLEMIX_TEST_BROWSER" not in os.environ:
        return "make test-browser runs these tests"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: make test-browser installs it"
    if executable() is None:
        return "no Chromium: apt-get install chromium"
    return None


def executable() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


@pytest.fixture(scope="session")
def chromium():
    why = missing()
    assert why is None, why
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def fake_server():
    api = FakeApi()
    yield api
    api.stop()


@pytest.fixture
def api(fake_server):
    fake_server.reset()
    return fake_server


@pytest.fixture
def open_page(chromium):
    """Return a function that opens a page in a fresh browser profile.

    Afterwards fail for anything that the browser complained about (errors of scripts, of the content security policy)
    and for any request to another host.
    """
    contexts, problems = [], []

    def watch(page, host: str):
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("console", lambda line: note_line(problems, line))
        page.on("request", lambda request: note_request(problems, request, host))

    def open_it(url: str, width: int = 1280, height: int = 800, **options):
        options = {"locale": "en-US", "color_scheme": "light", "reduced_motion": "reduce", **options}
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        watch(page, urlsplit(url).netloc)
        page.goto(url)
        page.wait_for_selector(".composer")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == []


def note_line(problems: list[str], line) -> None:
    is_answer = line.text.startswith(REFUSED) and "/v1/" in line.location["url"]  # the page shows it
    if line.type in ("error", "warning") and not is_answer:
        problems.append(f"{line.type}: {line.text}")


def note_request(problems: list[str], request, host: str) -> None:
    url = urlsplit(request.url)
    if url.scheme not in ("data", "blob") and url.netloc != host:
        problems.append(f"request to {request.url}")


@pytest.fixture
def page(api, open_page):
    """Return the page of the server with scripted answers."""
    return open_page(api.url)
