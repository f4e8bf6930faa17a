"""Writes docs/performance.md from the files in benchmarks/results.

    python -m benchmarks.performance [--out docs/performance.md]

Nothing on the page is written by hand but the words: run a benchmark again and then this.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"

Result = dict[str, Any]

HEAD = """# Performance

Each figure comes from a script that measures the peer on the same work, in the same run:
`python -m benchmarks.NAME [--quick] --out FILE.json`. Machines differ and are noisy, so the ratio
is what counts: above 1, winnow is better. This page is made from `benchmarks/results/` by
`python -m benchmarks.performance`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PAGE)
    out: Path = parser.parse_args(arguments).out
    results = read(RESULTS)
    out.write_text(page(results), "utf-8")
    print(f"{out}: {', '.join(sorted(results))}")
    return 0


def read(folder: Path) -> dict[str, Result]:
    """All results by name, but for the findings, which have a page of their own."""
    files = (f for f in folder.glob("*.json") if f.stem != "findings")
    return {file.stem: json.loads(file.read_text("utf-8")) for file in files}


def page(results: dict[str, Result]) -> str:
    """The whole page; results without a section of their own get the common one."""
    names = [name for name in _SECTIONS if name in results]
    names += sorted(results.keys() - _SECTIONS.keys())
    sections = [_section(name, results[name]) for name in names]
    return "\n".join([HEAD, *sections])


def _section(name: str, result: Result) -> str:
    kind = "early_termination" if name.startswith("early_termination.") else name
    body = _SECTIONS.get(kind, _times)(result)
    quick = " A quick run, on less work." if result["quick"] else ""
    return f"## {result['name']}\n\n{body}\n{_setting(name, result)}{quick}\n"


# --- sections ---------------------------------------------------------------------------------


def _times(result: Result) -> str:
    """Every measure in seconds: medians of both sides."""
    rows = [
        (
            definition,
            _seconds(result["ours"][f"{key}_s"]),
            _seconds(result["peer"][f"{key}_s"]),
            f"**{result['ratio'][key]:g} ×**",
            _target(result["target"].get(key)),
        )
        for key, definition in result["definition"].items()
    ]
    return _table(("", "winnow", result["peer"]["name"], "faster", "target"), rows)


def _errors(result: Result) -> str:
    """Every measure as a relative error: medians of both sides."""
    rows = [
        (
            definition,
            f"{result['ours'][f'{key}_error']:.2%}",
            f"{result['peer'][f'{key}_error']:.2%}",
            f"**{result['ratio'][key]:g} ×**",
        )
        for key, definition in result["definition"].items()
    ]
    return _table(("", "winnow", result["peer"]["name"], "more exact"), rows)


def _throughput(result: Result) -> str:
    rows = [
        (
            f"{result['work'][f'{size}_parameters']:,} parameters",
            f"{speeds['ours']:,.0f}",
            f"{speeds['peer']:,.0f}",
            f"**{result['ratio'][size]:g} ×**",
            f"{result['processor_time_ratio'][size]:g} ×",
            _target(result["target"].get(size)),
            f"`{result['peer_settings'][size]['chosen']}`",
        )
        for size, speeds in result["tokens_per_second"].items()
    ]
    head = (
        "tokens/s", "winnow", result["peer"]["name"], "ratio",
        "of processor time", "target", "its best setting",
    )  # fmt: skip
    loss = max(result["largest_loss_difference"].values())
    gpu = result["gpu"]
    on_gpu = "On a GPU: not run." if gpu == "not run" else f"On a GPU: {json.dumps(gpu)}"
    return f"{_table(head, rows)}\nLosses of both sides agree to {loss:.1e}. {on_gpu}\n"


def _packing(result: Result) -> str:
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for cell in result["cells"]:
        groups.setdefault((cell["set"], cell["attention"], cell["mode"]), []).append(cell)
    rows: list[tuple[str, ...]] = []
    for (name, attention, mode), cells in groups.items():
        row = [f"{name}, {attention}, {mode}"]
        for measure in ("efficiency", "balance"):
            ours = [cell["ours"][measure] for cell in cells]
            ratios = [cell["ratio"][measure] for cell in cells]
            row += [_range(ours), _range(ratios)]
        rows.append(tuple(row))
    ratio, ours, peer = result["ratio"], result["ours"], result["peer"]
    head = ("cells", "efficiency", "over the best peer's", "balance", "over the best peer's")
    return (
        f"{_table(head, rows)}\n"
        f"At least the best peer's: efficiency in {ratio['efficiency_reached']}, balance in "
        f"{ratio['balance_reached']}, both together (utilisation) in "
        f"{ratio['utilisation_reached']} of {ratio['cells']} cells. "
        f"The slowest plan of {result['work']['samples']:,} samples took "
        f"{ours['slowest_planning_s']:.2f} s (target {result['target']['planning_s']:g} s); "
        f"{peer['name']} takes {peer['slowest_planning_s']:.1f} s.\n\n{_batches(result)}"
    )


