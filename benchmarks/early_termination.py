"""How much do early-stopping rules save, and what do they lose? Recorded sweeps replayed.

    python -m benchmarks.early_termination --runs R.parquet --points P.parquet --out J.json
    python -m benchmarks.early_termination --synthetic 228 --out J.json

Every rule sees the same draws: one seed of every configuration of a sweep, `--workers` slots, each
run at its recorded pace. Each figure stands beside that of as many random trials as the same
compute would have run to the end. See `benchmarks.early` for the parts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.early import summary
from benchmarks.early.contest import Contest, controls, defaults, grid, leave_out, run
from benchmarks.early.evaluation import REPORTS, SWITCH, Contender, Row
from benchmarks.early.frontier import frontier, tuned_on_others
from benchmarks.early.loading import load_sweeps
from benchmarks.early.plots import draw_calibration, draw_frontier
from benchmarks.early.sweeps import Sweep
from benchmarks.early.synthetic import synthetic_sweep, worlds
from benchmarks.early.tables import show
from benchmarks.report import machine, versions

OURS, PEER = "dynamics", "asha"
AUDIT_TRIALS = 64
AUDIT_SHARE = 0.35
TITLES = {
    "recorded": "Recorded fine-tuning sweeps",
    "algoperf": "AlgoPerf logs",
    "synthetic": "Made-up sweeps",
}
RISKS = (0.05, 0.1, 0.2)


def main(argv: Sequence[str] | None = None) -> None:
    args = _arguments(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    began = time.monotonic()
    if args.synthetic:
        results = {"synthetic": _synthetic(args, console)}
    else:
        results = {
            name: found
            for budget in tuple(args.budget)
            if budget in args.budget  # one is enough where runs declare their own
            for name, found in [_recorded(args, budget, console)]
        }
    result = _result(args, results, time.monotonic() - began)
    _write(args.out, result)
    for name, found in results.items():
        show(found, name, console)
    console.print(f"written to {args.out}", style="dim", highlight=False)
    if args.plots:
        draw_frontier(
            result,
            TITLES.get(args.name) or str(args.name),
            args.plots / f"early-frontier-{args.name}.png",
        )
        draw_calibration(
            _all_results(args.out, args.name, result), args.plots / "early-calibration.png"
        )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.early_termination",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, help="Parquet: a row a run")
    parser.add_argument("--points", type=Path, help="Parquet: a row a step or measurement")
    parser.add_argument("--synthetic", type=int, metavar="N", help="N made-up sweeps instead")
    parser.add_argument("--group", help="column of runs that holds the family")
    parser.add_argument(
        "--budget",
        nargs="+",
        choices=("median", "common"),
        default=["median", "common"],
        help="where runs declare no budget: which quantile of last steps they are cut to",
    )
    parser.add_argument(
        "--pace",
        choices=("steady", "recorded"),
        default="steady",
        help="steady: a step takes the median of its batch size, whatever else the machine did",
    )
    parser.add_argument(
        "--hold-out",
        choices=("family", "sweep", "nothing"),
        default="family",
        help="what the prior of a sweep is learned without; nothing: winnow's own prior",
    )
    parser.add_argument("--only", nargs="+", default=[], help="rules, instead of all")
    parser.add_argument("--workload", nargs="+", default=[], help="names start with one of these")
    parser.add_argument("--draws", type=int, help="draws a sweep (default 20; 4 with --quick)")
    parser.add_argument(
        "--grid-draws", type=int, help="for the frontier (default 5, quick 2; 0: defaults only)"
    )
    parser.add_argument("--workers", type=int, default=4, help="trials at once")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="few draws, few settings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plots", type=Path, metavar="DIR")
    parser.add_argument("--name", help="in pictures; by default from the name of --out")
    args = parser.parse_args(argv)
    if bool(args.synthetic) == bool(args.runs and args.points):
        parser.error("give --runs and --points, or --synthetic N")
    if OURS in args.only and PEER not in args.only:
        args.only.append(PEER)
    if args.only and "none" not in args.only:
        args.only.append("none")
    args.draws = args.draws or (4 if args.quick else 20)
    if args.grid_draws is None:
        args.grid_draws = 2 if args.quick else 5
    args.name = args.name or args.out.stem.split(".")[-1]
    return args


# --- recorded sweeps ----------------------------------------------------------------------------


def _recorded(
    args: argparse.Namespace, budget: str, console: Console
) -> tuple[str, dict[str, Any]]:
    sweeps = load_sweeps(
        args.runs,
        args.points,
        group=args.group,
        budget=budget,  # type: ignore[arg-type]
        pace=args.pace,
        only=args.workload,
    )
    if not sweeps:
        raise SystemExit(f"{args.runs}: no workload has two runs that ended well")
    declared = all(s.notes.get("budget") == "declared" for s in sweeps)
    if declared:
        args.budget = args.budget[:1]
    name = "recorded budgets" if declared else f"{budget} budget"
    prior_for = leave_out(sweeps, args.hold_out)
    plain = defaults(prior_for, args.only)
    more = controls(plain)
    settings = grid(prior_for, quick=args.quick, only=args.only) if args.grid_draws else []
    takes = [(c, args.draws) for c in [*plain, *more]]
    takes += [(c, args.grid_draws) for c in settings]
    contest = Contest(sweeps.__getitem__, len(sweeps), takes, args.workers)
    rows = _run(contest, args.jobs, name, console)
    found = _summary(rows, plain, more, settings)
    found["tuned_on_other_families"] = tuned_on_others(_labelled(rows, [*plain[:-1], *settings]))
    found["risk"] = {
        c.label: summary.risk(c, summary.by_contender(rows)[c.label])
        for c in [*plain, *settings]
        if c.name == OURS and c.share == 1
    }
    found["prior"] = (
        "winnow's own" if prior_for is None else f"of all but the {args.hold_out} in question"
    )
    found["sweeps"] = {s.name: _described(s) for s in sweeps}
    return name, found


def _described(sweep: Sweep) -> dict[str, Any]:
    return {
        "family": sweep.family,
        "samples": sweep.budget,
        **sweep.notes,
        "seed_deviation": float(f"{sweep.deviation:.4g}"),
        "seed_deviations_from_best_to_median": round(
            sweep.scale / sweep.deviation if sweep.deviation else 0.0, 2
        ),
    }


# --- synthetic sweeps ---------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _made(index: int, trials: int) -> Sweep:
    kinds = worlds()
    return synthetic_sweep(kinds[index % len(kinds)], index, trials)


def _synthetic(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    plain = defaults(None, args.only)
    more = controls(plain)
    settings = grid(None, quick=True, only=args.only) if args.grid_draws else []
    risks = [Contender.of(OURS, risk=risk) for risk in RISKS]
    known = {c.label for c in settings}
    risks = [c for c in risks if not args.only or OURS in args.only]
    extra = [c for c in risks if c.label not in known]
    takes = [(c, 1) for c in [*plain, *more, *settings, *extra]]
    contest = Contest(partial(_made, trials=26), args.synthetic, takes, args.workers)
    rows = _run(contest, args.jobs, "synthetic sweeps", console, batch=len(contest.contenders))
    found = _summary(rows, plain, more, settings)
    by_label = summary.by_contender(rows)
    found["risk"] = {c.label: summary.risk(c, by_label[c.label]) for c in risks}
    if not args.only or OURS in args.only:
        audited = Contender.of(OURS, audit=AUDIT_SHARE)
        number = max(1, args.synthetic // 2)
        contest = Contest(partial(_made, trials=AUDIT_TRIALS), number, [(audited, 1)], args.workers)
        audits = _run(contest, args.jobs, "audited synthetic sweeps", console)
        found["audit"] = {
            "share": AUDIT_SHARE,
            "trials": AUDIT_TRIALS,
            **summary.audit_coverage(audits),
        }
        shuffled = [r for r in by_label[OURS] if r.family == "shuffled"]
        found["shuffled_labels"] = {
            "sweeps": len(shuffled),
            "ended_by_model_a_sweep": summary.ended_by_model(shuffled),
        }
    return found


# --- together -----------------------------------------------------------------------------------


def _run(contest: Contest, jobs: int, name: str, console: Console, batch: int = 4) -> list[Row]:
    """All rows, in an order that doesn't depend on which process was faster."""
    rows: list[Row] = []
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(f"replays, {name}", total=contest.replays)
        for done, found in run(contest, jobs, batch):
            rows += found
            tenths = 10 * (len(rows) - done) // contest.replays, 10 * len(rows) // contest.replays
            progress.advance(task, done)
            if not console.is_terminal and tenths[1] > tenths[0]:
                console.print(f"{name}: {len(rows):,} of {contest.replays:,} replays")
    return sorted(rows, key=lambda r: (r.contender, r.sweep, r.draw))


