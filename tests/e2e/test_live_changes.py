"""Changing a sweep while it runs: on a real study with simulated workers, through the browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.e2e.live_sweep import LiveSweep
from tests.e2e.server import Server
from tests.e2e.simulated_driver import SimulatedDriver
from winnow.types import TrialState


@pytest.fixture
def live(server: Server) -> Iterator[SimulatedDriver]:
    """Six random configurations, two at once, a few seconds each."""
    driver = SimulatedDriver(
        server,
        "live",
        space={"learning_rate": {"log_uniform": [1e-4, 1e-1]}, "effective_batch_size": 20},
        search={"sampler": "random", "trials": 3, "seed": 1},
        budget={"trials": 20},
    )
    with driver.running():
        yield driver


def test_a_running_sweep_is_paused_cloned_pinned_and_extended(
    server: Server, live: SimulatedDriver, page: Page
) -> None:
    page.goto(server.page(live.path))
    expect(row(page, 1)).to_contain_text("Running")

    # Pause a trial: asked at once, done a moment later, and it says who and why.
    page.get_by_role("button", name="Pause trial 1").click()
    expect(row(page, 1)).to_contain_text("Paused by owner; it waits to be resumed.")
    expect(changes(page)).to_contain_text("Pause trial 1")
    expect(changes(page)).to_contain_text("owner")

    # Clone it, with a value that no trial can have first.
    row(page, 1).click()
    drawer = page.get_by_role("complementary", name="Trial 1")
    drawer.get_by_role("button", name="Clone…").click()
    dialog = page.get_by_role("dialog")
    rate = dialog.get_by_label("Learning rate")
    rate.fill("-1")
    dialog.get_by_role("button", name="Run clone").click()
    expect(rate).to_have_attribute("aria-invalid", "true")
    expect(dialog.locator(".field-fault")).to_contain_text("0")
    expect(rate).to_be_focused()
    rate.fill("0.012")
    dialog.get_by_role("button", name="Run clone").click()
    expect(dialog).to_be_hidden()
    clone = page.locator("tr[data-trial]").filter(has_text="clone of 1")
    expect(clone).to_contain_text("1.2e-2")

    # Pin the paused one: it is marked.
    drawer.get_by_role("button", name="Pin").click()
    expect(row(page, 1)).to_contain_text("pinned")
    expect(drawer.get_by_role("button", name="Unpin")).to_be_visible()

    # Extend beyond the budget, which is refused, and then within it.
    page.get_by_role("button", name="Extend…").click()
    more = dialog.get_by_label("Trials more")
    more.fill("50")
    dialog.get_by_role("button", name="Extend").click()
    expect(dialog).to_contain_text("the budget allows 20")
    more.fill("2")
    dialog.get_by_role("button", name="Extend").click()
    expect(page.get_by_role("region", name="Summary")).to_contain_text("of 6 trials")

    # The paused trial goes on, by keyboard.
    page.get_by_role("button", name="Close").click()
    row(page, 1).focus()
    page.keyboard.press("p")
    expect(row(page, 1)).not_to_contain_text("Paused")

    told = [(c.kind, c.issued_by, c.result) for c in server.store.commands(live.id)]
    assert [kind for kind, _, _ in told] == ["pause", "clone", "pin", "extend", "resume"]
    assert all(by == "owner" and result for _, by, result in told)
    (cloned,) = (t for t in server.store.list_trials(live.id).items if t.parent)
    assert cloned.params["learning_rate"] == 0.012


def test_a_sweep_is_paused_and_goes_on_where_it_was(
    server: Server, live: SimulatedDriver, page: Page
) -> None:
    page.goto(server.page(live.path))
    expect(row(page, 1)).to_contain_text("Running")
    summary = page.get_by_role("region", name="Summary")
    summary.get_by_role("button", name="Pause").click()
    expect(summary).to_contain_text("its workers are free for others")
    assert server.store.get_sweep(live.id).state == "PAUSED"
    summary.get_by_role("button", name="Resume").click()
    expect(summary).to_contain_text("Running")
    expect(row(page, 1)).to_contain_text("Running")


def test_an_ended_sweep_is_extended_and_its_page_follows_it_again(
    server: Server, page: Page
) -> None:
    short = SimulatedDriver(
        server,
        "short",
        space={"learning_rate": {"log_uniform": [1e-4, 1e-1]}, "effective_batch_size": 200},
        search={"sampler": "random", "trials": 2, "seed": 1},
    )
    with short.running():
        page.goto(server.page(short.path))
        expect(page.get_by_text("Up to date")).to_be_visible()
        page.get_by_role("button", name="Extend…").click()
        page.get_by_label("Trials more").fill("1")
        page.get_by_role("dialog").get_by_role("button", name="Extend").click()
        expect(page.get_by_role("region", name="Summary")).to_contain_text("3 of 3 trials")
        expect(changes(page)).to_contain_text("1 trial more")
        expect(page.get_by_text("Up to date")).to_be_visible()


def test_what_waits_says_why_on_the_page_and_in_the_list(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, name="waits", planned=4)
    trial = sweep.start(1)
    sweep.train(trial, 4)
    server.store.grant(sweep.id, 1, "project default has one slot left")
    budget = [
        {"what": "trials", "used": 1, "limit": 4, "projected": 4},
        {"what": "hours", "used": 0.5, "limit": 1.0, "projected": 2.0},
    ]
    server.store.write(sweep.lease, lambda tx: tx.set_plan(account={"spending": budget}))
    page.goto(server.page(sweep.path))
    card = page.get_by_role("region", name="Share and budget")
    expect(card).to_contain_text("1 of 1 in use")
    expect(card).to_contain_text("Project default has one slot left.")
    expect(card.get_by_role("img", name="Time: 30 min of 1 h 00 min used")).to_be_visible()
    expect(card).to_contain_text("About 2 h 00 min at its end: the budget will end it before")
    page.goto(server.page("/"))
    listed = page.locator("tr").filter(has_text="waits")
    expect(listed).to_contain_text("Project default has one slot left.")


def test_a_request_shows_as_asked_until_it_has_its_result(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, name="slow")
    sweep.start(1)
    page.goto(server.page(sweep.path))
    page.get_by_role("button", name="Pause trial 1").click()
    expect(row(page, 1)).to_contain_text("Pause asked, waiting")
    expect(page.get_by_role("button", name="Trial 1 is being paused")).to_be_disabled()
    expect(row(page, 1)).to_contain_text("Running")
    page.reload()
    expect(row(page, 1)).to_contain_text("Pause asked, waiting")
    (command,) = server.store.pending_commands(sweep.id)
    server.store.finish_command(command.id, "it is about to end")
    expect(row(page, 1)).not_to_contain_text("asked")
    expect(changes(page)).to_contain_text("It is about to end.")


def test_what_is_refused_is_said_and_nothing_is_shown_as_asked(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, name="refused")
    trial = sweep.start(1)
    page.goto(server.page(sweep.path))
    expect(row(page, 1)).to_contain_text("Running")

    def trial_ends_first(request: Route) -> None:
        sweep.end(trial, TrialState.CANCELED, "user", "Stopped.")
        request.continue_()

    page.route("**/v1/trials/*:pause", trial_ends_first)
    page.get_by_role("button", name="Pause trial 1").click()
    refusal = page.get_by_role("alert").filter(has_text="has ended: it is CANCELED")
    expect(refusal).to_be_visible()
    refusal.get_by_role("button", name="Dismiss").click()
    expect(refusal).to_be_hidden()
    assert server.store.pending_commands(sweep.id) == []


def test_the_dialogs_fit_a_narrow_page_and_close_with_escape(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, name="narrow")
    sweep.start(1)
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(server.page(sweep.path))
    page.get_by_role("button", name="Change", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Trials at once")).to_be_focused()
    assert dialog.evaluate("d => d.scrollWidth <= d.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def row(page: Page, number: int) -> Locator:
    name = re.compile(rf"^{number}(best)?(pinned)?(clone of \d+)?$")
    return page.locator("tr[data-trial]").filter(has=page.locator(".trial-number", has_text=name))


def changes(page: Page) -> Locator:
    return page.get_by_role("region", name="Changes")
