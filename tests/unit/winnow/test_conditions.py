"""Conditional spaces and constraints: counted, checked, and refused with a way out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.plan import validate_space
from trainer.config import TrainConfig
from trainer.recipes import RECIPES as TRAINERS
from trainer.recipes import recipe
from winnow import defaults
from winnow.spec import Space, SweepSpec, grid_size, planned_trials

RATE = {"log_uniform": [1e-6, 1e-1]}
SCHEDULE = {"choice": ["constant", "cosine"]}
RATIO = {"choice": [0.0, 0.05, 0.1], "when": "schedule != 'constant'"}


def sweep(space: dict[str, Any], *constraints: str, **fields: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "model": "/m",
            "data": {"train": [{"path": "/t"}], "eval": [{"path": "/e"}]},
            "space": {"learning_rate": RATE, "effective_batch_size": 16, **space},
            "constraints": constraints,
            "search": {"trials": 20},
            **fields,
        }
    )


def grid(space: dict[str, Any], *constraints: str, **fields: Any) -> SweepSpec:
    space = {"learning_rate": {"choice": [1e-4, 1e-3]}} | space
    return sweep(space, *constraints, search={"sampler": "grid"}, **fields)


def refused(*args: Any, **fields: Any) -> str:
    with pytest.raises(ValidationError) as error:
        sweep(*args, **fields)
    (item,) = error.value.errors()
    return str(item["msg"]).removeprefix("Value error, ")


def test_a_grid_counts_each_configuration_once_without_what_is_not_active() -> None:
    spec = grid({"schedule": SCHEDULE, "warmup_ratio": RATIO})
    assert planned_trials(spec) == 2 * (1 + 3)
    assert grid_size(spec.space) == 8
    assert planned_trials(grid({"schedule": SCHEDULE}, "learning_rate < 5e-4")) == 2


def test_conditions_build_on_one_another() -> None:
    spec = grid(
        {
            "weight_decay": {"choice": [0.0, 0.1], "when": "warmup_ratio > 0.01"},
            "warmup_ratio": RATIO,
            "schedule": SCHEDULE,
        }
    )
    # A rate, and: constant; cosine with ratio 0; cosine with two ratios and two decays each.
    assert planned_trials(spec) == 2 * (1 + 1 + 2 * 2)


def test_a_huge_grid_that_constraints_leave_small_is_counted() -> None:
    large = sweep({"seed": {"int_uniform": [0, 10**6]}, "learning_rate": 1e-3}, "seed < 1000")
    assert large.rules.size is None  # a million seeds are too many to look at one by one
    small = grid(
        {"effective_batch_size": {"int_uniform": [1, 4000]}}, "effective_batch_size % 1000 == 0"
    )
    assert planned_trials(small) == 2 * 4


def test_free_parameters_are_multiplied_and_never_walked() -> None:
    spec = sweep({"schedule": SCHEDULE, "warmup_ratio": RATIO, "seed": {"int_uniform": [1, 10**9]},
                  "learning_rate": 1e-3})  # fmt: skip
    assert spec.rules.size == 4 * 10**9


VALUES = st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=3, unique=True)
TEXTS = st.sampled_from(
    ["seed < 2", "epochs != 1", "seed + epochs <= 3", "lora_rank > seed", "not seed == epochs"]
)


@given(
    values=st.tuples(VALUES, VALUES, VALUES),
    when=st.tuples(st.sampled_from([None, "seed > 0"]), st.sampled_from([None, "epochs < 2"])),
    constraints=st.lists(TEXTS, max_size=2, unique=True),
)
@settings(max_examples=150, deadline=None)
def test_the_count_is_that_of_looking_at_everything(
    values: tuple[list[int], ...], when: tuple[str | None, ...], constraints: list[str]
) -> None:
    from winnow.conditions import Rules

    names = ("seed", "epochs", "lora_rank")
    conditions = (None, *when)
    space = Space.model_validate(
        {n: {"choice": v, "when": w} for n, v, w in zip(names, values, conditions, strict=True)}
    )
    in_force = {"seed": 0, "epochs": 1, "lora_rank": 16}
    expected = set()
    for seed, epochs, rank in itertools.product(*values):
        chosen = {"seed": seed}
        if when[0] is None or seed > 0:
            chosen["epochs"] = epochs
        if when[1] is None or {**in_force, **chosen}["epochs"] < 2:
            chosen["lora_rank"] = rank
        if all(eval(text, {}, {**in_force, **chosen}) for text in constraints):
            expected.add(tuple(sorted(chosen.items())))
    rules = Rules(space, constraints, in_force)
    assert rules.size == len(expected)
    found = [rules.at(i) for i in range(len(expected))]
    assert {tuple(sorted(chosen.items())) for chosen in found} == expected
    assert all(rules.contains(chosen) and rules.broken(chosen) is None for chosen in found)


@pytest.mark.parametrize(
    ("space", "constraints", "said"),
    [
        (
            {"warmup_ratio": {"uniform": [0, 1], "when": "shedule == 'cosine'"}},
            [],
            "space.warmup_ratio.when: 'shedule == 'cosine'' names shedule, which is no parameter "
            "(did you mean schedule?)",
        ),
        (
            {"schedule": SCHEDULE, "epochs": {"choice": [1, 2], "when": "schedule == 'sqrt'"}},
            [],
            "schedule is never 'sqrt'; it is one of constant, cosine, linear",
        ),
        (
            {
                "epochs": {"choice": [1, 2], "when": "weight_decay > 0"},
                "weight_decay": {"choice": [0.0, 0.1], "when": "seed == 1"},
                "seed": {"choice": [0, 1], "when": "epochs == 1"},
            },
            [],
            "conditions go in a circle: epochs → weight_decay → seed → epochs",
        ),
        ({"seed": {"choice": [0, 1], "when": "seed == 1"}}, [], "in a circle: seed → seed"),
        (
            {},
            ["learning_rate * effective_batch_size < 1e-9"],
            "constraints: no configuration of 10,000 tried satisfies 'learning_rate * "
            "effective_batch_size < 1e-9'; loosen it, or widen the space",
        ),
        (
            {"seed": {"choice": [0, 1]}, "epochs": {"choice": [1, 2]}},
            ["seed < epochs - 1", "seed == 1"],
            "no combination of values satisfies 'seed < epochs - 1' and 'seed == 1' together; "
            "loosen one, or widen the space",
        ),
        ({"seed": {"choice": [0, 1]}}, ["epochs > 3"], "no combination of values satisfies 'epoch"),
        ({"seed": {"choice": [0, 1]}}, ["epochs / seed > 1"], "can't be computed for epochs=1.0, "
         "seed=0: at position 1 ('epochs / seed > 1'): divides by zero"),
        ({"max_grad_norm": {"choice": [1.0, None]}}, ["max_grad_norm < 2"], "can be null"),
        ({"learning_rate": {"choice": [1e-4], "when": "seed == 1"}, "seed": {"choice": [0, 1]}},
         [], "space.learning_rate: has no value where its condition doesn't hold; set "
         "training.learning_rate too"),
        ({"warmup_ratio": {"uniform": [0, 1], "when": "seed == 1"},
          "warmup_steps": {"choice": [1, 2], "when": "seed < 2"}, "seed": {"choice": [0, 1]}},
         [], "warmup_ratio and warmup_steps are both set where"),
        ({"warmup_ratio": {"uniform": [0, 1]}, "warmup_steps": {"choice": [1, 2]}}, [],
         "vary warmup_steps or warmup_ratio, not both"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_a_way_out(
    space: dict[str, Any], constraints: list[str], said: str
) -> None:
    assert said in refused(space, *constraints)


def test_what_changes_nothing_is_refused_in_a_new_sweep_but_not_in_what_is_left_of_one() -> None:
    spec = sweep(
        {
            "schedule": {"choice": ["constant"]},
            "warmup_ratio": {"uniform": [0, 0.1], "when": "schedule != 'constant'"},
        },
        "epochs < 3",
    )
    assert planned_trials(spec) == 20
    found = validate_space(spec)
    assert [pointer for pointer, _ in found] == ["/constraints/0", "/space/warmup_ratio/when"]
    assert "names nothing that varies" in found[0][1]
    assert "never holds: no combination of values satisfies it" in found[1][1]
    assert validate_space(spec, changed=True) == []


def test_a_condition_sees_what_is_in_force_where_the_space_says_nothing() -> None:
    text = "learning_rate * effective_batch_size < 1"
    with_recipe = sweep({"effective_batch_size": None}, text, recipe="lab-7680")
    assert with_recipe.in_force["effective_batch_size"] == 7680
    assert with_recipe.rules.broken({"learning_rate": 1e-3}) == 0
    over_it = sweep({"effective_batch_size": None}, text, recipe="lab-7680",
                    training={"effective_batch_size": 8})  # fmt: skip
    assert over_it.rules.broken({"learning_rate": 1e-3}) is None
    # An inactive parameter has the value of `training`, too.
    rank = {"choice": [4, 64], "when": "seed == 1"}
    inactive = sweep({"seed": {"choice": [0, 1]}, "lora_rank": rank}, "lora_rank > 8",
                     training={"method": "lora", "lora_rank": 32})  # fmt: skip
    assert inactive.rules.broken({"learning_rate": 1e-3, "seed": 0}) is None
    assert inactive.rules.broken({"learning_rate": 1e-3, "seed": 1, "lora_rank": 4}) == 0


def test_both_kinds_of_warmup_may_vary_where_they_exclude_each_other() -> None:
    spec = grid(
        {
            "seed": {"choice": [0, 1]},
            "warmup_ratio": {"choice": [0.1, 0.2], "when": "seed == 1"},
            "warmup_steps": {"choice": [1, 2, 3], "when": "seed == 0"},
        }
    )
    assert planned_trials(spec) == 2 * (2 + 3)


def test_replay_may_vary_where_the_strategy_has_it() -> None:
    data = {
        "train": [{"path": "/t", "phase": 0}, {"path": "/u", "phase": 1}],
        "eval": [{"path": "/e"}],
    }
    strategy = {"choice": ["stacked", "phased"]}
    replay = {"choice": [0.0, 0.1]}
    assert "give it when" in refused({"strategy": strategy, "replay": replay}, data=data)
    wrong = replay | {"when": "seed == 1"}
    said = refused({"strategy": strategy, "replay": wrong, "seed": {"choice": [0, 1]}}, data=data)
    assert said.startswith("space.replay: nothing is replayed")
    right = replay | {"when": "strategy != 'stacked'"}
    assert planned_trials(grid({"strategy": strategy, "replay": right}, data=data)) == 2 * 3


def test_a_grid_with_too_many_combinations_to_look_at_is_refused() -> None:
    with pytest.raises(ValidationError, match="too many combinations to tell"):
        grid({"seed": {"int_uniform": [0, 10**6]}}, "seed % 1000 == 0")


def test_what_was_written_comes_back() -> None:
    spec = sweep({"schedule": SCHEDULE, "warmup_ratio": RATIO}, "learning_rate < 0.01")
    written = spec.model_dump(mode="json")
    assert written["space"]["warmup_ratio"] == RATIO
    assert written["space"]["schedule"] == SCHEDULE  # no empty `when`
    assert written["constraints"] == ["learning_rate < 0.01"]
    assert SweepSpec.model_validate(written) == spec


def test_the_values_in_force_are_the_trainers_own() -> None:
    fields = TrainConfig.model_fields
    for name, value in defaults.TRAINER.items():
        if name != "adam_beta2":
            assert fields[name].default == value, name
    assert fields["adam_betas"].default[1] == defaults.TRAINER["adam_beta2"]
    assert defaults.RECIPES.keys() == TRAINERS.keys()
    for name, values in defaults.RECIPES.items():
        theirs = recipe(name)
        theirs["adam_beta2"] = theirs["adam_betas"][1]
        ours = {**defaults.TRAINER, **values}
        shared = theirs.keys() & ours.keys()
        assert {n: theirs[n] for n in shared} == {n: ours[n] for n in shared}
        assert {"learning_rate", "effective_batch_size"} <= values.keys()
