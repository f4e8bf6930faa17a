"""Names of what a trial is judged by."""

from __future__ import annotations

import pytest

from winnow.objective import Metric, parse_metric


@pytest.mark.parametrize(
    ("text", "metric", "mode"),
    [
        ("eval/loss", Metric("eval", None, "loss"), "min"),
        ("eval/exact_match", Metric("eval", None, "exact_match"), "max"),
        ("eval/gsm8k/exact_match", Metric("eval", "gsm8k", "exact_match"), "max"),
        ("general/loss", Metric("general", None, "loss"), "min"),
        ("general/wiki/loss", Metric("general", "wiki", "loss"), "min"),
        ("lm_eval/arc_challenge/acc_norm", Metric("lm_eval", "arc_challenge", "acc_norm"), "max"),
        ("lm_eval/wiki/word_perplexity", Metric("lm_eval", "wiki", "word_perplexity"), "min"),
        ("lm_eval/gsm8k/exact_match,strict-match",
         Metric("lm_eval", "gsm8k", "exact_match,strict-match"), "max"),
        ("lm_eval/odd/figure", Metric("lm_eval", "odd", "figure"), None),
        ("judge/score", Metric("judge", None, "score"), "max"),
        ("judge/writing", Metric("judge", None, "writing"), "max"),
        ("judge/category/writing", Metric("judge", None, "writing"), "max"),
        ("judge/unparsed", Metric("judge", None, "unparsed"), "min"),
    ],
)  # fmt: skip
def test_each_form_says_where_to_look_and_which_way_is_better(
    text: str, metric: Metric, mode: str | None
) -> None:
    assert parse_metric(text) == metric
    assert parse_metric(text).natural_mode == mode


@pytest.mark.parametrize(
    "text",
    [
        *("", "loss", "eval", "eval/", "eval//loss", "eval/accuracy", "general/exact_match"),
        *(
            "test/loss",
            "lm_eval/acc",
            "lm_eval//acc",
            "judge/",
            "judge/x/score",
            "EVAL/loss",
        ),
    ],
)
def test_other_names_are_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="give one of eval/loss"):
        parse_metric(text)
