"""A browser, and a server for it. Without a browser these tests are skipped, and say so loudly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.server import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STATIC = Path(__file__).parents[2] / "api" / "static"

TIMEOUT = 60_000
"""Milliseconds that a page may take to show what it should: a loaded machine is slow."""

NO_BROWSER = (
    "no Chromium found (looked for " + ", ".join(BROWSERS) + "); "
    "on Debian: apt-get install chromium"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for a page drives a browser."""
    for item in items:
        if "page" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    unseen = [r for r in terminalreporter.stats.get("skipped", []) if NO_BROWSER in str(r.longrepr)]
    if unseen:
        terminalreporter.section("BROWSER TESTS DID NOT RUN", sep="!", yellow=True, bold=True)
        terminalreporter.line(
            f"{len(unseen)} browser tests were skipped: {NO_BROWSER}. "
            "The dashboard is untested in this run.",
            yellow=True,
            bold=True,
        )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(NO_BROWSER)
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def built() -> None:
    """The dashboard must be there: a test of yesterday's build tells nothing."""
    if not (STATIC / "index.html").is_file():
        pytest.fail("the dashboard is not built; run `make dashboard`", pytrace=False)


@pytest.fixture(scope="session")
def server(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests share; each makes sweeps of its own."""
    yield from _running(tmp_path_factory.mktemp("home"))


@pytest.fixture
def own_server(built: None, tmp_path: Path) -> Iterator[Server]:
    """A server with an empty database, for one test."""
    yield from _running(tmp_path)


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages, each in a browser profile of its own. Fails the test if one of them logs an
    error: a broken script, or something that the Content-Security-Policy turned away."""
    contexts = []
    errors: list[str] = []

    def open_page(**options: str) -> Page:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)  # type: ignore[arg-type]
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            # A refused request is the business of the test that provokes it.
            lambda m: (
                errors.append(m.text)
                if m.type == "error" and not m.text.startswith("Failed to load resource")
                else None
            ),
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    return new_page(color_scheme="light")


def _running(home: Path) -> Iterator[Server]:
    server = Server(home)
    try:
        server.start()
        yield server
    finally:
        server.close()
