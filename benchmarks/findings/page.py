"""`docs/findings.md` from the numbers: a summary, the declaration unchanged, then all results."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.findings import wording as say
from benchmarks.findings.analysis import Analysis, Contest
from benchmarks.findings.claims import NAMES, Claim
from benchmarks.findings.features import PRIMARY, SIGNALS, WINDOWS
from benchmarks.findings.plots import RIVAL_NAMES
from benchmarks.findings.rivals import RIVALS
from benchmarks.findings.secondary import MEASURES, measure_name
from benchmarks.findings.statistics import Estimate

DECLARATION = Path(__file__).with_name("declaration.md")
DECLARED = "2026-11-21 17:48 UTC"
SHA256 = "e01d1c57e5c08b16bbb09e7adbf4010cbae5b55c65d6a3f09aaa0beaf7e1b42b"
"""Of the declaration as it was committed before any outcome was looked at."""
ON_TEST = ("loss", "exact_match")
SIGNAL_NAMES = {"sign": "sign score", "low_norm": "low norm", "high_loss": "high loss"}


def declaration() -> str:
    """The declared text.

    Raises:
        RuntimeError: it is not the text that was declared.
    """
    text = DECLARATION.read_text("utf-8")
    found = hashlib.sha256(text.encode("utf-8")).hexdigest()
    if found != SHA256:
        raise RuntimeError(
            f"{DECLARATION} was changed after it was declared: its SHA-256 is {found}, not {SHA256}"
        )
    return text


def page(analysis: Analysis, images: str) -> str:
    """The whole page; `images` is the path of the plots' folder as seen from the page."""
    before = [_top(analysis), _short(analysis)]
    declared = [
        declaration().rstrip(),
        f"*Declared {DECLARED}; SHA-256 of `benchmarks/findings/declaration.md`: `{SHA256}`.*",
    ]
    after = [
        _verdicts(analysis),
        _dynamics(analysis, images),
        _rivals(analysis, images),
        _surface(analysis, images),
        _twins(analysis, images),
        _facts(analysis),
    ]
    parts = [_wrapped("\n\n".join(before)), *declared, _wrapped("\n\n".join(after))]
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    """Prose at 120 columns; headings, tables, pictures, folds and lists as they are."""
    return "\n\n".join(
        part if part.startswith(("#", "|", "!", "<", "- ")) else say.wrapped(part)
        for part in text.split("\n\n")
    )


def _top(analysis: Analysis) -> str:
    done = len(analysis.sweeps)
    lines = [
        "# Findings on recorded fine-tuning sweeps",
        "",
        "What early gradient norms and losses say about how a fine-tuning run ends, and other "
        "claims of one paper, tested on sweeps in which nothing was stopped "
        "([the curves](../benchmarks/curves/README.md)). Made by `python -m benchmarks.findings`; "
        "all numbers are in `benchmarks/results/findings.json`.",
        "",
        f"**Sweeps complete: {done} of {done + len(analysis.incomplete)}** ({analysis.runs} runs)"
        + (f": {say.listed(analysis.sweeps)}." if done else "."),
    ]
    if analysis.incomplete:
        by_state: dict[str, list[str]] = {}
        for name, state in analysis.incomplete.items():
            by_state.setdefault(state, []).append(name)
        missing = [f"{say.listed(names)} ({state})" for state, names in by_state.items()]
        lines[-1] += f" Not used: {'; '.join(missing)}."
    if done < 5:
        lines += [
            "",
            "The declaration expects at least five: **the verdicts below are provisional.**",
        ]
    return "\n".join(lines)


def _group(analysis: Analysis, prefix: str) -> list[Claim]:
    return [c for c in analysis.claims if c.id.startswith(prefix)]


