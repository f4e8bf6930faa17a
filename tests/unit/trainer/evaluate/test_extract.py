"""What is taken from an answer, on answers as models really write them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import Extract
from trainer.errors import ConfigError
from trainer.evaluate.extract import Extractor, reference_problem

NUMBER = Extractor(Extract(kind="last_number"))
CHOICE = Extractor(Extract(kind="choice"))
WHOLE = Extractor(Extract())


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("42", "42"),
        ("She has 16 - 3 - 4 = 9 eggs, so she makes 9 * 2 = $18 every day.\n#### 18", "18"),
        ("The profit is $1,000.00.", "1000"),
        ("That makes 1,234,567 in all", "1234567"),
        ("It costs $12.50 per box.", "12.5"),
        ("x = -5", "-5"),
        ("The balance is -$1,250.75", "-1250.75"),
        ("$-3", "-3"),
        ("It fell to \u22127 degrees.", "-7"),
        ("10-5", "5"),
        ("7 - 3 = 4.", "4"),
        ("a drop of 50%", "50"),
        ("about .5 of it", "0.5"),
        ("0.50", "0.5"),
        ("-0", "0"),
        ("007", "7"),
        ("6.02e23", "602000000000000000000000"),
        ("1.5e-3", "0.0015"),
        ("\\boxed{1{,}024}", "1024"),
        ("\\$1,\\!500", "1500"),
        ("The answer is **72**.", "72"),
        ("Version 2 has 3 parts: 1, 2, 3", "3"),
        ("#### 1,000\nThe answer above counts 12 boxes.", "1000"),
        ("#### not sure, but 15", "15"),
        ("So 15.\n####", "15"),
        ("No. 3, page 12.", "12"),
        ("1,2,3", "3"),
        ("answer: 12abc", "12"),
        ("There are 99999999999999999999 stars", "99999999999999999999"),
        ("none at all", None),
        ("", None),
        ("$", None),
    ],
)
def test_the_last_number_is_found_by_value(answer: str, number: str | None) -> None:
    assert NUMBER(answer) == number


@given(st.integers(-(10**12), 10**12), st.sampled_from(["", "$", "€"]), st.integers(0, 3))
def test_a_number_is_the_same_however_it_is_written(value: int, sign: str, zeros: int) -> None:
    plain = str(value)
    written = f"{'-' if value < 0 else ''}{sign}{abs(value):,}" + ("." + "0" * zeros) * bool(zeros)
    assert NUMBER.agree(f"The answer is {written}.", f"#### {plain}")


@given(st.decimals(-10000, 10000, places=3), st.text(alphabet=string.ascii_letters + " .,:"))
def test_words_around_a_number_do_not_change_it(value: object, words: str) -> None:
    assert NUMBER(f"{words} {value} {words}") == NUMBER(str(value))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_other_numbers_do_not_agree(one: int, other: int) -> None:
    assert NUMBER.agree(str(one), str(other)) == (one == other)


# --- choices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (c)\n", "C"),
        ("**D**", "D"),
        ("B.", "B"),
        ("B)", "B"),
        ("B. Paris is the capital of France.", "B"),
        ("(B) Paris", "B"),
        ("A: it reflects light", "A"),
        ("The answer is (B).", "B"),
        ("The answer is B", "B"),
        ("The correct answer is **C**.", "C"),
        ("Answer: D", "D"),
        ("**Answer:** D", "D"),
        ("The correct option is (A) because water boils.", "A"),
        ("The best answer would be E.", "E"),
        ("answer is: $\\boxed{\\text{(C)}}$", "C"),
        ("Therefore $\\boxed{D}$.", "D"),
        ("The answer isn't A, since that is heat. The answer is B.", "B"),
        ("Let's think step by step.\n(A) is wrong.\n(C) fits.\nSo the answer is (C).", "C"),
        ("Photosynthesis needs light, which leaves **B) chlorophyll**.", "B"),
        ("It can't be seen from the ground.\n\nC", "C"),
        ("I would choose (D)", "D"),
        ("The final answer is I", "I"),
        ("J", "J"),
        ("The answer is Apollo", None),
        ("I think that plants need water.", None),
        ("A dog is an animal", None),
        ("the answer is a dog", None),
        ("I'm not sure.", None),
        ("", None),
        ("42", None),
    ],
)
def test_the_chosen_letter_is_found(answer: str, letter: str | None) -> None:
    assert CHOICE(answer) == letter


@given(
    st.sampled_from(string.ascii_uppercase),
    st.sampled_from(
        [
            "{}",
            "({})",
            "{}.",
            "**{}**",
            "The answer is ({}).",
            "Answer: {}",
            "{}. text",
            "({}) text",
        ]
    ),
)
def test_each_letter_is_found_in_each_form(letter: str, form: str) -> None:
    assert CHOICE.agree(form.format(letter), letter)


# --- patterns ---------------------------------------------------------------------------------


def regex(pattern: str) -> Extractor:
    return Extractor(Extract(kind="regex", pattern=pattern), "/data/eval/0/extract")


@pytest.mark.parametrize(
    ("pattern", "answer", "found"),
    [
        (r"<a>(.*?)</a>", "<a>one</a> then <a> two </a>", "two"),
        (r"[0-9]+", "7 of 12", "12"),
        (r"(?:yes|no)", "yes, or rather no", "no"),
        (r"(x)|(y)", "x y", "y"),
        (r"q", "nothing", None),
        (r"(x)?z", "z", None),
    ],
)
def test_a_patterns_last_match_counts_and_of_it_the_first_group(
    pattern: str, answer: str, found: str | None
) -> None:
    assert regex(pattern)(answer) == found


def test_a_catastrophic_pattern_ends_and_is_refused_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.evaluate.extract.REGEX_SECONDS", 0.02)
    slow = regex(r"^(a|aa)+$")
    assert slow("a" * 60 + "!") is None
    assert slow("aaa") == "a"
    assert slow("a" * 60 + "!") is None
    assert slow("a" * 60 + "!") is None
    with pytest.raises(ConfigError, match=r"\(a\|aa\)\+\$.*more than 0.02 s") as error:
        slow("a" * 60 + "!")
    assert error.value.pointer == "/data/eval/0/extract"


# --- agreement --------------------------------------------------------------------------------


def test_an_answer_in_which_nothing_is_found_is_wrong_even_if_the_reference_has_nothing() -> None:
    assert not NUMBER.agree("none", "none")
    assert not WHOLE.agree("  ", "")


@given(st.text())
def test_the_whole_answer_agrees_with_itself_but_for_space_around_it(text: str) -> None:
    assert WHOLE.agree(f" {text}\n", text) == bool(text.strip())


@given(st.text(), st.sampled_from(["whole", "last_number", "choice"]))
def test_any_text_can_be_given(text: str, kind: str) -> None:
    found = Extractor(Extract.model_validate({"kind": kind}))(text)
    assert found is None or found


def test_references_in_which_nothing_is_found_are_told_before_training() -> None:
    number = Extract(kind="last_number")
    assert reference_problem(number, ["yes", "#### 4"]) is None
    problem = reference_problem(number, ["yes", "no"])
    assert problem is not None
    assert "no number in any of the first 2 reference answers" in problem
    assert reference_problem(Extract(), ["yes"]) is None
