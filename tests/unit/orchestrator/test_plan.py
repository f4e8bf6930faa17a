"""From a sweep and a trial's parameters to a run: what wins over what, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.plan import benchmarks, resolve, sweep_pointer, total_samples, validate_space
from trainer.config import TrainConfig
from winnow.spec import SweepSpec

JUDGE = {"base_url": "https://judge.example/v1", "model": "j", "questions": "/q.jsonl"}


def sweep(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "x",
            "model": "/m",
            "recipe": "lab",
            "data": {
                "train": [{"path": "/a", "phase": 0}, {"path": "/b", "phase": 10, "weight": 2.0}],
                "eval": [{"path": "/e.jsonl"}],
            },
            "search": {"trials": 1},
        }
        | changes
    )


def run(spec: SweepSpec, **params: Any) -> TrainConfig:
    return resolve(spec, params, output_dir="/o", cache_dir="/c")


def with_data(**changes: Any) -> dict[str, Any]:
    return sweep().data.model_dump() | changes


def test_a_trial_wins_over_training_over_the_recipe() -> None:
    spec = sweep(training={"epochs": 3.0, "weight_decay": 0.1})
    config = run(spec, epochs=2.0)
    assert (config.epochs, config.weight_decay) == (2.0, 0.1)
    assert (config.effective_batch_size, config.schedule) == (3840, "constant")
    assert run(sweep(recipe="lab-7680")).effective_batch_size == 7680


def test_one_kind_of_warmup_replaces_the_other() -> None:
    config = run(sweep(training={"warmup_ratio": 0.1}))
    assert (config.warmup_steps, config.warmup_ratio) == (None, 0.1)


def test_clipping_is_switched_off_by_a_null_also_after_the_sweep_was_stored() -> None:
    assert run(sweep()).max_grad_norm == 1.0
    spec = sweep(training={"max_grad_norm": None})
    stored = SweepSpec.model_validate(spec.model_dump(mode="json"))
    assert run(stored).max_grad_norm is None
    assert run(SweepSpec.model_validate(sweep().model_dump(mode="json"))).max_grad_norm == 1.0


def test_everything_about_data_arrives() -> None:
    data = with_data(
        general=[{"path": "org/wiki", "subset": "en", "split": "test", "name": "wiki"}],
        eval=[{"path": "/e", "name": "e", "extract": {"kind": "regex", "pattern": "(x)"}}],
        strategy="phased",
        phase_order=[10, 0],
        replay=0.2,
        reset_optimizer=True,
        unmask="conversation",
    )
    config = run(sweep(data=data)).data
    assert config.train[1].weight == 2.0
    assert (config.general[0].path, config.general[0].subset) == ("org/wiki", "en")
    assert config.eval[0].extract.pattern == "(x)"
    assert (config.strategy, config.phase_order, config.replay) == ("phased", (10, 0), 0.2)
    assert config.reset_optimizer
    assert (config.unmask, config.cache_dir) == ("conversation", "/c")


def test_where_the_strategy_varies_each_trial_gets_what_belongs_to_its_own() -> None:
    spec = sweep(
        data=with_data(replay=0.1, phase_order=[10, 0], reset_optimizer=True),
        space={"strategy": {"choice": ["stacked", "phased", "difficulty"]}},
    )
    assert validate_space(spec) == []
    stacked, phased, difficulty = (
        run(spec, strategy=s).data for s in ("stacked", "phased", "difficulty")
    )
    assert (stacked.phase_order, stacked.replay, stacked.reset_optimizer) == (None, None, False)
    assert (phased.phase_order, phased.replay, phased.reset_optimizer) == ((10, 0), 0.1, True)
    assert (difficulty.phase_order, difficulty.replay) == (None, 0.1)


def test_a_varied_beta_keeps_the_first_one() -> None:
    assert run(sweep(training={"adam_betas": [0.8, 0.9]}), adam_beta2=0.99).adam_betas == (
        0.8,
        0.99,
    )
    assert run(sweep(), adam_beta2=0.99).adam_betas == (0.9, 0.99)


def test_benchmarks_are_run_after_each_trial_unless_only_the_winner_is_to_be_measured() -> None:
    evaluation = {"lm_eval": {"tasks": ["mmlu"], "limit": 10}, "judge": JUDGE}
    every = run(sweep(evaluation=evaluation))
    assert every.lm_eval is not None
    assert (every.lm_eval.tasks, every.lm_eval.limit) == (("mmlu",), 10)
    assert every.judge is not None
    winner = sweep(evaluation=evaluation | {"trials": "winner"})
    assert (run(winner).lm_eval, run(winner).judge) == (None, None)
    assert benchmarks(winner)["lm_eval"].tasks == ("mmlu",)


def test_values_that_exclude_one_another_are_found_wherever_they_stand_in_the_lists() -> None:
    spec = sweep(
        data=with_data(train=[{"path": "/a", "phase": 0}, {"path": "/b", "phase": 1}]),
        space={
            "strategy": {"choice": ["stacked", "phased"]},
            "batching": {"choice": ["exact", "paper"]},
        },
    )
    ((pointer, message),) = validate_space(spec)
    assert pointer == "/space/batching"
    assert "strategy: stacked" in message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/lm_eval/tasks/1", "/evaluation/lm_eval/tasks/1"),
        ("/judge/questions", "/evaluation/judge/questions"),
        ("/data/strategy", "/space/strategy"),
        ("/data/train/0/path", "/data/train/0/path"),
        ("/learning_rate", "/space/learning_rate"),
        ("/adam_betas/1", "/training/adam_betas/1"),
        ("/model", "/model"),
    ],
)
def test_a_field_of_a_run_is_found_again_in_the_sweep(given: str, expected: str) -> None:
    spec = sweep(
        space={"learning_rate": 1e-3, "strategy": {"choice": ["stacked", "difficulty"]}},
    )
    assert sweep_pointer(given, spec) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, 10 * (100 + 2 * 50)),
        ({"strategy": "phased"}, 10 * (100 + 2 * 50)),
        ({"strategy": "phased", "replay": 0.5}, 10 * (100 + 2 * 50 + 0.5 * 100)),
        ({"strategy": "difficulty"}, 10 * (200 + 0.01 * 100)),
    ],
)
def test_the_budget_counts_weights_and_replay(data: dict[str, Any], expected: float) -> None:
    config = run(sweep(data=with_data(**data)))
    facts = {"train_samples": 150, "train_sets": [100, 50]}
    assert total_samples(config, facts) == round(expected)


def test_the_budget_is_what_the_curriculum_trains() -> None:
    from trainer.curriculum import Curriculum

    for data in ({}, {"strategy": "phased", "replay": 0.5}):
        config = run(sweep(data=with_data(**data)))
        curriculum = Curriculum(
            config.data,
            sets=[100, 50],
            answer_tokens=[1] * 150,
            epochs=config.epochs,
            max_samples=None,
            seed=0,
        )
        facts = {"train_samples": 150, "train_sets": [100, 50]}
        assert total_samples(config, facts) == curriculum.total_samples