def _short(analysis: Analysis) -> str:
    bullets = [
        f"{say.dynamics(_group(analysis, 'H1'), beyond=False)} {say.rule(analysis.claim('H1a'))}",
        say.dynamics(_group(analysis, "H2"), beyond=True),
        _best_rival(analysis),
        f"{say.best_rate(analysis.claim('H4'))} {say.corner(_group(analysis, 'H3'))}",
        " ".join(say.same_end(c) for c in _group(analysis, "H5")),
        f"{say.same_end(analysis.claim('H6a'))} {say.samples_needed(analysis.claim('H6b'))}",
    ]
    lines = "\n".join(say.wrapped(f"- {b}") for b in bullets if b)
    after = "In brackets: estimate and 95 % interval. Verdicts are after Holm's correction."
    if analysis.repeats:
        names = say.listed(analysis.repeats)
        after += (
            f" Most stacked runs of {names} are an earlier sweep's over again; without {names} in "
            f"H1 to H5 {_changed(analysis)} (*not declared*)."
        )
    return f"## In short\n{lines}\n\n{after}"


def _contest(analysis: Analysis, fraction: float, every: bool) -> Contest | None:
    for contest in analysis.contests:
        if contest.fraction == fraction and contest.every is every and contest.result.agreement:
            return contest
    return None


def _best_rival(analysis: Analysis) -> str:
    contest = _contest(analysis, PRIMARY, False)
    if contest is None:
        return ""
    found = contest.result.agreement
    order = sorted(found, key=lambda r: -found[r].value)
    ranked = [f"{RIVAL_NAMES[r]} {say.signed(found[r].value)}" for r in order]
    add = contest.result.features_add
    text = f"Agreement with final eval loss at 1/8 of the budget: {', '.join(ranked)}."
    if add is None:
        return text
    if found["sign"].interval[1] < 0:
        text += " The sign score ranks the wrong way round."
    low, high = add.interval
    change = f"{say.signed(add.value)} ({say.spread(add.interval)})"
    if low > 0:
        return f"{text} Norm and loss add to the surface: {change}."
    if high < 0:
        return f"{text} Norm and loss make the surface worse: {change}."
    return f"{text} Norm and loss add nothing to the surface that can be told from zero: {change}."


def _verdicts(analysis: Analysis) -> str:
    lines = ["## Results", "### Verdicts", _claims(analysis.claims)]
    if analysis.repeats:
        names = say.listed(analysis.repeats)
        lines += [
            f"*Not declared.* Most stacked runs of {names} are an earlier sweep's over again (same "
            "settings, data and seeds, so the same numbers). The declaration did not foresee it: "
            f"they count twice above. Without {names} in H1 to H5, "
            f"{_changed(analysis)}.",
            _folded(f"Without {names} in H1 to H5", _claims(analysis.claims_without_repeats)),
        ]
    silent: dict[str, list[str]] = {}
    for claim in analysis.claims:
        if claim.left_out:
            silent.setdefault(say.listed(claim.left_out), []).append(claim.id)
    for sweeps, ids in silent.items():
        lines.append(
            f"Left out of {say.listed(ids)}, because the outcome hardly differs: {sweeps}."
        )
    return "\n\n".join(lines)


def _changed(analysis: Analysis) -> str:
    """Which verdicts are others without the repeated runs."""
    changed = [
        f"{b.id} from {a.verdict} to {b.verdict}"
        for a, b in zip(analysis.claims, analysis.claims_without_repeats, strict=True)
        if a.verdict != b.verdict
    ]
    if not changed:
        return "no verdict changes"
    return f"{'this changes' if len(changed) == 1 else 'these change'}: {say.listed(changed)}"


def _claims(claims: Sequence[Claim]) -> str:
    rows = [
        [
            c.id,
            c.text,
            say.result(c),
            say.chance(c.p) if c.value is not None else say.MISSING,
            say.chance(c.holm) if c.value is not None else say.MISSING,
            f"**{c.verdict}**",
            c.size,
        ]
        for c in claims
    ]
    head = ["", "claim", "result, 95 % interval", "p", "after Holm", "verdict", "data"]
    return say.table(head, rows)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return say.MISSING
    return f"{say.signed(estimate.value)} ({say.spread(estimate.interval)})"


