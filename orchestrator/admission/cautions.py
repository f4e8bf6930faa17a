"""What can run but may not be meant: warnings about a checked sweep. Pure.

The study is arXiv 2412.13337: learning rates from 1e-6 to 1e-4 and effective batches from 128 to
7,680 samples, all weights trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.admission.estimate import Candidate
from orchestrator.plan import extremes
from trainer.config import source_key
from trainer.memory import readable
from winnow.load import pointer
from winnow.spec import SCHEDULER_FIELDS, SweepSpec
from winnow.validation import Estimate, SweepWarning

STUDY_RATES = (1e-6, 1e-4)
STUDY_BATCHES = (128, 7680)
MISTRAL_RATE = 1e-6
"""The study's best rate for Mistral 7B, at every batch size."""
FEWEST_STEPS = 20
"""Below that a trial's curve says little: the first steps are mostly warmup and noise."""
FEWEST_AT_RUNG = 5
FEWEST_HELD_OUT = 50
MUCH_LEFT_OUT = 0.01
TIGHT = 0.9
"""Share of a GPU's memory above which fragmentation may be too much."""


def cautions(
    spec: SweepSpec,
    facts: Mapping[str, Any],
    candidates: Sequence[Candidate],
    estimate: Estimate,
) -> list[SweepWarning]:
    """What looks odd, by where it is in the sweep.

    Args:
        spec: the sweep.
        facts: what the check of its data and model found.
        candidates: configurations that its trials may have, the extreme ones among them.
        estimate: of the same sweep.
    """
    found = [
        *_rates(spec, facts),
        *_batches(spec, facts),
        *_warmup(spec, candidates),
        *_lengths(spec, candidates),
        *_rungs(spec, candidates),
        *_trials(spec, estimate),
        *_budget(spec, estimate),
        *_data(spec, facts),
        *_repeats(spec, facts, candidates),
        *_memory(estimate),
    ]
    return [SweepWarning(pointer=at, message=message, code=code) for at, message, code in found]


Found = Iterator[tuple[str, str, str]]
"""(JSON pointer, message, code)."""


def _values(spec: SweepSpec, name: str, facts: Mapping[str, Any]) -> list[tuple[str, float]]:
    """A parameter's extreme values with their pointers, wherever they are set."""
    del facts
    varied = extremes(spec.space).get(name)
    if varied:
        numbers = [(at, float(v)) for at, v in varied if isinstance(v, int | float)]
        ends = {min(numbers, key=lambda one: one[1]), max(numbers, key=lambda one: one[1])}
        return sorted(ends, key=lambda one: one[1])
    value = spec.in_force.get(name)
    if not isinstance(value, int | float):
        return []
    at = f"/training/{name}" if getattr(spec.training, name, None) is not None else "/recipe"
    return [(at, float(value))]


def _rates(spec: SweepSpec, facts: Mapping[str, Any]) -> Found:
    optimizers = {v for _, v in extremes(spec.space).get("optimizer", [])}
    optimizers |= {spec.training.optimizer or "adamw"}
    if spec.training.method in ("lora", "qlora") or not optimizers & {"adamw", "adam"}:
        return  # other methods and optimizers have scales of their own
    low, high = STUDY_RATES
    values = _values(spec, "learning_rate", facts)
    for at, rate in values:
        if not low * 0.999 <= rate <= high * 1.001:
            what = "diverge" if rate > high else "learn next to nothing"
            yield (
                at,
                f"{rate:g} is outside of {low:g} to {high:g}, the rates that the study trained all "
                f"weights with; expect trials that {what}",
                "learning-rate",
            )
    if "mistral" in spec.model.lower() and values and values[0][1] > 2 * MISTRAL_RATE:
        at, rate = values[0]
        yield (
            at,
            f"the lowest rate is {rate:g}, and the study found {MISTRAL_RATE:g} best for Mistral "
            "7B; start the range there",
            "learning-rate",
        )


def _batches(spec: SweepSpec, facts: Mapping[str, Any]) -> Found:
    low, high = STUDY_BATCHES
    for at, size in _values(spec, "effective_batch_size", facts):
        if not low <= size <= high:
            yield (
                at,
                f"{size:,.0f} samples are outside of {low:,} to {high:,}, the effective batches of "
                "the study; its advice on rates and warmup may not carry over",
                "batch-size",
            )


