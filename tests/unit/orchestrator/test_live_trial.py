"""A trial's objective, found among what was measured on it."""

from __future__ import annotations

import pytest

from orchestrator.live_trial import LiveTrial
from trainer.metrics import Evaluation
from winnow.objective import parse_metric
from winnow.types import TrialState


def measured(split: str, dataset: str, loss: float | None = None, **parts) -> Evaluation:
    return Evaluation(1, 10, split, dataset, loss, parts.pop("tokens", 100), **parts)  # type: ignore[arg-type]


@pytest.fixture
def trial() -> LiveTrial:
    found = LiveTrial("s-1", 1, "search", TrialState.RUNNING, {}, {}, 100)
    found.note(
        [
            measured("eval", "a", 1.0, tokens=300, exact_match=0.5, generated=10),
            measured("eval", "b", 2.0, exact_match=1.0, generated=30),
            measured("test", "a", 9.0, exact_match=0.0, generated=99),
            measured("general", "wiki", 3.0),
            measured("lm_eval", "arc", scores={"acc,none": 0.25, "acc_norm,none": 0.5}),
            measured(
                "lm_eval", "gsm8k", scores={"exact_match,strict": 0.1, "exact_match,any": 0.2}
            ),
            measured("lm_eval", "plain", scores={"acc": 0.75}),
            measured("judge", "mt_bench", scores={"score": 6.5, "category/writing": 7.0}),
        ]
    )
    return found


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("eval/loss", 1.25),
        ("eval/b/loss", 2.0),
        ("eval/exact_match", 0.875),
        ("eval/a/exact_match", 0.5),
        ("general/loss", 3.0),
        ("general/wiki/loss", 3.0),
        ("lm_eval/arc/acc_norm", 0.5),
        ("lm_eval/plain/acc", 0.75),
        ("lm_eval/gsm8k/exact_match,any", 0.2),
        ("judge/score", 6.5),
        ("judge/writing", 7.0),
        ("judge/category/writing", 7.0),
    ],
)
def test_each_metric_has_its_value(trial: LiveTrial, metric: str, value: float) -> None:
    assert trial.measured(parse_metric(metric)) == pytest.approx(value)


@pytest.mark.parametrize("metric", ["lm_eval/arc/f1", "lm_eval/gsm8k/exact_match", "judge/maths"])
def test_a_figure_that_is_missing_or_ambiguous_has_none(trial: LiveTrial, metric: str) -> None:
    assert trial.measured(parse_metric(metric)) is None


def test_a_loss_that_was_not_finite_on_one_set_leaves_none(trial: LiveTrial) -> None:
    trial.note([measured("eval", "a", None)])
    assert trial.measured(parse_metric("eval/loss")) is None
    assert trial.measured(parse_metric("eval/b/loss")) == 2.0
