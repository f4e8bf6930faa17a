"""Getting in: the token, the first look, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.e2e.live_sweep import LiveSweep
from tests.e2e.server import Server


def test_without_a_token_the_page_asks_for_one(server: Server, page: Page) -> None:
    page.goto(server.url)
    expect(page.get_by_role("heading", name="This server asks for a token")).to_be_visible()

    page.get_by_label("Token").fill("not-the-token")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="That token was refused")).to_be_visible()

    page.get_by_label("Token").fill(server.token)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="Sweeps", exact=True)).to_be_visible()


def test_a_token_in_the_address_is_taken_over_and_disappears_from_it(
    server: Server, page: Page
) -> None:
    page.goto(server.page())
    expect(page.get_by_role("heading", name="Sweeps", exact=True)).to_be_visible()
    assert server.token not in page.url
    page.goto(server.url)
    expect(page.get_by_role("heading", name="Sweeps", exact=True)).to_be_visible()


def test_the_token_stays_out_of_scripts_reach_and_signing_out_forgets_it(
    server: Server, page: Page
) -> None:
    page.goto(server.page())
    expect(page.get_by_role("heading", name="Sweeps", exact=True)).to_be_visible()
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert "wnw_" not in kept
    assert "wns_" not in kept

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="This server asks for a token")).to_be_visible()
    page.goto(server.url)
    expect(page.get_by_role("heading", name="This server asks for a token")).to_be_visible()


def test_an_empty_server_shows_how_to_submit_a_sweep(own_server: Server, page: Page) -> None:
    page.goto(own_server.page())
    expect(page.get_by_role("heading", name="No sweeps yet")).to_be_visible()
    expect(page.get_by_text("winnow submit sweep.yaml")).to_be_visible()

    LiveSweep(own_server.store, "just-submitted")
    expect(page.get_by_role("link", name="just-submitted")).to_be_visible()


def test_a_silent_orchestrator_is_announced(own_server: Server, page: Page) -> None:
    page.goto(own_server.page())
    expect(page.get_by_text("No orchestrator has reported")).to_be_visible()

    own_server.store.report_cluster({"CPU": 2.0})
    expect(page.get_by_text("No orchestrator has reported")).to_be_hidden()


def test_the_list_shows_where_each_sweep_stands(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, "half-done", planned=2)
    sweep.complete(sweep.start(1), 1.234, 0.5)
    page.goto(server.page())
    row = page.get_by_role("row").filter(has_text="half-done")
    expect(row).to_contain_text("Running")
    expect(row).to_contain_text("1 / 2")
    expect(row).to_contain_text("1.234")

    row.get_by_role("link", name="half-done").click()
    expect(page).to_have_url(re.compile(rf"/sweeps/{sweep.id}$"))
    expect(page.get_by_role("heading", name="half-done")).to_be_visible()


def test_dark_mode_follows_the_system_until_chosen(
    server: Server, new_page: Callable[..., Page]
) -> None:
    page = new_page(color_scheme="dark")
    page.goto(server.page())
    expect(page.get_by_role("heading", name="Sweeps", exact=True)).to_be_visible()
    assert _brightness(page) < 40

    page.get_by_role("button", name="Switch to light mode").click()
    assert _brightness(page) > 220
    page.reload()
    expect(page.get_by_role("heading", name="Sweeps", exact=True)).to_be_visible()
    assert _brightness(page) > 220


def test_names_are_shown_as_text(server: Server, page: Page) -> None:
    name = "<img src=x onerror=\"document.title='broken'\">"
    sweep = LiveSweep(server.store, name)
    page.goto(server.page(sweep.path))
    expect(page.get_by_role("heading", name=name)).to_be_visible()


def test_an_unknown_sweep_says_so(server: Server, page: Page) -> None:
    page.goto(server.page("/sweeps/nowhere"))
    expect(page.get_by_role("heading", name="There is no such sweep")).to_be_visible()
    page.get_by_role("link", name="All sweeps").click()
    expect(page.get_by_role("heading", name="Sweeps", exact=True)).to_be_visible()


def _brightness(page: Page) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [int(value) for value in re.findall(r"\d+", colour)[:3]]
    return sum(channels) / 3
