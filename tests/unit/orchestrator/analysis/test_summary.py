from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.analysis import compute_saved


@dataclass
class Use:
    samples: int
    total_samples: int
    seconds: float


def test_saved_samples_and_seconds_at_each_trial_s_own_pace() -> None:
    saved = compute_saved([Use(100, 100, 10.0), Use(25, 100, 5.0), Use(0, 100, 0.0)])
    assert (saved.samples_trained, saved.samples_full, saved.samples_saved) == (125, 300, 175)
    assert saved.fraction == pytest.approx(175 / 300)
    assert saved.seconds == 15.0
    # 75 samples at 0.2 s, and 100 at the median pace of 0.15 s
    assert saved.seconds_saved == pytest.approx(15.0 + 15.0)


def test_a_sweep_without_trials_has_saved_nothing() -> None:
    saved = compute_saved([])
    assert (saved.samples_saved, saved.fraction, saved.seconds_saved) == (0, 0.0, 0.0)


def test_a_last_batch_past_the_budget_is_no_negative_saving() -> None:
    assert compute_saved([Use(104, 100, 10.0)]).samples_saved == 0