def _warmup(spec: SweepSpec, candidates: Sequence[Candidate]) -> Found:
    for candidate in sorted(candidates, key=lambda c: c.steps):
        warmup, steps = candidate.config.warmup_steps, candidate.steps
        if warmup is not None and warmup >= steps:
            size = candidate.config.effective_batch_size
            yield (
                _where(spec, "warmup_steps"),
                f"{warmup:,} steps of warmup are {'all' if warmup == steps else 'more than all'} "
                f"of a trial with effective_batch_size {size:,}, which has {steps:,}: its rate "
                "never reaches the one that is asked for; lower it, or use warmup_ratio",
                "warmup",
            )
            return
        ratio = candidate.config.warmup_ratio
        if ratio is not None and ratio >= 1:
            yield (
                _where(spec, "warmup_ratio"),
                "all of a trial is warmup, so its rate is only reached in the last step",
                "warmup",
            )
            return


def _where(spec: SweepSpec, name: str) -> str:
    if getattr(spec.space, name, None) is not None:
        return f"/space/{name}"
    return f"/training/{name}" if getattr(spec.training, name, None) is not None else "/recipe"


def _lengths(spec: SweepSpec, candidates: Sequence[Candidate]) -> Found:
    shortest = min(candidates, key=lambda c: c.steps)
    if shortest.steps < FEWEST_STEPS:
        plural = "step" if shortest.steps == 1 else "steps"
        yield (
            _where(spec, "effective_batch_size"),
            f"a trial with effective_batch_size {shortest.config.effective_batch_size:,} has only "
            f"{shortest.steps} optimizer {plural}, too few to tell trials apart early; use smaller "
            "batches, more epochs or more data",
            "steps",
        )


def _rungs(spec: SweepSpec, candidates: Sequence[Candidate]) -> Found:
    scheduler = spec.scheduler
    if scheduler.name == "none":
        return
    reads = SCHEDULER_FIELDS[scheduler.name]
    points = [(f"/scheduler/rungs/{i}", rung) for i, rung in enumerate(scheduler.rungs)]
    if scheduler.name == "dynamics" or scheduler.name == "paper-sign":
        points.insert(0, ("/scheduler/first_rung", scheduler.first_rung))
    elif "first_rung" in reads:
        points = [("/scheduler/first_rung", scheduler.first_rung)]
    shortest = min(candidates, key=lambda c: c.steps)
    if shortest.steps < FEWEST_STEPS:
        return  # said already
    for at, fraction in points:
        steps = math.ceil(fraction * shortest.samples / shortest.config.effective_batch_size)
        if steps < FEWEST_AT_RUNG:
            yield (
                at,
                f"a rung at {fraction:g} of the budget comes after {steps} of {shortest.steps} "
                "steps in the trials with the largest batches, too few to decide on; start at "
                f"{min(0.9, FEWEST_AT_RUNG / shortest.steps):.2g} or later",
                "rungs",
            )
            return


def _trials(spec: SweepSpec, estimate: Estimate) -> Found:
    asked, size = spec.search.trials, estimate.space
    if asked is not None and isinstance(size, int) and asked > size:
        yield (
            "/search/trials",
            f"{asked:,} trials are asked for, and the space has {size:,} distinct configurations; "
            f"{asked - size:,} of them will not be run (vary seed to repeat configurations)",
            "trials",
        )
    limit, planned = spec.budget.trials, asked if asked is not None else spec.rules.size
    if limit is not None and planned is not None and limit < planned:
        yield (
            "/budget/trials",
            f"the budget ends the sweep after {limit:,} of {planned:,} trials",
            "budget",
        )


