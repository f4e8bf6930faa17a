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
    if claim.value is None:
        return claim.note or MISSING
    value, interval = claim.value, claim.interval
    match claim.kind:
        case "correlation":
            text, ends = f"ρ = {signed(value)}", spread(interval)
        case "percentile":
            text = f"{signed(100 * value, 0)} percentile points"
            ends = spread(interval and (100 * interval[0], 100 * interval[1]), 0)
        case "slope":
            text, ends = f"{signed(value)} decades a decade", spread(interval)
        case "nats":
            text = f"{signed(value, 3)} nats"
            ends = f"{spread(interval, 3)}; margin {claim.matters:.3f}"
        case "ratio":
            text = f"× {math.exp(value):.2f}"
            ends = " to ".join(f"{math.exp(v):.2f}" for v in interval or ())
    return f"{text}, {ends}" if interval else f"{text}, no interval from one sweep"


def dynamics(claims: Sequence[Claim], beyond: bool) -> str:
    """One sentence on the claims about early norm and loss, in the order of the outcomes."""
    says: dict[Verdict, str] = {
        "supported": "goes with better {}, the paper's sign",
        "contradicted": "goes with worse {}, the opposite of the paper's sign",
        "not supported": "does not go with better {} as far as would matter",
        "undecided": "is undecided for {}",
    }
    parts = [
        f"{says[c.verdict].format(name)} ({result(c)})"
        for c, name in zip(claims, NAMES.values(), strict=True)
    ]
    start = "Beyond rate and batch, it" if beyond else "Low norm with high loss early"
    scope = "" if beyond else " General benchmarks, the paper's own outcome, are not tested here."
    return f"{start} {'; it '.join(parts)}.{scope}"


def rule(claim: Claim) -> str:
    """What H1 for eval loss means for a rule that takes the paper literally."""
    does: dict[Verdict, str] = {
        "supported": "keeps the better ones here",
        "contradicted": "ends the better ones here",
        "not supported": "can do little better than chance here",
        "undecided": "can't be judged yet",
    }
    return f"A rule that keeps trials with low norm and high loss {does[claim.verdict]}."


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
