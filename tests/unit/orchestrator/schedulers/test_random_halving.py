from __future__ import annotations

from collections import Counter

from orchestrator.schedulers import Action, make_scheduler
from orchestrator.schedulers.simulate import simulate
from winnow.spec import SchedulerSpec


def run(recorded, name: str, seed: int = 0, **settings):
    spec = SchedulerSpec(name=name, **settings)  # type: ignore[arg-type]
    return simulate(make_scheduler(spec, seed), recorded, workers=2)


def test_spends_what_asha_spends(sweep) -> None:
    for eta in (2, 3):
        saved = {
            name: [run(sweep(24, seed=s), name, seed=s, eta=eta).saved for s in range(8)]
            for name in ("random", "asha")
        }
        mean = {name: sum(values) / len(values) for name, values in saved.items()}
        assert abs(mean["random"] - mean["asha"]) < 0.03


def test_whom_it_keeps_has_nothing_to_do_with_how_they_do(sweep) -> None:
    finals: list[int] = []
    for seed in range(40):
        recorded = sweep(12, seed=seed)
        by_end = sorted(recorded, key=lambda r: r.value)
        kept = run(recorded, "random", seed=seed).trials
        finals += [n for n, r in enumerate(by_end) if kept[r.info.id].state == "COMPLETED"]
    assert 4.5 < sum(finals) / len(finals) < 6.5  # 5.5 is the middle of 0 … 11
    assert max(Counter(finals).values()) < 3 * len(finals) / 12


def test_the_seed_settles_it_and_the_records_do_not(sweep) -> None:
    def completed(trials: str, seed: int) -> set[str]:
        recorded = sweep(16, seed=5) if trials == "some" else sweep(16, seed=6)
        result = run(recorded, "random", seed=seed)
        return {i for i, t in result.trials.items() if t.state == "COMPLETED"}

    assert completed("some", 1) == completed("others", 1)
    assert len({frozenset(completed("some", seed)) for seed in range(6)}) > 3


def test_each_rung_draws_anew(sweep) -> None:
    result = run(sweep(24), "random", eta=2)
    draws: dict[str, set[float]] = {}
    for decision in result.decisions:
        draws.setdefault(decision.trial_id, set()).add(decision.evidence["draw"])
    completed = [i for i, t in result.trials.items() if t.state == "COMPLETED"]
    assert completed
    assert all(len(draws[i]) == 3 for i in completed)


def test_says_that_it_drew_a_number(sweep) -> None:
    result = run(sweep(8), "random")
    ends = [d for d in result.decisions if d.action is Action.STOP]
    assert ends
    for decision in ends:
        assert decision.code == "random"
        assert decision.reason.startswith(f"random draw {decision.evidence['draw']:.3f} at ")
        assert "held-out loss" not in decision.reason
