"""What a sweep's page says of the evidence behind early decisions, and of several objectives."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from orchestrator.schedulers.base import Action
from tests.e2e.live_sweep import LiveSweep
from tests.e2e.server import Server

SAID: dict[str, Any] = {
    "scheduler": "dynamics",
    "announced_risk": 0.05,
    "risk_taken": 0.012,
    "weights": {"held_out": 1.0, "norm_and_loss": 0.21, "interval": [0.05, 0.4]},
    "persistence": {"mean": 0.8, "interval": [0.5, 0.9]},
    "guard": {"state": "open", "text": ""},
    "audit": {"audited_stops": 2, "needed": 8, "note": "not enough audits (2)"},
    "paper_sign": {"agrees": None, "partial": -0.1, "interval": [-0.4, 0.2], "text": "unsure"},
    "transfer": {"sweeps": 3, "weight": 0.4},
}


def card(page: Page) -> Locator:
    return page.get_by_role("region", name="Early decisions")


def line(page: Page, name: str) -> Locator:
    return card(page).locator(".early-row").filter(has=page.get_by_text(name, exact=True))


def dynamics(**changes: Any) -> dict[str, Any]:
    return {"scheduler": {"name": "dynamics", "mode": "act", "audit": 0.2} | changes}


def test_the_evidence_appears_with_the_first_decision(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, **dynamics())
    trial = sweep.start(1)
    page.goto(server.page(sweep.path))
    expect(card(page)).to_contain_text("Nothing yet")
    sweep.train(trial, 8)
    sweep.account(SAID)
    sweep.decide(trial, Action.CONTINUE, "it goes on")
    expect(line(page, "Risk of losing the best")).to_contain_text("1.2 % of 5.0 %")
    expect(line(page, "Weight of norm and loss")).to_contain_text("0.21 (0.05 to 0.40)")
    expect(line(page, "Early ranks hold")).to_contain_text("0.80 (0.50 to 0.90)")
    expect(line(page, "Guard")).to_contain_text("Has not fired")
    expect(line(page, "False stops")).to_contain_text("not enough audits (2)")
    expect(line(page, "The paper’s sign")).to_contain_text("−0.10 (−0.40 to 0.20)")
    expect(line(page, "The paper’s sign")).to_contain_text("Unsure.")
    expect(line(page, "Earlier sweeps")).to_contain_text("3 with weight 0.40")


def test_a_guard_that_has_fired_says_why_and_audits_give_a_rate(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, **dynamics())
    audit = {
        "audited_stops": 10,
        "needed": 8,
        "false_stops": 1,
        "rate": 0.1,
        "interval": [0.03, 0.36],
    }
    guard = {"state": "fired", "text": "early places do not tell the end here"}
    sweep.account(SAID | {"audit": audit, "guard": guard})
    page.goto(server.page(sweep.path))
    expect(line(page, "Guard")).to_contain_text("Fired")
    expect(line(page, "Guard")).to_contain_text("Early places do not tell the end here.")
    expect(line(page, "False stops")).to_contain_text("10 % (3 % to 36 %)")
    expect(line(page, "False stops")).to_contain_text("1 of 10 audited stops")


def test_without_an_audit_the_page_says_how_to_get_one(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, scheduler={"name": "asha", "mode": "act", "audit": 0.0})
    sweep.account({"audit": {"audited_stops": 0, "needed": 8, "note": "not enough audits (0)"}})
    page.goto(server.page(sweep.path))
    expect(line(page, "False stops")).to_contain_text("With scheduler.audit above 0")
    expect(card(page).locator(".early-row")).to_have_count(1)


def test_a_sweep_that_ends_nobody_early_has_no_such_card(server: Server, page: Page) -> None:
    sweep = LiveSweep(server.store, scheduler={"name": "none"})
    page.goto(server.page(sweep.path))
    expect(page.get_by_role("region", name="Leaderboard")).to_be_visible()
    expect(card(page)).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_its_column(server: Server, new_page: Any, scheme: str) -> None:
    sweep = LiveSweep(server.store, **dynamics())
    sweep.account(SAID | {"guard": {"state": "fired", "text": "x" * 300}})
    page = new_page(color_scheme=scheme)
    page.goto(server.page(sweep.path))
    expect(line(page, "Guard")).to_be_visible()
    assert card(page).evaluate("card => card.scrollWidth <= card.clientWidth")


def test_the_trials_on_the_front_are_marked_with_all_their_figures(
    server: Server, page: Page
) -> None:
    objective = {
        "metric": "eval/loss",
        "mode": "min",
        "also": [{"metric": "general/loss", "mode": "min"}],
    }
    sweep = LiveSweep(server.store, objective=objective)
    for number, loss, general in ((1, 1.0, 3.0), (2, 1.5, 2.0), (3, 2.0, 2.5)):
        sweep.complete(sweep.start(number), loss, 0.5, {"general/loss": general})
    page.goto(server.page(sweep.path))
    board = page.get_by_role("region", name="Leaderboard")
    expect(board).to_contain_text("2 on the front")
    expect(board.get_by_role("columnheader", name="General loss")).to_be_visible()
    rows = board.locator("tr[data-trial] .trial-number")
    expect(rows).to_have_text(["1best", "2front", "3"])
    expect(board.locator("tr[data-trial]").nth(1)).to_contain_text("2.000")
