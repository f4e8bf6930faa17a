"""One sweep, live: what a person who watches it sees and can do."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from orchestrator.schedulers.base import Action
from tests.e2e.live_sweep import TOTAL_STEPS, LiveSweep, sixteen_trials
from tests.e2e.server import Server
from winnow.types import TrialState


@pytest.fixture
def sweep(server: Server) -> LiveSweep:
    return LiveSweep(server.store)


def test_trials_and_their_numbers_appear_without_reloading(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    open_sweep(server, sweep, page)
    expect(page.get_by_text("No trials yet")).to_be_visible()
    expect(page.get_by_text("No steps yet").first).to_be_visible()

    trial = sweep.start(1, rate=2.5e-4)
    sweep.train(trial, 10)
    expect(row(page, 1)).to_contain_text("2.5e-4")
    expect(row(page, 1)).to_contain_text(f"10 / {TOTAL_STEPS}")
    expect_points(page, "Training loss", 10)
    expect_points(page, "Gradient norm", 10)

    sweep.evaluate(trial, 1.875)
    expect(row(page, 1)).to_contain_text("1.875")
    expect_points(page, "Held-out loss", 1)
    expect_not_reloaded(page)


def test_points_that_were_there_and_points_that_come_make_one_curve(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    trial = sweep.start(1)
    sweep.train(trial, 20)
    open_sweep(server, sweep, page)
    expect_points(page, "Training loss", 20)
    for _ in range(5):
        sweep.train(trial, 3)
    expect_points(page, "Training loss", 35)
    expect_not_reloaded(page)


def test_a_second_attempt_replaces_what_the_first_did_beyond_its_checkpoint(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    trial = sweep.start(1)
    sweep.train(trial, 10)
    checkpoint = sweep.checkpoint(trial)
    sweep.train(trial, 10)
    open_sweep(server, sweep, page)
    expect_points(page, "Training loss", 20)
    sweep.restart(trial, checkpoint, step=10)
    sweep.train(trial, 4)
    expect_points(page, "Training loss", 14)


def test_a_stopped_trial_shows_its_reason_as_it_happens(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    trial = sweep.start(1)
    sweep.train(trial, 8)
    open_sweep(server, sweep, page)
    expect(row(page, 1)).to_contain_text("Running")

    evidence = {
        "held_out_loss": 2.625,
        "rank": 6,
        "peers": 7,
        "features": {"norm_level": {"value": -0.31, "percentile": 78.0}},
        "weights": {"norm_level": 0.125},
    }
    sweep.decide(trial, Action.STOP, "held-out loss 2.625 ranks 6 of 7", evidence=evidence)
    sweep.end(trial, TrialState.PRUNED, "dynamics", "held-out loss 2.625 ranks 6 of 7")

    decisions = page.get_by_role("region", name="Decisions", exact=True)
    expect(decisions).to_contain_text("Trial 1 stopped")
    expect(decisions).to_contain_text("Held-out loss 2.625 ranks 6 of 7.")
    expect(row(page, 1)).to_contain_text("Stopped")
    expect(row(page, 1)).to_contain_text("dynamics")

    decisions.get_by_role("button", name="Evidence").click()
    feature = decisions.get_by_role("row").filter(has_text="Norm level")
    expect(feature).to_contain_text("-0.31")
    expect(feature).to_contain_text("78")
    expect(feature).to_contain_text("0.125")


def test_decisions_can_be_filtered_by_what_was_decided(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    first, second = sweep.start(1), sweep.start(2)
    sweep.decide(first, Action.CONTINUE, "it may go on")
    sweep.diverge(second, "its loss was not finite at step 3")
    open_sweep(server, sweep, page)
    decisions = page.get_by_role("region", name="Decisions", exact=True)
    expect(decisions).to_contain_text("It may go on.")
    decisions.get_by_role("button", name="Stop 1").click()
    expect(decisions).not_to_contain_text("It may go on.")
    expect(decisions).to_contain_text("Its loss was not finite at step 3.")
    expect(page).to_have_url(re.compile("decisions=stop"))


def test_the_head_shows_progress_gain_and_compute_saved(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    sweep.baseline(3.0, 0.05)
    sweep.complete(sweep.start(1), 1.5, 0.75)
    stopped = sweep.start(2)
    sweep.train(stopped, TOTAL_STEPS // 4)
    sweep.stop(stopped, "it ranks last")
    open_sweep(server, sweep, page)
    summary = page.get_by_role("region", name="Summary")
    expect(summary).to_contain_text("2 of 4 trials")
    for text in ("3.000", "1.500", "5.0 %", "75.0 %"):
        expect(summary).to_contain_text(text)
    # One trial of two was stopped after a quarter: 3/8 of their samples were not trained.
    expect(summary).to_contain_text("38 %")
    expect(page).to_have_title(re.compile(r"^50% · demo"))


def test_stopping_a_trial_asks_first_and_then_sends_the_command(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    trial = sweep.start(1)
    sweep.train(trial, 2)
    open_sweep(server, sweep, page)

    page.get_by_role("button", name="Stop trial 1").click()
    page.get_by_role("button", name="Keep running").click()
    assert server.store.pending_commands(sweep.id) == []

    page.get_by_role("button", name="Stop trial 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop trial").click()
    expect(page.get_by_role("button", name="Trial 1 is being stopped")).to_be_disabled()
    [command] = server.store.pending_commands(sweep.id)
    assert (command.kind, command.trial_id) == ("stop", trial)

    sweep.end(trial, TrialState.PRUNED, "user", "stopped by owner")
    expect(row(page, 1)).to_contain_text("by a user")
    expect(page.get_by_role("button", name="Trial 1 is being stopped")).to_be_hidden()


def test_canceling_the_sweep_asks_first_and_then_sends_the_command(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    sweep.start(1)
    open_sweep(server, sweep, page)
    page.get_by_role("button", name="Cancel sweep").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 trial has not finished")
    dialog.get_by_role("button", name="Cancel sweep").click()
    expect(page.get_by_role("button", name="Canceling…")).to_be_disabled()
    [command] = server.store.pending_commands(sweep.id)
    assert (command.kind, command.trial_id) == ("cancel", None)


def test_a_click_on_a_header_sorts_and_the_address_remembers(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    for number, (rate, loss) in enumerate([(1e-3, 2.5), (1e-5, 1.5), (1e-4, 3.5)], start=1):
        trial = sweep.start(number, rate)
        sweep.train(trial, 2)
        sweep.evaluate(trial, loss)
    open_sweep(server, sweep, page)
    expect_order(page, ["2", "1", "3"])  # best first
    page.get_by_role("button", name="Rate", exact=True).click()
    expect_order(page, ["2", "3", "1"])
    page.get_by_role("button", name="Rate", exact=True).click()
    expect_order(page, ["1", "3", "2"])
    page.reload()
    expect_order(page, ["1", "3", "2"])


def test_a_trial_is_opened_by_keyboard_and_stays_open_over_a_reload(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    for number, loss in ((1, 1.5), (2, 2.5)):
        trial = sweep.start(number)
        sweep.train(trial, 2)
        sweep.evaluate(trial, loss)
    open_sweep(server, sweep, page)
    row(page, 1).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    drawer = page.get_by_role("complementary", name="Trial 2")
    expect(drawer).to_contain_text("2.500")
    expect(drawer).to_contain_text("Effective batch size")
    expect(page).to_have_url(re.compile("trial=2"))
    page.reload()
    expect(drawer).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(page).not_to_have_url(re.compile("trial="))


def test_pointing_at_a_curve_names_its_trial_and_a_click_opens_it(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    sweep.train(sweep.start(7, rate=3e-4), TOTAL_STEPS)
    open_sweep(server, sweep, page)
    expect_points(page, "Training loss", TOTAL_STEPS)
    # Walk up the middle of the chart until the curve is met.
    plot = chart(page, "Training loss").locator(".u-over")
    box = plot.bounding_box()
    assert box is not None
    tip = page.get_by_text("Trial 7 · rate 3e-4")
    for share in range(95, 5, -5):
        plot.hover(position={"x": box["width"] / 2, "y": box["height"] * share / 100})
        if tip.is_visible():
            break
    expect(tip).to_be_visible()
    page.mouse.down()
    page.mouse.up()
    expect(page.get_by_role("complementary", name="Trial 7")).to_be_visible()


def test_a_zoom_survives_live_updates_and_a_reload(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    trial = sweep.start(1)
    sweep.train(trial, 12)
    open_sweep(server, sweep, page)
    expect_points(page, "Training loss", 12)
    plot = chart(page, "Training loss").locator(".u-over")
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.05, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile("zoom="))
    zoomed = page.url
    visible = chart(page, "Gradient norm").get_by_role("img").get_attribute("data-samples")
    assert visible is not None
    assert f"zoom={visible}" in zoomed
    with sweep.training_on(trial):
        expect_points(page, "Training loss", 20, at_least=True)
        assert page.url == zoomed
        for title in ("Training loss", "Gradient norm", "Held-out loss"):
            plot = chart(page, title).get_by_role("img")
            expect(plot).to_have_attribute("data-samples", visible)
    page.reload()
    assert page.url == zoomed
    page.get_by_role("button", name="Reset zoom").click()
    expect(page).not_to_have_url(re.compile("zoom="))


def test_the_axis_and_the_colours_are_kept_in_the_address(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    sweep.train(sweep.start(1), 12)
    open_sweep(server, sweep, page)
    page.get_by_role("button", name="Log x").click()
    page.get_by_role("button", name="By state").click()
    expect(page).to_have_url(re.compile("x=log.*colour=state"))
    page.reload()
    for name in ("Log x", "By state"):
        expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")


def test_a_lost_connection_is_announced_and_nothing_is_missing_after_it(
    own_server: Server, page: Page
) -> None:
    sweep = LiveSweep(own_server.store)
    trial = sweep.start(1)
    sweep.train(trial, 5)
    open_sweep(own_server, sweep, page)
    expect_points(page, "Training loss", 5)

    own_server.stop()
    expect(page.get_by_role("alert")).to_contain_text("Connection lost: reconnecting")
    sweep.train(trial, 7)
    sweep.decide(trial, Action.CONTINUE, "it was judged meanwhile")
    own_server.start()

    expect(page.get_by_role("alert")).to_be_hidden(timeout=30_000)
    expect_points(page, "Training loss", 12)
    expect(page.get_by_text("It was judged meanwhile.")).to_be_visible()
    sweep.train(trial, 3)
    expect_points(page, "Training loss", 15)
    expect_not_reloaded(page)


def test_an_ended_sweep_is_complete_and_offers_nothing_to_stop(
    server: Server, sweep: LiveSweep, page: Page
) -> None:
    trial = sweep.start(1)
    open_sweep(server, sweep, page)
    sweep.complete(trial, 1.25, 0.5)
    sweep.finish()
    expect(page.get_by_text("Up to date")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel sweep")).to_be_hidden()
    expect(row(page, 1)).to_contain_text("best")
    expect_points(page, "Training loss", TOTAL_STEPS)
    expect(page).to_have_title(re.compile("^completed · demo"))


def test_sixteen_trials_fit_on_the_page(server: Server, page: Page) -> None:
    sweep = sixteen_trials(server.store)
    open_sweep(server, sweep, page)
    expect(page.locator("tr[data-trial]")).to_have_count(16)
    wider = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wider, "the page scrolls sideways"


# --- words for what is on the page --------------------------------------------------------------


def open_sweep(server: Server, sweep: LiveSweep, page: Page) -> None:
    page.goto(server.page(sweep.path))
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.evaluate("window.neverReloaded = true")


def expect_not_reloaded(page: Page) -> None:
    assert page.evaluate("window.neverReloaded") is True


def row(page: Page, number: int) -> Locator:
    name = re.compile(rf"^{number}(best)?$")
    return page.locator("tr[data-trial]").filter(has=page.locator(".trial-number", has_text=name))


def chart(page: Page, title: str) -> Locator:
    return page.get_by_role("figure", name=title)


def expect_points(page: Page, title: str, count: int, *, at_least: bool = False) -> None:
    plot = chart(page, title).get_by_role("img")
    if at_least:
        page.wait_for_function(
            "([plot, count]) => Number(plot.dataset.points) >= count",
            arg=[plot.element_handle(), count],
        )
    else:
        expect(plot).to_have_attribute("data-points", str(count))


def expect_order(page: Page, numbers: list[str]) -> None:
    expect(page.locator("tr[data-trial] .trial-number")).to_have_text(
        [re.compile(rf"^{n}(best)?$") for n in numbers]
    )
