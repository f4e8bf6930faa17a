"""What a user may write is what the trainer takes: it is written down twice, and must agree."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel

from trainer import config as trainer
from trainer.recipes import RECIPES
from winnow import spec

OURS = {
    # Set by the sweep itself, or written in another place of the sweep file.
    *("model", "model_revision", "trust_remote_code", "recipe", "data", "lm_eval", "judge"),
    # Set by the server.
    "roots",
    # Set for each trial.
    *("output_dir", "eval_at", "eval_at_end", "evaluate_test", "checkpoint_at"),
    *("checkpoint_every_seconds", "export", "store"),
    # A trial is judged by the weights that it ends with, so these are exported.
    "keep_best",
}
"""Fields of TrainConfig that `training` has not."""

PAIRS: list[tuple[type[BaseModel], type[BaseModel], set[str]]] = [
    (spec.TrainFile, trainer.TrainSet, set()),
    (spec.Extract, trainer.Extract, set()),
    (spec.LmEval, trainer.LmEval, set()),
    (spec.Judge, trainer.Judge, set()),
    (spec.Data, trainer.DataConfig, {"cache_dir"}),
]


def rules(model: type[BaseModel], name: str) -> Any:
    """What JSON Schema says of a field: type, bounds, allowed values; not its title or default."""
    schema = model.model_json_schema()
    found = _resolved(schema["properties"][name], schema.get("$defs", {}))
    arms = found.pop("anyOf", None)
    if arms is not None:
        kept = [arm for arm in arms if arm != {"type": "null"}]
        found = kept[0] if len(kept) == 1 else {"anyOf": kept}
    return found


def _resolved(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_resolved(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        # Models are compared on their own.
        return {"model": True}
    silent = ("title", "default", "description", "examples")
    return {k: _resolved(v, definitions) for k, v in value.items() if k not in silent}


@pytest.mark.parametrize(
    ("ours", "theirs", "left_out"), PAIRS, ids=[ours.__name__ for ours, _, _ in PAIRS]
)
def test_fields_rules_and_defaults_are_the_trainers(
    ours: type[BaseModel], theirs: type[BaseModel], left_out: set[str]
) -> None:
    assert set(ours.model_fields) == set(theirs.model_fields) - left_out
    for name, field in ours.model_fields.items():
        other = theirs.model_fields[name]
        if not (ours is spec.Data and name == "eval"):  # a sweep can't do without
            assert field.is_required() == other.is_required(), name
            assert rules(ours, name) == rules(theirs, name), name
        if not field.is_required():
            assert _plain(field.get_default()) == _plain(other.get_default()), name


def test_an_eval_set_is_the_trainers_but_for_its_name_which_has_a_default() -> None:
    assert set(spec.EvalFile.model_fields) == set(trainer.EvalSet.model_fields)
    for name in ("path", "subset", "split", "extract"):
        assert rules(spec.EvalFile, name) == rules(trainer.EvalSet, name)
    named = [
        spec.EvalFile(path=p).name for p in ("/a/b.jsonl", "org/gsm8k", "/a/.x", "/" + "y" * 99)
    ]
    for name in named:
        trainer.EvalSet(path="-", name=name)


def test_training_has_every_field_of_a_run_that_is_the_users_to_set() -> None:
    assert set(spec.Training.model_fields) == set(trainer.TrainConfig.model_fields) - OURS
    for name, field in spec.Training.model_fields.items():
        assert field.default is None, f"{name}: not given must mean the recipe's or the trainer's"
        ours, theirs = rules(spec.Training, name), rules(trainer.TrainConfig, name)
        if name == "max_samples":  # a baseline trains nothing, a user's trial something
            assert (ours.pop("exclusiveMinimum"), theirs.pop("minimum")) == (0, 0)
        assert ours == theirs, name


def test_every_parameter_of_the_space_is_a_field_of_a_run() -> None:
    elsewhere = {"adam_beta2", "strategy", "replay"}
    fields = set(spec.Training.model_fields)
    assert set(spec.Space.model_fields) - elsewhere <= fields
    assert {"strategy", "replay"} <= set(spec.Data.model_fields)


def test_the_recipes_are_the_trainers() -> None:
    named = get_args(get_args(spec.SweepSpec.model_fields["recipe"].annotation)[0])
    assert set(named) == set(RECIPES) == set(spec.RECIPES)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value
