"""What a sweep would take, and what looks odd about it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cautions import cautions
from orchestrator.estimate import Measured, Surroundings, corners, estimate, proposals
from trainer import memory
from winnow.spec import SweepSpec
from winnow.validation import Estimate, SweepWarning

SIZES = {
    "model_type": "llama",
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 128_256,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
FACTS: dict[str, Any] = {
    "train_samples": 10_000,
    "train_sets": [10_000],
    "mean_length": 500.0,
    "eval_samples": {"eval": 500},
    "parameters": 1_235_000_000,
    "model_sizes": SIZES,
    "memory_bytes": 80 * 2**30,
}


def spec_of(**changes: Any) -> SweepSpec:
    values: dict[str, Any] = {
        "name": "x",
        "model": "/models/llama",
        "recipe": "tulu",
        "data": {"train": [{"path": "/t.jsonl"}], "eval": [{"path": "/eval.jsonl"}]},
        "space": {"learning_rate": {"log_uniform": [1e-6, 1e-4]}},
        "training": {"epochs": 1},
        "search": {"trials": 10, "sampler": "random", "seed": 3},
        "resources": {"gpus_per_trial": 1},
    }
    return SweepSpec.model_validate(values | changes)


def assessed(
    spec: SweepSpec,
    measured: list[Measured] | None = None,
    around: Surroundings | None = None,
    **facts: Any,
) -> tuple[Estimate, list[SweepWarning]]:
    known = FACTS | facts
    proposed, possible = proposals(spec, known, 48), corners(spec, known)
    found = estimate(
        spec, known, proposed, possible, measured or [], around or Surroundings(at_once=4)
    )
    return found, cautions(spec, known, [*proposed, *possible], found)


def codes(*args: Any, **facts: Any) -> dict[str, str]:
    return {warning.code: warning.pointer for warning in assessed(*args, **facts)[1]}


def test_steps_samples_and_tokens_follow_from_data_epochs_and_batch() -> None:
    space = {
        "learning_rate": {"log_uniform": [1e-6, 1e-4]},
        "effective_batch_size": {"choice": [128, 256]},
        "epochs": {"choice": [1, 2]},
    }
    found, _ = assessed(spec_of(space=space, training={}))
    assert (found.steps.low, found.steps.high) == (40, 157)  # 10,000/256 up to 20,000/128
    assert (found.samples.low, found.samples.high) == (10_000, 20_000)
    assert found.space == "continuous"
    assert 10 * 10_000 * 500 <= found.tokens <= 10 * 20_000 * 500


def test_proposals_are_those_of_the_sweeps_own_sampler_and_seed() -> None:
    first, _ = assessed(spec_of())
    again, _ = assessed(spec_of())
    other, _ = assessed(spec_of(search={"trials": 10, "sampler": "random", "seed": 4}))
    assert [c.params for c in first.sampled] == [c.params for c in again.sampled]
    assert [c.params for c in first.sampled] != [c.params for c in other.sampled]


def test_a_grid_is_counted_with_its_constraints() -> None:
    spec = spec_of(
        space={"learning_rate": {"choice": [1e-6, 1e-5, 1e-4]}, "seed": {"choice": [0, 1]}},
        constraints=["learning_rate < 5e-5"],
        search={"sampler": "grid"},
    )
    found, _ = assessed(spec)
    assert (found.space, found.trials, len(found.sampled)) == (4, 4, 4)


def test_memory_is_that_of_the_trainers_own_formulas_for_the_largest_trial() -> None:
    spec = spec_of()
    found, _ = assessed(spec)
    [config] = [c.config for c in corners(spec, FACTS)][:1]
    own = memory.estimate(config, SIZES, FACTS["parameters"], ranks=1)
    assert found.memory is not None
    assert found.disk is not None
    assert found.memory.total == own.total
    assert (found.disk.checkpoint, found.disk.export) == (own.checkpoint, own.export)


def test_no_time_or_cost_is_made_up_where_nothing_was_measured() -> None:
    found, _ = assessed(spec_of(budget={"cost_per_gpu_hour": 2.0}))
    assert (found.throughput, found.trial_seconds, found.gpu_hours, found.cost) == (None,) * 4
    assert any("has been measured here" in note for note in found.notes)


def test_time_gpu_hours_and_cost_come_from_what_was_measured() -> None:
    measured = [Measured("s1", "first", 1e6, 100.0), Measured("s2", "second", 1e6, 200.0)]
    found, _ = assessed(spec_of(budget={"cost_per_gpu_hour": 2.0}), measured)
    assert found.throughput is not None
    assert (found.throughput.tokens_per_second.low, found.throughput.tokens_per_second.high) == (
        5_000,
        10_000,
    )
    assert [s.id for s in found.throughput.sweeps] == ["s1", "s2"]
    assert found.trial_seconds is not None  # 5 million tokens
    assert (found.trial_seconds.low, found.trial_seconds.high) == (500, 1000)
    assert found.wall_seconds is not None  # 10 trials, 4 at once: three rounds
    assert (found.wall_seconds.low, found.wall_seconds.high) == (1500, 3000)
    assert found.gpu_hours is not None
    assert found.gpu_hours.high == pytest.approx(10 * 1000 / 3600)
    assert found.cost is not None
    assert found.cost.high == pytest.approx(2 * 10 * 1000 / 3600)


def test_odd_trials_do_not_widen_the_range() -> None:
    usual = [Measured("s", "x", 1e6, 100.0 + i) for i in range(18)]
    odd = [Measured("s", "x", 1e6, 1.0), Measured("s", "x", 1e6, 1e6)]
    found, _ = assessed(spec_of(), usual + odd)
    assert found.throughput is not None
    assert found.throughput.tokens_per_second.low > 8_000
    assert found.throughput.tokens_per_second.high < 11_000


def test_a_sound_sweep_has_no_warnings() -> None:
    assert assessed(spec_of(), train_samples=50_000, train_sets=[50_000])[1] == []


WARNED: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    # code, pointer, changes of the sweep, changes of the facts
    (
        "learning-rate",
        "/space/learning_rate/log_uniform/1",
        {"space": {"learning_rate": {"log_uniform": [1e-6, 1e-2]}}},
        {},
    ),
    (
        "learning-rate",
        "/training/learning_rate",
        {"space": {}, "training": {"learning_rate": 1e-9, "epochs": 1}},
        {},
    ),
    ("learning-rate", "/recipe", {"model": "/models/Mistral-7B", "space": {}}, {}),
    (
        "batch-size",
        "/space/effective_batch_size/choice/0",
        {"space": {"effective_batch_size": {"choice": [16, 128]}}},
        {},
    ),
    ("warmup", "/training/warmup_steps", {"training": {"warmup_steps": 100, "epochs": 1}}, {}),
    ("steps", "/recipe", {}, {"train_samples": 500, "train_sets": [500]}),
    ("rungs", "/scheduler/first_rung", {}, {"train_samples": 5000, "train_sets": [5000]}),
    (
        "trials",
        "/search/trials",
        {"space": {"learning_rate": {"choice": [1e-6, 1e-5]}}},
        {},
    ),
    ("budget", "/budget/trials", {"budget": {"trials": 3}}, {}),
    ("small-eval", "/data/eval/0", {}, {"eval_samples": {"eval": 12}}),
    ("left-out", "/data/max_length", {}, {"too_long": {"/t.jsonl": 4000}}),
    ("max-samples", "/training/max_samples", {"training": {"max_samples": 30_000}}, {}),
    ("overlap", "/data/eval/0/path", {}, {"identity": {"/t.jsonl": "d", "/eval.jsonl": "d"}}),
    (
        "memory",
        "/training/max_tokens_per_microbatch",
        {},
        {"memory_bytes": 30 * 2**30},
    ),
]


@pytest.mark.parametrize(
    ("code", "pointer", "changes", "facts"), WARNED, ids=[f"{w[0]} {w[1]}" for w in WARNED]
)
def test_what_looks_odd_is_named_by_its_field(
    code: str, pointer: str, changes: dict[str, Any], facts: dict[str, Any]
) -> None:
    around = Surroundings(at_once=4, available=facts.get("memory_bytes", FACTS["memory_bytes"]))
    assert codes(spec_of(**changes), None, around, **facts).get(code) == pointer


def test_a_budget_that_no_trial_can_finish_in_is_named() -> None:
    slow = [Measured("s", "x", 1e6, 1000.0)]  # a trial of 5 million tokens: 5,000 s
    found = codes(spec_of(budget={"gpu_hours": 1.0}), slow)
    assert found["budget"] == "/budget/gpu_hours"
    assert "budget" not in codes(spec_of(budget={"gpu_hours": 2.0}), slow)


def test_adapters_and_other_optimizers_have_rates_of_their_own() -> None:
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-2]}}
    assert "learning-rate" in codes(spec_of(space=space))
    assert "learning-rate" not in codes(spec_of(space=space, training={"method": "lora"}))
    assert "learning-rate" not in codes(spec_of(space=space, training={"optimizer": "sgd"}))