def _batches(result: Result) -> str:
    """How well each meets the effective batch."""
    rows: list[tuple[str, ...]] = []
    for entry in result["batches"]:
        row = [f"{entry['set']}, {entry['ranks']} ranks, {entry['batch_size']:,}"]
        for side in ("ours", "instructlab", "paper", "trl"):
            found = entry.get(side)
            row.append(
                f"{found['mean']:,.1f} ± {found['sd']:,.1f}" if found and "mean" in found else "—"
            )
        rows.append(tuple(row))
    head = ("samples a step", "winnow", "instructlab-training", "the study's sampler", "TRL")
    return _table(head, rows)


def _early(result: Result) -> str:
    """What each rule saved and kept, beside random trials at equal compute."""
    picture = f"early-frontier-{result['name'].rpartition(' ')[2]}.png"
    text = (
        "Whole sweeps replayed under every rule, net of evaluations, pauses and audit. *Best "
        "kept*: the selected trial is within a seed deviation of the draw's best. In brackets the "
        "difference to random trials at equal compute, with its 95 % interval.\n\n"
        f"![Regret against compute](images/{picture})\n\n"
    )
    for name, found in result["results"].items():
        rows = [
            (
                label,
                _percent(of["saved"]["mean"]),
                f"{_percent(of['kept_run']['1']['mean'])} ({_difference(of, 'kept_run')})",
                f"{of['regret']['mean']:.3f}",
                _percent(of["lost"]["mean"]),
            )
            for label, of in found["contenders"].items()
        ]
        head = (name, "compute saved", "best kept", "regret", "lost")
        text += _table(head, rows) + "\n"
    return text


def _recovery(result: Result) -> str:
    """A killed driver, and a user's stop; the peer has no counterpart to the latter."""
    ours, peer, target = result["ours"], result["peer"], result["target"]
    rows = [
        (
            "driver killed → training again, median",
            _seconds(ours["recovery_s"]),
            _seconds(peer["recovery_s"]),
            f"**{result['ratio']['recovery']:g} ×**",
            "",
        ),
        (
            "the same beyond the lease",
            _seconds(ours["recovery_beyond_lease_s"]),
            "",
            "",
            f"≤ {target['recovery_beyond_lease_s']:g} s",
        ),
        (
            "steps made again, median",
            f"{ours['lost_steps']:g}",
            f"{peer['lost_steps']:g}",
            "",
            "",
        ),
        ("a user's stop → slot free, median", _seconds(ours["command_s"]), "no way", "", ""),
        (
            "the same, 99 of 100",
            _seconds(ours["command_p99_s"]),
            "",
            "",
            f"≤ {target['command_p99_s']:g} s",
        ),
    ]
    return _table(("", "winnow", peer["name"], "faster", "target"), rows)


def _orchestration(result: Result) -> str:
    """Trials that do nothing; twenty sweeps on eight slots; a driver's appetite over time."""
    ours, peer, target = result["ours"], result["peer"], result["target"]
    flat = ours["flat"]
    rows = [
        (
            "trials a second that do nothing",
            f"{ours['rate_per_s']:g}",
            f"{peer['rate_per_s']:g}",
            f"**{result['ratio']['rate']:g} ×**",
            f"≥ {target['rate']:g} ×",
        ),
        (
            "twenty sweeps: furthest from its weight",
            f"{ours['weights']['off_most']:.1%}",
            "",
            "",
            f"≤ {target['weights_off_most']:.0%}",
        ),
        *(
            (
                f"200 trials that report every second: drift of the driver's {what}",
                f"{flat[f'{what}_drift']:+.1%}",
                "",
                "",
                f"≤ {target[f'{what}_drift']:.0%}",
            )
            for what in ("cpu", "memory")
        ),
    ]
    return _table(("", "winnow", peer["name"], "ratio", "target"), rows)