def _budget(spec: SweepSpec, estimate: Estimate) -> Found:
    seconds, gpus = estimate.trial_seconds, spec.resources.gpus_per_trial
    if seconds is None:
        return
    hours = seconds.low / 3600
    rate = spec.budget.cost_per_gpu_hour
    for name, limit, one, whole in (
        ("hours", spec.budget.hours, hours, estimate.wall_seconds and _hours(estimate)),
        ("gpu_hours", spec.budget.gpu_hours, hours * gpus, _low(estimate.gpu_hours)),
        ("cost", spec.budget.cost, hours * gpus * (rate or 0.0), _low(estimate.cost)),
    ):
        if limit is None:
            continue
        if one > limit:
            yield (
                f"/budget/{name}",
                f"{limit:g} is less than the {one:.3g} that a single trial takes (as measured in "
                "earlier sweeps), so none can finish",
                "budget",
            )
        elif whole is not None and spec.scheduler.name == "none" and whole > limit:
            yield (
                f"/budget/{name}",
                f"{limit:g} is less than the {whole:.3g} that all trials take at least (as "
                "measured in earlier sweeps); the last ones will be cut off",
                "budget",
            )


def _hours(estimate: Estimate) -> float | None:
    low = _low(estimate.wall_seconds)
    return None if low is None else low / 3600


def _low(one: Any) -> float | None:
    return None if one is None else float(one.low)


def _data(spec: SweepSpec, facts: Mapping[str, Any]) -> Found:
    counts = facts.get("eval_samples") or {}
    for i, held_out in enumerate(spec.data.eval):
        size = counts.get(held_out.name)
        if isinstance(size, int) and size < FEWEST_HELD_OUT:
            yield (
                f"/data/eval/{i}",
                f"{held_out.name} has {size} samples; with fewer than {FEWEST_HELD_OUT} chance "
                f"decides the winner (one answer more is {100 / size:.2g} % of exact match)",
                "small-eval",
            )
    too_long = facts.get("too_long") or {}
    dropped = sum(int(too_long.get(path, 0)) for path in {t.path for t in spec.data.train})
    kept = int(facts.get("train_samples") or 0)
    if dropped and dropped > MUCH_LEFT_OUT * (dropped + kept):
        yield (
            "/data/max_length",
            f"{dropped:,} of {dropped + kept:,} training samples are longer than "
            f"{spec.data.max_length:,} tokens and are left out; raise max_length, or shorten them",
            "left-out",
        )
    yield from _overlaps(spec, facts)


def _overlaps(spec: SweepSpec, facts: Mapping[str, Any]) -> Found:
    identity = facts.get("identity") or {}
    trained = {
        digest: f"/data/train/{i}"
        for i, one in enumerate(spec.data.train)
        if (digest := identity.get(source_key(one.path, one.subset, one.split)))
    }
    for name in ("eval", "test"):
        for i, one in enumerate(getattr(spec.data, name)):
            digest = identity.get(source_key(one.path, one.subset, one.split))
            if digest is not None and digest in trained:
                yield (
                    pointer("data", name, i, "path"),
                    f"it is the same data as {trained[digest]}: what was trained on says nothing "
                    "about how well a model does on new samples",
                    "overlap",
                )


def _repeats(spec: SweepSpec, facts: Mapping[str, Any], candidates: Sequence[Candidate]) -> Found:
    wanted, there = spec.training.max_samples, facts.get("train_samples")
    weighted = any(one.weight != 1.0 for one in spec.data.train)
    epochs = spec.space.epochs is not None or spec.training.epochs is not None
    if wanted is not None and isinstance(there, int) and wanted > there and not weighted:
        yield (
            "/training/max_samples",
            f"there are {there:,} usable samples, so {wanted:,} repeat them "
            f"{wanted / there:.1f} times",
            "max-samples",
        )
    if wanted is not None and epochs and candidates[0].config.max_samples is not None:
        yield (
            "/space/epochs" if spec.space.epochs is not None else "/training/epochs",
            "max_samples decides how long a trial is, so epochs does nothing; leave one out",
            "max-samples",
        )


def _memory(estimate: Estimate) -> Found:
    need = estimate.memory
    if need is None or need.available is None or need.device != "gpu":
        return
    if need.total > TIGHT * need.available:
        yield (
            "/training/max_tokens_per_microbatch",
            f"a trial may need {readable(need.total)} of the {readable(need.available)} of a GPU; "
            "where it doesn't fit, micro-batches are halved, which costs speed",
            "memory",
        )
