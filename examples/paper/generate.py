"""Write the sweep files of the study's comparisons (arXiv 2412.13337).

    python examples/paper/generate.py            writes them beside this file
    python examples/paper/generate.py --out DIR

One file a comparison and model, the demo's model among them. All trials run to their end
(`scheduler: none`), because what is compared is how they end.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODELS = {
    "granite-3b": "ibm-granite/granite-3.0-2b-base",
    "granite-7b": "ibm-granite/granite-7b-base",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
}
RATES = (1e-6, 5e-6, 2e-5, 3e-5, 4e-5, 6e-5, 8e-5, 1e-4)
DEMO_RATE = 100
"""The demo's model has 1.2 M parameters and takes rates that are higher by about this factor."""
BATCHES = (128, 3840, 7680)
DEMO_BATCHES = (4, 120, 240)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Comparison:
    """One of the study's comparisons: what varies, for its models and for the demo's."""

    title: str
    space: Mapping[str, object]
    demo: Mapping[str, object]
    training: Mapping[str, object] = field(default_factory=dict)
    demo_training: Mapping[str, object] = field(default_factory=dict)
    data: tuple[str, ...] = ()


COMPARISONS = {
    "batch-by-rate": Comparison(
        "Effective batch by learning rate, every pair.",
        {"learning_rate": RATES, "effective_batch_size": BATCHES},
        {
            "learning_rate": tuple(rate * DEMO_RATE for rate in RATES),
            "effective_batch_size": DEMO_BATCHES,
        },
        demo_training={"warmup_ratio": 0.01},
    ),
    "warmup": Comparison(
        "Warmup of 0, 25 and 100 steps, at a large batch.",
        {"warmup_steps": (0, 25, 100), "seed": SEEDS},
        # The study's 25 and 100 steps are 1.2 and 4.7 % of a run.
        {"warmup_ratio": (0.0, 0.0125, 0.05), "seed": SEEDS},
    ),
    "schedule": Comparison(
        "Constant rate, cosine and linear decay, at a large batch.",
        {"schedule": ("constant", "cosine", "linear"), "seed": SEEDS},
        {"schedule": ("constant", "cosine", "linear"), "seed": SEEDS},
        demo_training={"warmup_ratio": 0.01},
    ),
    "strategy": Comparison(
        "All phases at once (stacked) against one after the other (phased).",
        {"strategy": ("stacked", "phased"), "seed": SEEDS},
        {"strategy": ("stacked", "phased"), "seed": SEEDS},
        demo_training={"warmup_ratio": 0.01},
    ),
    "difficulty": Comparison(
        "All samples at once against short answers first, then long ones.",
        {"strategy": ("stacked", "difficulty"), "seed": SEEDS},
        {"strategy": ("stacked", "difficulty"), "seed": SEEDS},
        demo_training={"warmup_ratio": 0.01},
        data=(
            "replay: 0.01                # of the short half, with the long one",
            "difficulty_percentile: 50",
        ),
    ),
}

DATA = """\
  train:
    - {path: data/phase00.jsonl, phase: 0}
    - {path: data/phase05.jsonl, phase: 5}
    - {path: data/phase10.jsonl, phase: 10}
  eval:
    - {path: data/heldout.jsonl, name: heldout}
  max_length: 4096
"""
DEMO_DATA = """\
  train:
    - {path: ../data/phase00_instructions.train.jsonl, phase: 0}
    - {path: ../data/phase05_knowledge.train.jsonl, phase: 5}
    - {path: ../data/phase10_skills.train.jsonl, phase: 10}
  eval:
    - {path: ../data/phase00_instructions.eval.jsonl, name: instructions}
    - {path: ../data/phase05_knowledge.eval.jsonl, name: knowledge}
    - {path: ../data/phase10_skills.eval.jsonl, name: skills}
  test:
    - {path: ../data/phase00_instructions.test.jsonl, name: instructions}
    - {path: ../data/phase05_knowledge.test.jsonl, name: knowledge}
    - {path: ../data/phase10_skills.test.jsonl, name: skills}
  max_length: 128
"""
BENCHMARKS = """\
evaluation:
  lm_eval:
    tasks: [mmlu, arc_challenge, gsm8k, leaderboard_bbh, leaderboard_math_hard, leaderboard_musr,
            leaderboard_mmlu_pro]
  # MT-Bench needs a judge: any OpenAI-compatible endpoint, whose key the server's environment has.
  # judge: {base_url: "https://…/v1", model: …, questions: data/question.jsonl,
  #         api_key_env: JUDGE_API_KEY}
"""