def _service(result: Result) -> str:
    """Targets, pages and answers on each database, what is written and told, then the peers'."""
    ours, target = result["ours"], result["target"]
    names = {
        "list": "the first 50 sweeps",
        "sweep": "one sweep, with its summary",
        "trials": "its 50 best trials",
        "curves": "curves of 50 trials from anywhere",
        "page": "**a page**: sweep, 50 trials from anywhere, curves, decisions",
        "best_page": "the same of the 50 best, asked for again and again",
        "importance": "importance of the parameters, kept",
    }
    wanted = {"page": f"≤ {target['page_p99_s']:g} s, ≤ {target['page_bytes'] / 1000:g} kB"}
    head = [_DATABASES[kind] for kind in ours]
    text = _table(
        ("p50, p99, at most", *head, "target"),
        [
            (words, *(_answered(found.get(name)) for found in ours.values()), wanted.get(name, ""))
            for name, words in names.items()
        ],
    )
    listeners = result["work"]["listeners"]
    told = f"an event from its commit to {listeners} listeners"
    writes: list[tuple[str, tuple[str, ...], Callable[[float], str], str]] = [
        (
            "points stored a second, on disk",
            ("ingest", "points_per_s"),
            lambda rate: f"{rate:,}",
            f"≥ {target['points_per_s']:,}",
        ),
        (
            "a grid of 10,000 handed in",
            ("grid", "created_s"),
            _seconds,
            f"≤ {target['grid_s']:g} s",
        ),
        (
            "rows of as many trials by the driver's writer, in one transaction",
            ("ingest", "trials_in_one_transaction_s"),
            _seconds,
            "",
        ),
        ("importance, computed", ("importance_first_s",), _seconds, ""),
        (f"{told}, p50", ("listen", "p50_s"), _seconds, ""),
        (f"{told}, p99", ("listen", "p99_s"), _seconds, f"≤ {target['event_p99_s']:g} s"),
    ]
    text += "\n" + _table(
        ("", *head, "target"),
        [
            (words, *(_shown(found, keys, form) for found in ours.values()), limit)
            for words, keys, form, limit in writes
        ],
    )
    missed = [
        f"{_DATABASES[kind]}: {name}"
        for kind, goals in result["reached"].items()
        for name, goal in goals.items()
        if not goal["reached"]
    ]
    text += f"\nTargets missed: {', '.join(missed)}.\n" if missed else "\nAll targets reached.\n"
    return f"{text}\n{_rivals_of_service(result['peer'])}"


def _rivals_of_service(peer: Result) -> str:
    said: list[str] = []
    optuna, runs = peer.get("optuna_dashboard"), peer.get("mlflow")
    if optuna:
        said.append(
            f"{optuna['name']} with {optuna['trials']:,} trials and {optuna['points']:,} points "
            f"sends a page in {_seconds(optuna['page']['p50_s'])} and "
            f"{optuna['page']['bytes_max'] / 1e6:.1f} MB, and importances in "
            f"{_seconds(optuna['importance_s'])}."
        )
    if runs:
        said.append(
            f"{runs['name']} with {runs['runs']:,} runs and {runs['points']:,} points sends 50 "
            f"runs and their two curves in {_seconds(runs['page']['p50_s'])} and "
            f"{runs['page']['bytes_max'] / 1e6:.1f} MB, and takes {runs['points_per_s']:,} points "
            f"a second ({runs['points_per_s_over_http']:,} through its server)."
        )
    return " ".join(said) + "\n"


_DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def _shown(found: Result, keys: Sequence[str], form: Callable[[float], str]) -> str:
    """A figure, or that there is none."""
    value: Any = found
    for key in keys:
        value = None if value is None else value.get(key)
    return "not measured" if value is None else form(value)


def _answered(found: Result | None) -> str:
    if found is None:
        return "not measured"
    return (
        f"{_milliseconds(found['p50_s'])}, {_milliseconds(found['p99_s'])}, "
        f"{found['bytes_max'] / 1000:,.0f} kB"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _difference(of: Result, measure: str) -> str:
    found = of["minus_random"][measure]["1"]
    low, high = found["interval"]
    return f"{100 * found['mean']:+.0f}, {100 * low:+.0f} to {100 * high:+.0f}"


_SECTIONS: dict[str, Callable[[Result], str]] = {
    "turnaround": _times,
    "throughput": _throughput,
    "packing": _packing,
    "accumulation": _errors,
    "cache": _times,
    "recovery": _recovery,
    "orchestration": _orchestration,
    "service": _service,
    "early_termination": _early,
}


# --- words and tables -------------------------------------------------------------------------


def _setting(name: str, result: Result) -> str:
    work = ", ".join(
        f"{value:,} {key.replace('_', ' ')}"
        for key, value in result["work"].items()
        if isinstance(value, int)
    )
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    machine = result["machine"]
    script = name.partition(".")[0]
    return (
        f"`benchmarks/{script}.py`, [all figures](../benchmarks/results/{name}.json). "
        f"Work: {work}. "
        f"{machine['system']}, {machine['cpus']} CPUs, load {machine['load_1m']:g}; {versions}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4f}", f"{max(values):.4f}"
    return low if low == high else f"{low} to {high}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def _target(value: float | None) -> str:
    return "" if value is None else f"≥ {value:g} ×"


if __name__ == "__main__":
    sys.exit(main())
