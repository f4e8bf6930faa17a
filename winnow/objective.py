"""Names of what a trial can be judged by, such as `eval/loss` or `lm_eval/arc_challenge/acc_norm`.

eval/loss, eval/exact_match               over all held-out sets
eval/NAME/loss, eval/NAME/exact_match     on one of them
general/loss, general/NAME/loss           on general text: what the model retained
lm_eval/TASK/METRIC                       a benchmark
judge/score, judge/CATEGORY               answers graded by a judge
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["min", "max"]
Kind = Literal["eval", "general", "lm_eval", "judge"]

FORMS = (
    "eval/loss, eval/exact_match, eval/NAME/loss, eval/NAME/exact_match, general/loss, "
    "general/NAME/loss, lm_eval/TASK/METRIC or judge/score"
)
_MEASURED: dict[str, tuple[str, ...]] = {"eval": ("loss", "exact_match"), "general": ("loss",)}
_LOWER = frozenset(
    (
        "unparsed",
        "loss",
        "perplexity",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
        "brier_score",
    )
)
_HIGHER = frozenset(
    ("exact_match", "score", "acc", "acc_norm", "em", "f1", "mcc", "bleu", "pass@1", "mc1", "mc2")
)


@dataclass(frozen=True, slots=True)
class Metric:
    """Where a figure is found: the kind of evaluation, its data set or task (None: all of the kind,
    combined), and the figure's name there."""

    kind: Kind
    dataset: str | None
    name: str

    @property
    def natural_mode(self) -> Mode | None:
        """Which way is better; None if the name doesn't tell."""
        name = self.name.partition(",")[0]
        if name in _HIGHER or (self.kind == "judge" and name != "unparsed"):
            return "max"
        return "min" if name in _LOWER else None


def parse_metric(text: str) -> Metric:
    """The metric that `text` names. Raises ValueError if it has none of the forms."""
    kind, _, rest = text.partition("/")
    dataset, slash, name = rest.rpartition("/")
    if kind in ("eval", "general") and name in _MEASURED[kind] and (dataset or not slash):
        return Metric(kind, dataset or None, name)
    if kind == "lm_eval" and dataset and name:
        return Metric(kind, dataset, name)
    if kind == "judge" and name and dataset in ("", "category"):
        return Metric(kind, None, name)
    hint = "; the winner is chosen on eval, and test only reports it" if kind == "test" else ""
    raise ValueError(f"'{text}' names nothing that is measured{hint}; give one of {FORMS}")
