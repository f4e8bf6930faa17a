"""Sweeps made by hand: every trial has a curve of ten steps and its held-out losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from benchmarks.early.sweeps import Run, Sweep, trial_info
from orchestrator.schedulers.simulate import Recorded
from trainer.metrics import Evaluation, StepRecord

BUDGET = 100


def make_run(
    name: str,
    value: float | None,
    *,
    early: float | None = None,
    norm: float = 1.0,
    test: float | None = None,
    budget: int = BUDGET,
) -> Run:
    """Held-out loss `early` until the end, where it is `value`. Evaluated after every step."""
    first = early if early is not None else value if value is not None else 9.0
    steps = [
        StepRecord(i, budget * i // 10, i, first, norm, 1e-3, 1.0, 1, budget // 10)
        for i in range(1, 11)
    ]
    losses: list[float | None] = [first] * 9 + [value]
    evaluations = [
        Evaluation(s.step, s.samples, "eval", "main", loss, 100)
        for s, loss in zip(steps, losses, strict=True)
    ]
    info = trial_info({"learning_rate": 1e-3, "effective_batch_size": 10}, budget)
    return Run(name, "0", Recorded(info, tuple(steps), tuple(evaluations), value), test)


def make_sweep(values: dict[str, Sequence[float | None]], **more: dict[str, float]) -> Sweep:
    """A configuration's final values over its seeds. `early`, `norm`, `test`: by configuration."""
    configs = {
        config: [
            make_run(
                f"{config}-{k}",
                value,
                early=more.get("early", {}).get(config),
                norm=more.get("norm", {}).get(config, 1.0),
                test=more.get("test", {}).get(config),
            )
            for k, value in enumerate(seeds)
        ]
        for config, seeds in values.items()
    }
    return Sweep("hand", "hand-made", configs, BUDGET)


@pytest.fixture
def sweep() -> Callable[..., Sweep]:
    return make_sweep