def _dynamics(analysis: Analysis, images: str) -> str:
    names = list(analysis.sweeps)
    parts: list[str] = [
        "### Early norm and loss",
        f"![Correlation of the sign score with the outcomes]({images}/findings-sign.png)",
        "Circles are sweeps, the diamond their mean with its interval.",
    ]
    rows = [
        [
            f"{c.id} {NAMES[outcome]}",
            *(say.signed((c.parts or {}).get(n, math.nan)) for n in names),
            say.spread(c.across),
        ]
        for group in ("H1", "H2")
        for c, outcome in zip(_group(analysis, group), NAMES, strict=True)
    ]
    parts.append(say.table(["ρ in each sweep", *names, "t-interval over sweeps"], rows))

    parts.append(
        "Every signal, window and reading against each outcome (mean ρ, 95 % interval). "
        "*8 steps*: configurations with 8 steps in the window; *all*: every configuration."
    )
    head = ["signal", "reading", *(f"1/{round(1 / f)}" for f in WINDOWS)]
    for partial in (False, True):
        for outcome, split in MEASURES:
            rows = [
                [
                    SIGNAL_NAMES[signal],
                    "all" if every else "8 steps",
                    *(
                        _cell(
                            analysis.association(
                                signal=signal,
                                outcome=outcome,
                                split=split,
                                fraction=fraction,
                                every=every,
                                partial=partial,
                                only="all",
                            )
                        )
                        for fraction in WINDOWS
                    ),
                ]
                for signal in SIGNALS
                for every in (False, True)
            ]
            title = measure_name(outcome, split) + (" beyond rate and batch" if partial else "")
            parts.append(_folded(title[0].upper() + title[1:], say.table(head, rows)))
    parts += [_robust(analysis), _seeds(analysis)]
    return "\n\n".join(parts)


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _robust(analysis: Analysis) -> str:
    def primary(outcome: str, *, split: str = "eval", partial: bool = False, only: str = "all"):
        return analysis.association(
            signal="sign", outcome=outcome, split=split, fraction=PRIMARY, every=False,
            partial=partial, only=only,
        )  # fmt: skip

    rows: list[list[str]] = []
    for partial in (False, True):
        beyond = ", beyond rate and batch" if partial else ""
        for only, text in (
            ("all", "all configurations"),
            ("sound", "without diverged"),
            ("sound and fit", "without diverged and underfit"),
        ):
            cells = [_cell(primary(o, partial=partial, only=only)) for o in NAMES]
            rows.append([text + beyond, *cells])
        tested = [_cell(primary(o, split="test", partial=partial)) for o in ON_TEST]
        rows.append(["all configurations, on test" + beyond, *tested, say.MISSING])
    for key, more in (("raw", ""), ("partial", ", beyond rate")):
        cells = [_cell(analysis.within_batches[o][key]) for o in NAMES]
        rows.append(["within equal batch" + more, *cells])
    head = ["sign score at 1/8", *NAMES.values()]
    return say.table(head, rows)


def _seeds(analysis: Analysis) -> str:
    rows: list[list[str]] = []
    for outcome, name in NAMES.items():
        found = analysis.seeds[outcome]
        if found is None:
            continue
        ends = " to ".join(f"{100 * v:.0f}" for v in found.interval)
        rows.append(
            [
                name,
                f"{100 * found.agree:.0f} % ({ends})",
                f"{say.signed(found.better_by, 4)} ({say.spread(found.better_by_interval, 4)})",
                str(found.configurations),
            ]
        )
    if not rows:
        return "No configuration has two seeds with early features yet."
    head = ["outcome", "share that end better", "by (higher is better)", "configurations"]
    return (
        "Two seeds of one configuration differ in nothing that was set. Does the one with the "
        "higher sign score end better? 50 % is chance. This is the one comparison in which rate "
        "and batch can't leak in: the partial correlations take out a quadratic surface only, and "
        "what a real surface has beyond that stays in both sides.\n\n" + say.table(head, rows)
    )