def _summary(
    rows: Sequence[Row],
    plain: Sequence[Contender],
    more: Sequence[Contender],
    settings: Sequence[Contender],
) -> dict[str, Any]:
    by_label = summary.by_contender(rows)
    found: dict[str, Any] = {
        "contenders": {c.label: summary.figures(by_label[c.label]) for c in [*plain, *more]},
        "exchanged_control": {
            c.label.partition(" · ")[0]: summary.control(
                by_label[c.label.partition(" · ")[0]], by_label[c.label]
            )
            for c in more
        },
    }
    records = [c for c in [*plain, *settings] if c.show == "records"]
    found["frontier"] = frontier(_labelled(rows, records), by_label["none"], OURS)
    if OURS in by_label:
        found["calibration"] = summary.calibration(by_label[OURS])
        found["guard_fired"] = summary.guard(by_label[OURS])
        found["ended_by_model_a_sweep"] = summary.ended_by_model(by_label[OURS])
        found["audit"] = summary.audit_coverage(by_label[OURS])
    return found


def _labelled(rows: Sequence[Row], contenders: Sequence[Contender]) -> list[Row]:
    labels = {c.label for c in contenders}
    return [r for r in rows if r.contender in labels]


def _result(args: argparse.Namespace, results: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The house form: ours, the peer's, and the ratio, of the first of `results`; then all."""
    first = next(iter(results.values()))["contenders"]
    ours, peer = (_short(first[n]) if n in first else {} for n in (OURS, PEER))
    ratio = {}
    if ours and peer and peer["saved"] > 0:
        ratio["saved"] = round(ours["saved"] / peer["saved"], 3)
    if ours and peer and ours["regret"] > 0:
        ratio["regret"] = round(peer["regret"] / ours["regret"], 3)
    return {
        "name": f"Early stopping, {args.name}",
        "quick": args.quick,
        "ours": {"name": OURS, **ours},
        "peer": {"name": PEER, **peer},
        "ratio": ratio,
        "definition": summary.DEFINITIONS
        | {"ratio": "above 1 where ours is better: more saved, less regret"},
        "work": {
            "source": f"{args.synthetic} synthetic sweeps" if args.synthetic else args.runs.name,
            "draws_a_sweep": 1 if args.synthetic else args.draws,
            "draws_a_sweep_and_setting": 1 if args.synthetic else args.grid_draws,
            "workers": args.workers,
            "pace": args.pace,
            "pause_and_resume_of_a_run_each": SWITCH,
            "reports_a_run": REPORTS,
            "seconds": round(seconds),
        },
        "results": results,
        "versions": versions() | {p: metadata.version(p) for p in ("numpy", "scipy", "pandas")},
        "machine": machine(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "saved": figures["saved"]["mean"],
        "kept": figures["kept"]["1"]["mean"],
        "kept_run": figures["kept_run"]["1"]["mean"],
        "regret": figures["regret"]["mean"],
        "regret_minus_random": figures["minus_random"]["regret"]["mean"],
        "kept_run_minus_random": figures["minus_random"]["kept_run"]["1"]["mean"],
    }


def _all_results(out: Path, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """This result and those of other kinds of sweeps beside it, for one picture of all."""
    found = {
        p.stem.split(".")[-1]: json.loads(p.read_text("utf-8"))
        for p in sorted(out.parent.glob("early_termination.*.json"))
    }
    return found | {name: result}


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(path)


if __name__ == "__main__":
    main()
