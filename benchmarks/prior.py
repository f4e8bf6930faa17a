"""What winnow's scheduler starts from: learned from recorded sweeps that ran to their end.

    python -m benchmarks.prior [--curves benchmarks/curves] [--write]

prints what norm and loss are worth in each sweep when the weights come from all others; `--write`
puts the result into `orchestrator/schedulers/default_prior.py`.

Norm and loss get a weight only where, on sweeps left out, they improve the ranking by the held-out
loss, by more than features exchanged between trials do, and by more than a smooth surface in rate
and batch size learned from the same sweeps does.
"""

from __future__ import annotations

import argparse
import json
import pprint
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.schedulers.curves import Curve
from orchestrator.schedulers.forecast import Array, normal_scores
from orchestrator.schedulers.outcome_model import PRIOR as FEATURES
from orchestrator.schedulers.outcome_model import early_features, surface_terms
from orchestrator.schedulers.simulate import Recorded
from orchestrator.schedulers.transfer import DynamicsPrior, Prior, broad, learn

ROOT = Path(__file__).resolve().parents[1]
FIRST = 0.05
RUNGS = (0.0625, 0.125, 0.25, 0.5)
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
PENALTY = 8.0
"""Of a squared coefficient: as many observations that say that it is zero."""
PERMUTATIONS = 99
RESAMPLES = 400
LEAST_SWEEPS = 3
LEAST_TRIALS = 8

Sweeps = Sequence[Sequence[Recorded]]


@dataclass(frozen=True)
class View:
    """One sweep at one point, trials that have features and an outcome there.

    `level`: (n,) normal scores of the held-out loss, None before the first evaluation. `x`: (n, 6)
    of the features; `surface`: (n, 4) terms of rate and batch size; `y`: (n,) of the outcome.
    """

    sweep: int
    level: Array | None
    x: Array
    surface: Array
    y: Array


@dataclass(frozen=True)
class Worth:
    """What norm and loss are worth on sweeps left out: Spearman correlations with the outcome, mean
    over sweeps and points. `exchanged` is the 95 % point of shuffled features."""

    weight: float
    level: float
    with_dynamics: float
    with_surface: float
    exchanged: float
    alone: float
    alone_surface: float
    alone_exchanged: float

    @property
    def earned(self) -> bool:
        rivals = (self.level, self.with_surface, self.exchanged)
        return self.weight > 0 and self.with_dynamics > max(rivals)

    @property
    def earned_alone(self) -> bool:
        return self.alone > max(0.0, self.alone_surface, self.alone_exchanged)


def learn_all(sweeps: Sweeps) -> Prior:
    """Worlds and dynamics, from nothing but these sweeps."""
    prior = learn(sweeps, broad())
    if len(sweeps) < LEAST_SWEEPS:
        return prior
    early = [views(sweeps, FIRST, level=False)]
    rungs = [views(sweeps, rung, level=True) for rung in RUNGS]
    found = worth(early, rungs)
    coefficients = _ridge([v for point in (*early, *rungs) for v in point], _features)
    named = {n: round(float(c), 4) for n, c in zip(FEATURES, coefficients, strict=True)}
    dynamics = DynamicsPrior(
        named,
        weight=found.weight if found.earned else 0.0,
        interval=_interval(rungs),
        quality=round(max(0.0, found.alone), 3) if found.earned_alone else 0.0,
    )
    return replace(prior, dynamics=dynamics)


def worth(early: Sequence[list[View]], rungs: Sequence[list[View]]) -> Worth:
    """Leave one sweep out at a time; see `Worth`."""
    everyone = sorted({v.sweep for point in (*early, *rungs) for v in point})
    chosen: list[float] = []
    scores: dict[str, list[float]] = {}
    shuffled = np.zeros((PERMUTATIONS, 2))
    counted = np.zeros(2)
    rng = np.random.default_rng(0)
    for out in everyone:
        train = [v for point in (*early, *rungs) for v in point if v.sweep != out]
        dynamics, surface = _ridge(train, _features), _ridge(train, _surface)
        inner = [[v for v in point if v.sweep != out] for point in rungs]
        weight = _best_weight(inner, dynamics, _features)
        rival = _best_weight(inner, surface, _surface)
        chosen.append(weight)
        for points, alone in ((rungs, False), (early, True)):
            for v in (v for point in points for v in point if v.sweep == out):
                mine, theirs = v.x @ dynamics, v.surface @ surface
                mixed = [v.x[rng.permutation(len(v.x))] @ dynamics for _ in range(PERMUTATIONS)]
                if alone or v.level is None:
                    scores.setdefault("alone", []).append(_spearman(mine, v.y))
                    scores.setdefault("alone_surface", []).append(_spearman(theirs, v.y))
                    shuffled[:, 1] += [_spearman(m, v.y) for m in mixed]
                    counted[1] += 1
                    continue
                scores.setdefault("level", []).append(_spearman(v.level, v.y))
                scores.setdefault("with", []).append(_spearman(v.level + weight * mine, v.y))
                scores.setdefault("rival", []).append(_spearman(v.level + rival * theirs, v.y))
                shuffled[:, 0] += [_spearman(v.level + weight * m, v.y) for m in mixed]
                counted[0] += 1
    chance = np.quantile(shuffled / np.maximum(counted, 1), 0.95, axis=0)
    mean = {k: float(np.mean(v)) for k, v in scores.items()}
    return Worth(
        weight=float(np.median(chosen)),
        level=mean.get("level", 0.0),
        with_dynamics=mean.get("with", 0.0),
        with_surface=mean.get("rival", 0.0),
        exchanged=float(chance[0]),
        alone=mean.get("alone", 0.0),
        alone_surface=mean.get("alone_surface", 0.0),
        alone_exchanged=float(chance[1]),
    )


