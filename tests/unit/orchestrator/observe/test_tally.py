"""What processes count is added up, and nothing that was not carried is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import StoreUnavailable
from orchestrator.observe.catalogue import COMMIT_SECONDS, FAST, RENEWALS, REPORTS
from orchestrator.observe.reporting import Reporter
from orchestrator.observe.tally import Figures, Tally, added


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(0, 30))
def test_it_does_not_matter_how_often_figures_are_carried(seconds: list[float], cut: int) -> None:
    whole, parts, total = Tally(), Tally(), {}
    for number, value in enumerate(seconds):
        if number == cut:
            total = added(total, parts.take())
        for tally in (whole, parts):
            tally.observe(COMMIT_SECONDS, value)
            tally.count(RENEWALS, "renewed")
    total = added(total, parts.take())
    expected = whole.take()
    if not seconds:
        assert total == expected == {}
        return
    (counted,) = total[COMMIT_SECONDS].values()
    (right,) = expected[COMMIT_SECONDS].values()
    assert counted[:-1] == right[:-1]
    assert sum(counted[:-1]) == len(seconds) == total[RENEWALS]["renewed"]
    assert abs(counted[-1] - sum(seconds)) < 1e-6
    assert len(counted) == len(FAST) + 2


def test_what_the_database_did_not_take_is_carried_later() -> None:
    tally, stored = Tally(), list[Figures]()
    away = True

    def carry(figures: Figures) -> None:
        if away:
            raise StoreUnavailable("away")
        stored.append(figures)

    reporter = Reporter(tally, carry)
    tally.count(REPORTS, by=2)
    reporter.report()
    tally.count(REPORTS)
    away = False
    reporter.report()
    reporter.report()
    assert stored == [{REPORTS: {"": 3}}]
