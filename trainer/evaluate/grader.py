"""Grades from 1 to 10 for one answer at a time, from a model behind an OpenAI-compatible endpoint.

Single-answer grading as in MT-Bench (arXiv 2306.05685, section 3): the judge sees the question, the
answer and, where there is one, a reference, explains itself, and ends with [[rating]].
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import openai

from trainer.config import Judge
from trainer.errors import ConfigError, TrainerError
from trainer.evaluate.outbound import public_client
from trainer.evaluate.questions import Question

MOST_FAILED = 0.2
"""Above this share of judgments without a rating, the evaluation fails."""
RETRIES = 2
"""After a failed call (connection, time limit, 429, 5xx), and after a reply without a rating."""

_SYSTEM = (
    "You grade answers that an AI assistant gave to a user. Be strict, fair and consistent; the "
    "length of an answer earns nothing by itself."
)
_CRITERIA = (
    "Consider whether the answer is helpful, relevant, accurate, deep enough, creative where that "
    "is asked for, and detailed enough."
)
_WITH_REFERENCE = (
    "Compare the assistant's answer with the reference answer, which is correct. Find and name any "
    "mistakes; correctness counts first."
)
_FORM = (
    "Explain your grade in a few sentences. Then give an overall rating from 1 (useless) to 10 "
    "(could not be better), on a line of its own in exactly this form: [[rating]], for example "
    "[[5]]."
)
_REMINDER = "Your reply has no rating. Reply with the rating alone, in the form [[5]]."


@dataclass(frozen=True, slots=True)
class Judgment:
    """One graded turn, 1 or 2. `rating` is None if there is none; `error` says why.

    `text` is the judge's last reply.
    """

    question: Question
    turn: int
    answers: tuple[str, ...]
    rating: float | None = None
    text: str = ""
    error: str = ""

    def asdict(self) -> dict[str, Any]:
        """What is written to the judgments file."""
        reference = self.question.reference
        return {
            "question_id": self.question.id,
            "category": self.question.category,
            "turn": self.turn,
            "question": self.question.turns[self.turn - 1],
            "answer": self.answers[self.turn - 1],
            "reference": reference[self.turn - 1] if reference else None,
            "rating": self.rating,
            "judgment": self.text,
            "error": self.error,
        }


class Grader:
    """Grades answers, several at a time.

    Args:
        settings: the endpoint and how to use it.
        environment: holds the key, in the variable that `settings` names. Proxies are those of
            the process's environment.
        private: whether the judge may be at a loopback or private address.

    Raises:
        ConfigError: the key isn't there, or the address isn't allowed.
    """

    def __init__(
        self, settings: Judge, environment: Mapping[str, str], *, private: bool = True
    ) -> None:
        key = environment.get(settings.api_key_env) if settings.api_key_env is not None else "none"
        if not key:
            raise ConfigError(
                f"the environment variable {settings.api_key_env} is not set; it holds the judge's "
                "key",
                "/judge/api_key_env",
            )
        self._settings = settings
        self._client = openai.OpenAI(
            base_url=settings.base_url,
            api_key=key,
            timeout=settings.timeout,
            max_retries=RETRIES,
            http_client=None if private else public_client(settings.base_url, settings.timeout),
        )
        self._options: dict[str, Any] = {"temperature": 0.0}
        self._ended = threading.Event()

    def grade(
        self, wanted: Iterable[Judgment], done: Callable[[Judgment], object]
    ) -> list[Judgment]:
        """Grade each of `wanted`; `done` is told each as it comes, with a rating or an error.

        Raises:
            TrainerError: the judge refuses the key or the model, or more than `MOST_FAILED` of
                the judgments have no rating; then no more are asked for.
        """
        wanted = list(wanted)
        graded: list[Judgment] = []
        failed = 0
        pool = ThreadPoolExecutor(self._settings.concurrency, "judge")
        try:
            for future in as_completed([pool.submit(self._graded, one) for one in wanted]):
                judgment = future.result()
                graded.append(judgment)
                done(judgment)
                failed += judgment.rating is None
                if failed > MOST_FAILED * len(wanted):
                    raise TrainerError(
                        f"judge {self._settings.model}: {failed} of {len(wanted)} judgments "
                        f"failed, last: {judgment.error}"
                    )
        finally:
            self.close()
            pool.shutdown(wait=False, cancel_futures=True)
        return graded

    def close(self) -> None:
        """Ask for no more judgments; calls under way are broken off."""
        self._ended.set()
        self._client.close()

    def _graded(self, wanted: Judgment) -> Judgment:
        if self._ended.is_set():
            return replace(wanted, error="not asked for")
        messages = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": prompt(wanted)},
        ]
        reply = ""
        for _ in range(1 + RETRIES):
            try:
                reply = self._reply(messages)
            except (
                openai.AuthenticationError,
                openai.PermissionDeniedError,
                openai.NotFoundError,
            ) as error:
                raise TrainerError(
                    f"judge {self._settings.model} at {self._settings.base_url} refuses: "
                    f"{_words(error)}; check base_url, model and api_key_env"
                ) from None
            except openai.OpenAIError as error:
                return replace(wanted, text=reply, error=_words(error))
            rating = parse_rating(reply)
            if rating is not None:
                return replace(wanted, rating=rating, text=reply)
            messages = [
                *messages[:2],
                {"role": "assistant", "content": reply or "(no reply)"},
                {"role": "user", "content": _REMINDER},
            ]
        what = "the judge's reply has no rating" if reply else "the judge's reply is empty or junk"
        return replace(wanted, text=reply, error=what)

    def _reply(self, messages: list[dict[str, str]]) -> str:
        """What the judge says; "" if that is no chat completion."""
        create: Any = self._client.chat.completions.create
        options = self._options
        try:
            reply = create(model=self._settings.model, messages=messages, **options)
        except openai.BadRequestError as error:
            if not options or "temperature" not in str(error):
                raise
            self._options = {}  # some models have a fixed one and refuse the field
            reply = create(model=self._settings.model, messages=messages)
        except ValueError:
            return ""  # not even JSON, such as a gateway's error page
        try:
            return reply.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError):
            return ""


def prompt(wanted: Judgment) -> str:
    """What the judge is asked about one turn."""
    question, turn = wanted.question, wanted.turn
    parts: list[str] = []
    if turn == 1:
        parts.append("Grade the assistant's answer to the user's question below.")
    else:
        parts.append(
            "Below is a conversation of two turns between a user and an assistant. Grade the "
            "assistant's answer to the second question; the first turn is there as context."
        )
    parts.append(_WITH_REFERENCE if question.reference else _CRITERIA)
    parts.append(_FORM)
    for number in range(turn):
        which = "" if turn == 1 else (" first", " second")[number]
        parts.append(f"[The user's{which} question]\n{question.turns[number]}")
        if question.reference:
            parts.append(f"[Reference answer]\n{question.reference[number]}\n[End of reference]")
        answer = wanted.answers[number].strip() or "(the assistant gave no answer)"
        parts.append(f"[The assistant's{which} answer]\n{answer}\n[End of answer]")
    return "\n\n".join(parts)


_NUMBER = r"\**\s*(10(?:\.0+)?|[0-9](?:\.[0-9]+)?)(?![0-9.]*[0-9])\s*\**"
_RATINGS = (
    re.compile(rf"\[\[\s*(?:rating:?\s*)?{_NUMBER}\s*(?:/\s*10\s*)?\]\]", re.IGNORECASE),
    re.compile(rf"\[\s*(?:rating:?\s*)?{_NUMBER}\s*(?:/\s*10\s*)?\]", re.IGNORECASE),
    re.compile(rf"\b(?:rating|score|grade)\b\W*(?:is|of|:|=)?\W*{_NUMBER}", re.IGNORECASE),
    re.compile(rf"(?<![0-9.]){_NUMBER}(?:/|out of)\s*10\b", re.IGNORECASE),
    re.compile(rf"\A\s*{_NUMBER}\s*\.?\s*\Z"),
)


def parse_rating(reply: str) -> float | None:
    """The rating in a judge's reply, 1 … 10, the last one if there are several; None if none."""
    _, thought, after = reply.rpartition("</think>")
    text = after if thought else reply
    for form in _RATINGS:
        found = [float(match[1]) for match in form.finditer(text)]
        if found:
            return found[-1] if 1 <= found[-1] <= 10 else None
    return None


def _words(error: Exception) -> str:
    if isinstance(error, openai.APITimeoutError):
        return "no reply within the time limit"
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {str(error.message)[:300]}"
    cause = error.__cause__
    return f"{error}" + (f" ({cause})" if cause is not None else "")