def views(sweeps: Sweeps, fraction: float, *, level: bool) -> list[View]:
    """Each sweep at a fraction of the budget, where enough trials have features there."""
    found: list[View] = []
    for number, sweep in enumerate(sweeps):
        features, levels, params, ends = [], [], [], []
        for trial in sweep:
            curve = Curve()
            curve.extend(trial.steps, trial.evaluations)
            at = max(1, int(np.ceil(fraction * trial.info.total_samples - 1e-9)))
            own = early_features(curve.until(at))
            held_out = curve.held_out(at, trial.info.total_samples)
            if own is None or trial.value is None or (level and held_out is None):
                continue
            features.append([own[name] for name in FEATURES])
            levels.append(held_out.rank_key if held_out is not None else 0.0)
            params.append(trial.info.params)
            ends.append(trial.value)
        if len(ends) < LEAST_TRIALS:
            continue
        x = np.column_stack([normal_scores(c) for c in np.array(features, dtype=float).T])
        y = normal_scores(np.array(ends, dtype=float))
        z = normal_scores(np.array(levels, dtype=float)) if level else None
        found.append(View(number, z, x, surface_terms(params), y))
    return found


def _features(view: View) -> Array:
    return view.x


def _surface(view: View) -> Array:
    return view.surface


def _ridge(seen: Sequence[View], columns: Callable[[View], Array]) -> Array:
    """Coefficients for the outcome's places, every sweep counting the same."""
    width = columns(seen[0]).shape[1] if seen else 0
    gram: Array = PENALTY * np.eye(width)
    moment: Array = np.zeros(width)
    for view in seen:
        x, share = columns(view), 26 / len(view.y)
        gram += share * x.T @ x
        moment += share * x.T @ view.y
    return np.linalg.solve(gram, moment).astype(float) if width else moment


def _best_weight(
    points: Sequence[list[View]], coefficients: Array, columns: Callable[[View], Array]
) -> float:
    """The weight beside the held-out loss with the best mean correlation; the least of equals."""

    def mean(weight: float) -> float:
        found = [
            _spearman(v.level + weight * (columns(v) @ coefficients), v.y)
            for point in points
            for v in point
            if v.level is not None
        ]
        return float(np.mean(found)) if found else 0.0

    return max(WEIGHTS, key=lambda w: (round(mean(w), 6), -w))


def _interval(rungs: Sequence[list[View]]) -> tuple[float, float]:
    """90 % interval of the best weight over resampled sweeps."""
    rng = np.random.default_rng(1)
    everyone = sorted({v.sweep for point in rungs for v in point})
    coefficients = _ridge([v for point in rungs for v in point], _features)
    gains = {
        (s, w): float(
            np.mean(
                [
                    _spearman(v.level + w * (v.x @ coefficients), v.y)
                    for point in rungs
                    for v in point
                    if v.sweep == s and v.level is not None
                ]
            )
        )
        for s in everyone
        for w in WEIGHTS
    }
    table = np.array([[gains[s, w] for w in WEIGHTS] for s in everyone])
    best = [
        WEIGHTS[int(np.argmax(table[rng.integers(0, len(everyone), len(everyone))].sum(axis=0)))]
        for _ in range(RESAMPLES)
    ]
    low, high = (round(float(np.quantile(best, q)), 3) for q in (0.05, 0.95))
    return low, high


def _spearman(a: Array, b: Array) -> float:
    x, y = normal_scores(a), normal_scores(b)
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


# --- the command --------------------------------------------------------------------------------


def write(prior: Prior, path: Path) -> None:
    """The prior as a Python module, so that it is there wherever the scheduler is."""
    found: dict[str, Any] = {**prior.to_json(), "sweeps": 0}
    weights = [f"{w:.3g}" for w in found.pop("persistence")]
    rows = [", ".join(weights[i : i + 9]) for i in range(0, len(weights), 9)]
    lines = "".join(f"    {row},\n" for row in rows)
    body = pprint.pformat(found, width=96, sort_dicts=False)
    text = (
        '"""winnow\'s own prior. Written by `python -m benchmarks.prior --write`."""\n\n'
        "from __future__ import annotations\n\nfrom typing import Any\n\n"
        f"# fmt: off\nPERSISTENCE = (\n{lines})\n"
        f"LEARNED: dict[str, Any] = \\\n{body}\n# fmt: on\n\n"
        'PRIOR: dict[str, Any] = {"persistence": PERSISTENCE, **LEARNED}\n'
    )
    path.write_text(text, encoding="utf-8")


def main() -> None:
    from benchmarks.early.loading import load_sweeps

    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior", description=__doc__)
    parser.add_argument("--curves", type=Path, default=ROOT / "benchmarks" / "curves")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    sweeps = load_sweeps(args.curves / "runs.parquet", args.curves / "points.parquet")
    drawn = [s.draw(0) for s in sweeps]
    early = [views(drawn, FIRST, level=False)]
    rungs = [views(drawn, rung, level=True) for rung in RUNGS]
    print(json.dumps(worth(early, rungs).__dict__, indent=2))
    prior = learn_all(drawn)
    shown: dict[str, Any] = prior.to_json()
    shown.pop("persistence")
    print(json.dumps({"from": [s.name for s in sweeps], **shown}, indent=2))
    if args.write:
        write(prior, ROOT / "orchestrator" / "schedulers" / "default_prior.py")


if __name__ == "__main__":
    main()
