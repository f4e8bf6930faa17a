"""Words for numbers: every sentence depends on the verdict, so that it can't disagree with it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from benchmarks.findings.claims import NAMES, Claim, Interval, Verdict

MISSING = "–"


def signed(value: float, digits: int = 2) -> str:
    """With a real minus sign, and never -0.00."""
    if math.isnan(value):
        return MISSING
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def spread(interval: Interval | None, digits: int = 2) -> str:
    return MISSING if interval is None else " to ".join(signed(v, digits) for v in interval)


def chance(p: float) -> str:
    """A p-value."""
    if math.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def result(claim: Claim) -> str:
    """The estimate with its 95 % interval, in the claim's own unit."""
    if claim.value is None or claim.interval is None:
        return claim.note or MISSING
    low, high = claim.interval
    match claim.kind:
        case "correlation":
            return f"ρ = {signed(claim.value)}, {spread(claim.interval)}"
        case "percentile":
            ends = " to ".join(signed(100 * v, 0) for v in claim.interval)
            return f"{signed(100 * claim.value, 0)} percentile points, {ends}"
        case "slope":
            return f"{signed(claim.value)} decades a decade, {spread(claim.interval)}"
        case "nats":
            margin = f"margin {claim.matters:.3f}"
            return f"{signed(claim.value, 3)} nats, {spread(claim.interval, 3)}; {margin}"
        case "ratio":
            return f"× {math.exp(claim.value):.2f}, {math.exp(low):.2f} to {math.exp(high):.2f}"


def dynamics(claims: Sequence[Claim], beyond: bool) -> str:
    """One sentence on the claims about early norm and loss, in the order of the outcomes."""
    says: dict[Verdict, str] = {
        "supported": "goes with better {}, as the paper says",
        "contradicted": "goes with worse {}, against the paper",
        "not supported": "does not usefully predict {}: an effect of 0.3 is excluded",
        "undecided": "is undecided for {}",
    }
    parts = [
        f"{says[c.verdict].format(name)} ({result(c)})"
        for c, name in zip(claims, NAMES.values(), strict=True)
    ]
    start = "Beyond rate and batch, it" if beyond else "Low norm with high loss early"
    return f"{start} {'; it '.join(parts)}."


def corner(claims: Sequence[Claim]) -> str:
    says: dict[Verdict, str] = {
        "supported": "does better than the rest on {}",
        "contradicted": "does worse than the rest on {}",
        "not supported": "does not do better on {} by as much as would matter",
        "undecided": "is undecided on {}",
    }
    parts = [
        f"{says[c.verdict].format(name)} ({result(c)})"
        for c, name in zip(claims, NAMES.values(), strict=True)
    ]
    return f"The largest batch with a low rate {'; it '.join(parts)}."


def best_rate(claim: Claim) -> str:
    says: dict[Verdict, str] = {
        "supported": "The best rate for eval loss rises with the batch",
        "contradicted": "The best rate for eval loss falls as the batch grows",
        "not supported": "The best rate for eval loss does not rise with the batch by as much as "
        "would matter",
        "undecided": "Whether the best rate rises with the batch is undecided",
    }
    return f"{says[claim.verdict]} ({result(claim)})."


def same_end(claim: Claim) -> str:
    """For an equivalence: 'A ends as B' and what came of it."""
    first, _, second = claim.text.partition(" ends as ")
    if claim.value is None:
        return f"Whether {claim.text} can't be said: {claim.note}."
    says: dict[Verdict, str] = {
        "supported": f"{_capital(first)} ends as {second}, within the margin",
        "contradicted": f"{_capital(first)} doesn't end as {second}: the difference is larger than "
        "the margin",
        "not supported": f"{_capital(first)} ends {_direction(claim)} than {second}, perhaps by "
        "more than the margin",
        "undecided": f"Whether {claim.text} is undecided",
    }
    limit = f"; {claim.note}" if claim.note else ""
    return f"{says[claim.verdict]} ({result(claim)}{limit})."


def samples_needed(claim: Claim) -> str:
    if claim.value is None:
        return f"Whether phased needs more samples than stacked can't be said: {claim.note}."
    says: dict[Verdict, str] = {
        "supported": "Phased needs more samples than stacked to get to the same eval loss",
        "contradicted": "Phased needs fewer samples than stacked to get to the same eval loss",
        "not supported": "Phased does not need 1.1 times the samples of stacked",
        "undecided": "Whether phased needs more samples than stacked is undecided",
    }
    return f"{says[claim.verdict]} ({result(claim)})."


def wrapped(text: str) -> str:
    """Prose at 120 columns; bullets hang."""
    hang = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        text, 120, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    )


def listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _direction(claim: Claim) -> str:
    return "worse" if (claim.value or 0.0) > 0 else "better"
