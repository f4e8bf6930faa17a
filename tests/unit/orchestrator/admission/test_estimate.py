"""What a sweep would take, and what looks odd about it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.admission.cautions import cautions
from orchestrator.admission.estimate import Measured, Surroundings, corners, estimate, proposals
from trainer import memory
from winnow.spec import SweepSpec
from winnow.validation import DiskNeed, Estimate, SweepWarning

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


def test_a_trial_on_two_gpus_needs_both() -> None:
    measured, budget = [Measured("s1", "first", 1e6, 100.0)], {"cost_per_gpu_hour": 2.0}
    spec = spec_of(budget=budget, resources={"gpus_per_trial": 2})
    one, _ = assessed(spec_of(budget=budget), measured)
    two, _ = assessed(spec, measured)
    assert one.gpu_hours is not None
    assert two.gpu_hours is not None
    assert one.cost is not None
    assert two.cost is not None
    assert two.trial_seconds == one.trial_seconds
    assert two.gpu_hours.low == pytest.approx(2 * one.gpu_hours.low)
    assert two.cost.low == pytest.approx(2 * one.cost.low)
    assert one.memory is not None
    assert two.memory is not None
    own = memory.estimate(corners(spec, FACTS)[0].config, SIZES, FACTS["parameters"], ranks=2)
    assert two.memory.total == own.total < one.memory.total


def test_memory_is_that_of_the_trial_that_needs_most() -> None:
    spec = spec_of(
        space={
            "learning_rate": {"log_uniform": [1e-6, 1e-4]},
            "optimizer": {"choice": ["sgd", "adamw"]},
        }
    )
    assert proposals(spec, FACTS, 1)[0].params["optimizer"] == "sgd"
    found, light = assessed(spec)[0].memory, assessed(spec_of(training={"optimizer": "sgd"}))[0]
    assert found is not None
    assert light.memory is not None
    assert found.total > light.memory.total
    assert found == assessed(spec_of())[0].memory


def test_the_disk_holds_what_runs_what_is_best_and_what_can_be_revived() -> None:
    def disk(at_once: int = 4, **checkpoints: object) -> DiskNeed:
        around = Surroundings(at_once=at_once, disk_free=5)
        found = assessed(spec_of(checkpoints=checkpoints), None, around)[0].disk
        assert found is not None
        return found

    one = disk()
    state, export = one.checkpoint, one.export
    # A trial keeps two checkpoints, writes a third, and exports; ten trials in all.
    running = 3 * state + export
    assert one.at_most == 4 * running + 3 * export + 10 * state
    assert disk(revivable=False).at_most == 4 * running + 3 * export
    assert disk(keep_best=30).at_most == 4 * running + 10 * export + 10 * state
    assert disk(at_once=40).at_most == 10 * running + 3 * export + 10 * state
    assert (one.free, disk(store="s3://bucket/x").free) == (5, None)


def test_a_budget_of_trials_and_the_number_of_trials_bound_what_is_counted() -> None:
    whole, _ = assessed(spec_of())
    some, _ = assessed(spec_of(budget={"trials": 3}))
    assert (whole.trials, some.trials) == (10, 3)
    assert some.tokens == pytest.approx(whole.tokens * 3 / 10)
    assert assessed(spec_of(), None, Surroundings(at_once=40))[0].at_once == 10


def test_a_single_proposal_does_not_hide_the_ends_of_the_space() -> None:
    space = {"learning_rate": 1e-5, "effective_batch_size": {"choice": [128, 256]}}
    found, _ = assessed(spec_of(space=space, search={"trials": 1, "sampler": "random"}))
    assert (found.steps.low, found.steps.high) == (40, 79)


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


def samples(number: int) -> dict[str, Any]:
    """Facts of data of so many samples; a step of the recipe takes 128."""
    return {"train_samples": number, "train_sets": [number]}


BOUNDS: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    # code, changes of the sweep, facts, whether it is warned of
    ("small-eval", {}, {"eval_samples": {"eval": 50}}, False),
    ("small-eval", {}, {"eval_samples": {"eval": 49}}, True),
    ("warmup", {"training": {"warmup_steps": 78, "epochs": 1}}, {}, False),
    ("warmup", {"training": {"warmup_steps": 79, "epochs": 1}}, {}, True),
    ("warmup", {"training": {"warmup_ratio": 0.9, "epochs": 1}}, {}, False),
    ("warmup", {"training": {"warmup_ratio": 1.0, "epochs": 1}}, {}, True),
    ("budget", {"budget": {"trials": 10}}, {}, False),
    ("budget", {"budget": {"trials": 9}}, {}, True),
    ("trials", {"space": {"learning_rate": {"choice": [1e-6, 1e-5]}, "seed": 1}}, {}, True),
    (
        "trials",
        {
            "space": {"learning_rate": {"choice": [1e-6, 1e-5]}},
            "search": {"trials": 2, "sampler": "random"},
        },
        {},
        False,
    ),
    ("left-out", {}, {"too_long": {"/t.jsonl": 100}}, False),
    ("left-out", {}, {"too_long": {"/t.jsonl": 110}}, True),
    ("steps", {}, samples(20 * 128), False),
    ("steps", {}, samples(19 * 128), True),
    ("rungs", {"scheduler": {"name": "dynamics", "first_rung": 0.1}}, samples(50 * 128), False),
    ("rungs", {"scheduler": {"name": "dynamics", "first_rung": 0.1}}, samples(40 * 128), True),
    ("learning-rate", {"space": {"learning_rate": {"choice": [1e-6, 1e-4]}}}, {}, False),
    (
        "overlap",
        {
            "data": {
                "train": [{"path": "/t.jsonl"}],
                "eval": [{"path": "/eval.jsonl"}],
                "test": [{"path": "/test.jsonl"}],
            }
        },
        {"identity": {"/t.jsonl": "d", "/eval.jsonl": "e", "/test.jsonl": "d"}},
        True,
    ),
]


@pytest.mark.parametrize(("code", "changes", "facts", "warned"), BOUNDS)
def test_what_is_just_enough_is_not_warned_of(
    code: str, changes: dict[str, Any], facts: dict[str, Any], warned: bool
) -> None:
    assert (code in codes(spec_of(**changes), **facts)) is warned


def test_a_gpu_that_is_nearly_full_is_warned_of() -> None:
    need = assessed(spec_of())[0].memory
    assert need is not None
    for available, warned in ((need.total / 0.95, True), (need.total / 0.85, False)):
        around = Surroundings(at_once=4, available=int(available))
        assert ("memory" in codes(spec_of(), None, around)) is warned


def test_budgets_are_compared_in_their_own_unit() -> None:
    """A trial takes 5,000 s, which is 1.4 hours, and 2.8 GPU-hours on two GPUs."""
    slow, two = [Measured("s", "x", 1e6, 1000.0)], {"gpus_per_trial": 2}

    def warned(**budget: float) -> bool:
        return "budget" in codes(spec_of(budget=budget, resources=two), slow)

    assert [warned(hours=hours) for hours in (1.3, 2.0)] == [True, False]
    assert [warned(gpu_hours=hours) for hours in (2.0, 3.0)] == [True, False]
    price = {"cost_per_gpu_hour": 0.1}
    assert [warned(cost=cost, **price) for cost in (0.2, 0.3)] == [True, False]


def test_a_budget_that_cuts_off_the_last_trials_is_named_where_none_is_stopped_early() -> None:
    slow = [Measured("s", "x", 1e6, 1000.0)]  # 10 trials of 1.4 GPU-hours
    budget = {"gpu_hours": 10.0}
    all_run = spec_of(budget=budget, scheduler={"name": "none"})
    (warning,) = [w for w in assessed(all_run, slow)[1] if w.code == "budget"]
    assert "the last ones will be cut off" in warning.message
    assert "budget" not in codes(spec_of(budget=budget), slow)