def files() -> dict[str, str]:
    """Every sweep file: name to text."""
    found = {
        f"{name}.{model}.yaml": _full(name, comparison, model)
        for name, comparison in COMPARISONS.items()
        for model in MODELS
    }
    return found | {
        f"{name}.demo.yaml": _demo(name, comparison) for name, comparison in COMPARISONS.items()
    }


def _full(name: str, comparison: Comparison, model: str) -> str:
    training: dict[str, object] = {
        **comparison.training,
        "precision": "bf16",
        "zero_stage": 2,
        "activation_checkpointing": True,
        "max_tokens_per_microbatch": "auto",
    }
    return (
        f"# {comparison.title}\n"
        f"name: {name} {model}\n"
        f"model: {MODELS[model]}\n"
        "recipe: lab              # 3,840 samples a step, 2e-5, 25 steps of warmup, 10 epochs\n"
        f"\ndata:                         # see README.md for these files\n{DATA}"
        f"{_data(comparison)}"
        f"\nspace:\n{_choices(comparison.space)}"
        f"\ntraining:\n{_values(training)}"
        f"\n{BENCHMARKS}"
        "\nsearch: {sampler: grid}\n"
        "scheduler: {name: none}\n"
        "objective: {metric: lm_eval/mmlu/acc}\n"
        "resources: {gpus_per_trial: 8}\n"
    )


def _demo(name: str, comparison: Comparison) -> str:
    training: dict[str, object] = {
        "learning_rate": RATES[2] * DEMO_RATE,
        "effective_batch_size": DEMO_BATCHES[1],
        **comparison.demo_training,
        "max_samples": 7680,
        "max_new_tokens": 24,
    }
    training = {k: v for k, v in training.items() if k not in comparison.demo}
    return (
        f"# {comparison.title}\n"
        "# The study's grid, scaled to the demo's model and data.\n"
        f"name: {name} demo\n"
        "model: ../base\n"
        "recipe: lab\n"
        f"\ndata:\n{DEMO_DATA}"
        f"{_data(comparison)}"
        f"\nspace:\n{_choices(comparison.demo)}"
        f"\ntraining:\n{_values(training)}"
        "\nsearch: {sampler: grid}\n"
        "scheduler: {name: none}\n"
        "objective: {metric: eval/loss}\n"
        "resources: {gpus_per_trial: 0, cpus_per_worker: 1, max_concurrent: 2}\n"
    )


def _data(comparison: Comparison) -> str:
    return "".join(f"  {line}\n" for line in comparison.data)


def _choices(space: Mapping[str, object]) -> str:
    lines = ""
    for name, values in space.items():
        assert isinstance(values, tuple)
        lines += f"  {name}: {{choice: [{', '.join(_value(v) for v in values)}]}}\n"
    return lines


def _values(settings: Mapping[str, object]) -> str:
    return "".join(f"  {name}: {_value(value)}\n" for name, value in settings.items())


def _value(value: object) -> str:
    """A value as YAML 1.1 and 1.2 both read it: an exponent needs a point before it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and 0 < value < 1e-2:
        digits, exponent = f"{value:.12e}".split("e")
        return f"{float(digits)}e{int(exponent)}"
    return f"{value:.12g}" if isinstance(value, float) and value else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the sweep files of the study's comparisons."
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(files())} files in {folder}")


if __name__ == "__main__":
    main()
