"""MT-Bench-style judging: the model answers questions turn by turn, a judge grades each answer.

Answers are greedy, so that two trials differ by their weights only. The ranks share the questions;
rank 0 alone speaks to the judge, while the others wait and hear the user.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import Any

from trainer import engine
from trainer.config import ANYWHERE, Judge, Roots
from trainer.evaluate.batches import batches, halving
from trainer.evaluate.generate import greedy, stop_tokens
from trainer.evaluate.grader import Grader, Judgment
from trainer.evaluate.questions import Question, read_questions
from trainer.evaluate.turns import Control, heed, in_step, meanwhile
from trainer.metrics import Evaluation

ANSWER_TOKENS = 1024
"""Most tokens of an answer, as in MT-Bench."""


def run_judge(
    settings: Judge,
    model: Any,
    tokenizer: Any,
    *,
    cap: int,
    step: int,
    seen: int,
    output: Path | None,
    whole_weights: Callable[[], AbstractContextManager[Any]],
    control: Control | None = None,
    environment: Mapping[str, str] | None = None,
    roots: Roots = ANYWHERE,
) -> Evaluation:
    """Answer the questions and have them graded. All ranks make the same call.

    Args:
        settings: questions and judge.
        model: in eval mode.
        tokenizer: the model's, with a chat template.
        cap: most tokens of a batch that is generated, on a rank.
        step: optimizer steps made.
        seen: samples seen.
        output: judgments are written to `judgments` in it; None: nowhere.
        whole_weights: entered while the model answers.
        control: asked between batches, and twice a second while the judge grades.
        environment: holds the judge's key; the process's own if None.
        roots: where the questions and the judge may be.

    Returns:
        `scores`: `score`, the mean over all turns; `turn_1`, `turn_2`; `category/NAME` for each
        category; `unparsed`, the number of judgments without a rating, which count nowhere else.

    Raises:
        DataError: the questions can't be read.
        TrainerError: the judge can't be used, or failed too often.
        Interrupted: `control` was answered with pause or stop on some rank.
    """
    began = time.monotonic()
    questions = read_questions(Path(settings.questions).expanduser(), roots.data)
    with whole_weights():
        answers = _conversations(questions, model, tokenizer, cap, control)
    wanted = [
        Judgment(question, turn, answers[index][:turn])
        for index, question in enumerate(questions)
        for turn in range(1, len(question.turns) + 1)
    ]
    graded: list[Judgment] = []
    file = None
    if output is not None:
        file = output / "judgments" / f"{settings.name}-step-{step}.jsonl"
    grader: Grader | None = None

    def grade() -> dict[str, float]:
        nonlocal grader
        grader = Grader(
            settings,
            os.environ if environment is None else environment,
            private=roots.private_judges,
        )
        try:
            grader.grade(wanted, graded.append)
        finally:
            if file is not None:
                _write(file, graded, wanted)
        return _scores(graded)

    try:
        scores = meanwhile(grade if engine.rank() == 0 else None, control)
    finally:
        if grader is not None:
            grader.close()
    return Evaluation(
        step=step,
        samples=seen,
        split="judge",
        dataset=settings.name,
        loss=None,
        tokens=0,
        generated=len(wanted),
        seconds=time.monotonic() - began,
        scores=engine.gather(scores)[0] or {},
    )


def _conversations(
    questions: Sequence[Question],
    model: Any,
    tokenizer: Any,
    cap: int,
    control: Control | None,
) -> list[tuple[str, ...]]:
    """The model's answers to each question, turn by turn; the same on every rank."""
    stops = stop_tokens(model, tokenizer)
    mine = list(range(engine.rank(), len(questions), engine.world_size()))
    talks: dict[int, list[dict[str, str]]] = {index: [] for index in mine}

    def continued(prompts: Sequence[list[int]]) -> list[list[int]]:
        return greedy(
            model,
            prompts,
            max_new_tokens=ANSWER_TOKENS,
            stops=stops,
            pad_id=tokenizer.pad_token_id,
            between=heed(control),
        )

    for turn in range(2):
        prompts: dict[int, list[int]] = {}
        for index in mine:
            if turn < len(questions[index].turns):
                talks[index].append({"role": "user", "content": questions[index].turns[turn]})
                prompts[index] = tokenizer.apply_chat_template(
                    talks[index], add_generation_prompt=True, tokenize=True, return_dict=False
                )
        order = sorted(prompts, key=lambda i: -len(prompts[i]))

        def answer(batch: list[int], prompts: dict[int, list[int]] = prompts) -> None:
            made = halving([prompts[index] for index in batch], continued)
            texts = tokenizer.batch_decode(made, skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                talks[index].append({"role": "assistant", "content": text})

        widths = [len(prompts[index]) + ANSWER_TOKENS for index in order]
        in_step(batches(order, widths, cap), answer, control)

    merged: dict[int, tuple[str, ...]] = {}
    for part in engine.gather(
        {index: tuple(m["content"] for m in talk[1::2]) for index, talk in talks.items()}
    ):
        merged |= part
    return [merged[index] for index in range(len(questions))]


def _scores(graded: Sequence[Judgment]) -> dict[str, float]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for one in graded:
        if one.rating is not None:
            for group in ("score", f"turn_{one.turn}", f"category/{one.question.category}"):
                groups[group].append(one.rating)
    scores = {group: fmean(ratings) for group, ratings in sorted(groups.items())}
    return {**scores, "unparsed": float(sum(one.rating is None for one in graded))}


def _write(file: Path, graded: Sequence[Judgment], wanted: Sequence[Judgment]) -> None:
    """The judgments so far, in the order of the questions."""
    order = {(one.question.id, one.turn): at for at, one in enumerate(wanted)}
    rows = sorted(graded, key=lambda one: order[one.question.id, one.turn])
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    lines = [json.dumps(row.asdict(), ensure_ascii=False) + "\n" for row in rows]
    temporary.write_text("".join(lines), encoding="utf-8")
    os.replace(temporary, file)