def _rivals(analysis: Analysis, images: str) -> str:
    parts = [
        "### What else predicts the end",
        f"![Agreement with final eval loss by window]({images}/findings-windows.png)",
        "The surface is fitted to the finished outcomes of the *other* rates and batches, so it "
        "costs complete runs; held-out loss costs an evaluation; norm and loss are free. *Best "
        "kept*: in how many sweeps the best configuration is among the predicted best half "
        "and quarter. Training loss as a rival is *not declared*: it is high loss, turned round.",
    ]
    for every in (False, True):
        rows: list[list[str]] = []
        for fraction in WINDOWS:
            contest = _contest(analysis, fraction, every)
            if contest is None:
                continue
            found = contest.result
            for rival in RIVALS:
                half, quarter = found.kept[rival]
                rows.append(
                    [
                        f"1/{round(1 / fraction)}",
                        RIVAL_NAMES[rival],
                        _cell(found.agreement.get(rival)),
                        f"{half} and {quarter} of {found.sweeps}",
                    ]
                )
            rows.append(
                [
                    f"1/{round(1 / fraction)}",
                    "*norm and loss add to the surface*",
                    _cell(found.features_add),
                    "",
                ]
            )
        title = "All configurations" if every else "Configurations with 8 steps"
        head = ["seen", "predictor", "ρ with final eval loss", "best kept, half and quarter"]
        parts.append(_folded(title, say.table(head, rows)))
    return "\n\n".join(parts)


def _surface(analysis: Analysis, images: str) -> str:
    h4 = analysis.claim("H4")
    rows = [[n, say.signed(v)] for n, v in (h4.parts or {}).items()]
    parts = [
        "### Batch and rate",
        f"![Final eval loss over rate by batch]({images}/findings-surface.png)",
        "Final eval loss over the learning rate; diverged ends are cut off.",
        f"{say.best_rate(h4)} Linear scaling of the rate with the batch would be +1, the square "
        "root +0.5. The largest batch has 60 times fewer steps on the same samples.",
        say.table(["sweep", "decades of best rate a decade of batch"], rows),
        say.corner(_group(analysis, "H3")),
    ]
    if analysis.corners_on_test:
        found = [
            f"{name} {say.signed(100 * e.value, 0)} percentile points "
            f"({' to '.join(say.signed(100 * v, 0) for v in e.interval)})"
            for name, e in analysis.corners_on_test.items()
        ]
        parts.append(f"On the test split: {say.listed(found)}.")
    return "\n\n".join(parts)


def _twins(analysis: Analysis, images: str) -> str:
    tested = [*_group(analysis, "H5"), analysis.claim("H6a")]
    parts = [
        "### Warmup, schedule, curriculum",
        f"![Differences of twins]({images}/findings-twins.png)",
        " ".join(say.same_end(c) for c in tested),
        f"{say.samples_needed(analysis.claim('H6b'))} Eval loss here covers all phases alike; "
        "phased training sees the last one last and the first one not again.",
        "Every twin on every outcome (first minus second; loss in nats, positive is worse; "
        "exact match as a share, positive is better; retention as the change of general loss, "
        "positive is worse):",
    ]
    rows = [
        [
            t.text,
            t.where,
            measure_name(t.outcome, t.split),
            f"{say.signed(t.difference, 3)} ({say.spread(t.interval, 3)})",
            str(t.pairs),
        ]
        for t in analysis.twins
    ]
    head = ["twins", "batches", "outcome", "difference (95 %)", "pairs"]
    parts.append(_folded("All twins", say.table(head, rows)))
    return "\n\n".join(parts)


def _facts(analysis: Analysis) -> str:
    rows = [
        [
            f.name,
            str(f.configurations),
            f"{f.diverged}, {f.underfit}",
            f"{f.base:.3f}",
            f"{f.best:.3f} `{f.best_configuration}`",
            f"{f.typical_seed_deviation:.3f}, {f.seed_deviation:.3f}",
            f"{f.best_exact_match:.2f} `{f.best_match_configuration}`",
            f"{f.exact_match_deviation:.3f}",
            f"`{f.forgot_least}`",
        ]
        for f in analysis.facts
    ]
    head = [
        "sweep",
        "configurations",
        "diverged, underfit",
        "base eval loss",
        "best eval loss",
        "its seed SD, typical and pooled",
        "best exact match",
        "its seed SD",
        "forgot least",
    ]
    return "### The sweeps\n\n" + say.table(head, rows)
