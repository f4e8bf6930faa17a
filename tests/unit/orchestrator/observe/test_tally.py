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


def test_a_bucket_holds_what_took_as_long_as_its_bound() -> None:
    """As Prometheus has it: `le`, less or equal."""
    tally = Tally()
    for seconds in (0.0, FAST[2], FAST[2] * 1.01, FAST[-1] * 2):
        tally.observe(COMMIT_SECONDS, seconds)
    (counts,) = tally.take()[COMMIT_SECONDS].values()
    assert [at for at, count in enumerate(counts[:-1]) if count] == [0, 2, 3, len(FAST)]


def test_what_was_counted_last_is_carried_at_the_end() -> None:
    tally, stored = Tally(), list[Figures]()
    reporter = Reporter(tally, stored.append, every=3600)
    reporter.start()
    tally.count(REPORTS)
    reporter.stop()
    assert stored == [{REPORTS: {"": 1}}]
