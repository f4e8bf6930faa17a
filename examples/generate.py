"""Write the demo's instruction set: three phases, three splits, every answer exact and short.

    python examples/generate.py --out DIR [--seed 0]
    python examples/generate.py --pretraining FILE [--seed 0] [--lines 60000]

The first form writes nine messages JSONL files, `phase00_instructions`, `phase05_knowledge` and
`phase10_skills`, each as `.train`, `.eval` and `.test`. An exercise (an operation with its words,
a fact, a chain, a word problem with its numbers) is in one split only, however it is worded.

The second form writes plain text, a document a line, for a base model: the same words, facts and
sums in statements and in a terse notation, none of the exercises. Equal seeds give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from world import (
    COUNTABLES,
    PEOPLE,
    PERSON_RELATIONS,
    SMALL_TALK,
    TOWN_RELATIONS,
    TOWNS,
    WORDS,
    Relation,
    World,
    build_world,
)

TRAIN, EVAL, TEST = 1280, 80, 100
"""Samples in each phase's train, eval and test file."""


@dataclass(frozen=True)
class Exercise:
    """One problem with its wordings. `prompts` all ask the same, so all have the one `answer`."""

    task: str
    prompts: tuple[str, ...]
    answer: str


def instruction_set(seed: int) -> dict[str, list[dict[str, object]]]:
    """All samples by file stem, e.g. `phase00_instructions.train`."""
    world = build_world()
    phases: tuple[tuple[int, str, Callable[[World, random.Random], list[Exercise]]], ...] = (
        (0, "phase00_instructions", _instructions),
        (5, "phase05_knowledge", _knowledge),
        (10, "phase10_skills", _skills),
    )
    files: dict[str, list[dict[str, object]]] = {}
    for phase, stem, make in phases:
        rng = random.Random(f"{stem} {seed}")
        for split, samples in _split(make(world, rng), rng).items():
            files[f"{stem}.{split}"] = [
                {
                    "messages": [
                        {"role": "user", "content": prompt},
                        {"role": "assistant", "content": exercise.answer},
                    ],
                    "phase": phase,
                    "task": exercise.task,
                }
                for prompt, exercise in samples
            ]
    return files


def write_instruction_set(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, samples in instruction_set(seed).items():
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / f"{stem}.jsonl").write_text(lines, encoding="utf-8")


def pretraining_lines(seed: int, count: int) -> Iterator[str]:
    """`count` documents of one line each: facts, descriptions, sums, and operations on words."""
    world, rng = build_world(), random.Random(f"pretraining {seed}")
    kinds = (
        (_state_facts, 2),
        (_describe_person, 3),
        (_shorthand_facts, 2),
        (_sums, 5),
        (_word_operations, 10),
        (_spellings, 2),
        (_small_talk, 2),
    )
    makers, weights = [k for k, _ in kinds], [w for _, w in kinds]
    for maker in rng.choices(makers, weights, k=count):
        yield maker(world, rng)


# --- splits -----------------------------------------------------------------------------------


def _split(exercises: list[Exercise], rng: random.Random) -> dict[str, list[tuple[str, Exercise]]]:
    """Deal every task's exercises to the splits; eval and test word each exercise once.

    Train words an exercise in several ways where there are not enough exercises to fill it.
    """
    by_task: dict[str, list[Exercise]] = {}
    for exercise in exercises:
        by_task.setdefault(exercise.task, []).append(exercise)
    sizes = {task: len(found) for task, found in by_task.items()}
    quotas = {n: _apportion(sizes, n) for n in (TRAIN, EVAL, TEST)}
    splits: dict[str, list[tuple[str, Exercise]]] = {"train": [], "eval": [], "test": []}
    for task, found in by_task.items():
        rng.shuffle(found)
        n_eval, n_test = quotas[EVAL][task], quotas[TEST][task]
        for split, part in (("eval", found[:n_eval]), ("test", found[n_eval:][:n_test])):
            splits[split] += [(rng.choice(e.prompts), e) for e in part]
        worded = [(prompt, e) for e in found[n_eval + n_test :] for prompt in e.prompts]
        if len(worded) < quotas[TRAIN][task]:
            raise ValueError(f"{task}: {len(worded)} wordings for {quotas[TRAIN][task]} samples")
        splits["train"] += rng.sample(worded, quotas[TRAIN][task])
    for samples in splits.values():
        rng.shuffle(samples)
    return splits


def _apportion(sizes: dict[str, int], total: int) -> dict[str, int]:
    """`total` shared out in proportion to `sizes`, by largest remainder."""
    whole = sum(sizes.values())
    shares = {task: size * total // whole for task, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda task: (-(sizes[task] * total % whole), task))
    for task in by_remainder[: total - sum(shares.values())]:
        shares[task] += 1
    return shares


# --- phase 00: following instructions ---------------------------------------------------------


def _without(words: list[str], n: int) -> str:
    return " ".join(w for i, w in enumerate(words) if i != n)


ON_LISTS: dict[str, tuple[tuple[str, ...], Callable[[list[str]], str]]] = {
    "repeat": (
        ("Repeat these words: {w}", "Say the same words again: {w}", "Copy the words: {w}"),
        " ".join,
    ),
    "reverse": (
        (
            "Reverse these words: {w}",
            "Write the words from last to first: {w}",
            "Turn the order of the words around: {w}",
        ),
        lambda words: " ".join(reversed(words)),
    ),
    "first": (
        (
            "Give the first word of: {w}",
            "What is the first word here? {w}",
            "Which word comes first in: {w}",
        ),
        lambda words: words[0],
    ),
    "last": (
        (
            "Give the last word of: {w}",
            "What is the last word here? {w}",
            "Which word comes last in: {w}",
        ),
        lambda words: words[-1],
    ),
    "count": (
        (
            "How many words are here? {w}",
            "Count the words: {w}",
            "Give the number of words in: {w}",
        ),
        lambda words: str(len(words)),
    ),
    "sort": (
        (
            "Sort these words from a to z: {w}",
            "Put the words in order of the alphabet: {w}",
            "Order the words by the alphabet: {w}",
        ),
        lambda words: " ".join(sorted(words)),
    ),
    "drop-first": (
        (
            "Leave out the first word: {w}",
            "Write all words but the first: {w}",
            "Drop the first word of: {w}",
        ),
        lambda words: _without(words, 0),
    ),
    "commas": (
        (
            "Put commas between these words: {w}",
            "Write the words with commas: {w}",
            "Make a list with commas of: {w}",
        ),
        ", ".join,
    ),
}
ON_PAIRS: dict[str, tuple[tuple[str, ...], Callable[[list[str]], str]]] = {
    "upper": (
        (
            "Write in capitals: {w}",
            "Make these words upper case: {w}",
            "Write these words in big letters: {w}",
        ),
        lambda words: " ".join(words).upper(),
    ),
    "letters": (
        (
            "How many letters does each word have? {w}",
            "Count the letters of each word: {w}",
            "Give the number of letters of each word: {w}",
        ),
        lambda words: " ".join(str(len(w)) for w in words),
    ),
}


def _instructions(world: World, rng: random.Random) -> list[Exercise]:
    del world  # these need no facts
    exercises = []
    for operations, sizes in ((ON_LISTS, (3, 4, 5)), (ON_PAIRS, (2,))):
        for task, (prompts, answer) in operations.items():
            seen: set[tuple[str, ...]] = set()
            while len(seen) < 150:
                size = 3 if task == "sort" else rng.choice(sizes)
                seen.add(tuple(rng.sample(WORDS, size)))
            exercises += [
                Exercise(task, _word(prompts, w=" ".join(words)), answer(list(words)))
                for words in sorted(seen)
            ]
    return exercises


# --- phase 05: knowledge ----------------------------------------------------------------------


def _knowledge(world: World, rng: random.Random) -> list[Exercise]:
    del rng  # every fact is asked for
    return [
        Exercise(relation.name, _word(relation.questions, n=who), world.value(relation.name, who))
        for relation, subjects in _relations()
        for who in subjects
    ]


def _relations() -> list[tuple[Relation, list[str]]]:
    return [(r, PEOPLE) for r in PERSON_RELATIONS] + [(r, TOWNS) for r in TOWN_RELATIONS]


# --- phase 10: skills of several steps --------------------------------------------------------

STEPS_NOTE = ("{q}", "{q} Show the steps.", "{q} Think in steps.")

SUMS: dict[str, tuple[str, ...]] = {
    "add-subtract": (
        "{n} has {a} {things}. {m} gives {n} {b} more. {n} loses {c}. How many are left?",
        "{n} finds {a} {things}, then {b} more, and sells {c} to {m}. How many are left?",
    ),
    "subtract-subtract": (
        "There are {a} {things}. {n} takes {b} and {m} takes {c}. How many are left?",
        "{n} owns {a} {things}, breaks {b} and gives {c} to {m}. How many are left?",
    ),
    "times-add": (
        "{n} has {a} boxes with {b} {things} each, and {c} more from {m}. How many in all?",
        "{n} fills {a} bags with {b} {things} each. {m} brings {c} more. How many in all?",
    ),
}


def _skills(world: World, rng: random.Random) -> list[Exercise]:
    exercises = []
    for task, stories in SUMS.items():
        seen: dict[str, Exercise] = {}
        while len(seen) < 300:
            a, b, c, answer = _two_step_sum(task, rng)
            n, m = rng.sample(PEOPLE, 2)
            words = {"n": n, "m": m, "things": rng.choice(COUNTABLES) + "s", "a": a, "b": b, "c": c}
            exercise = Exercise(task, _word(stories, **words), answer)
            seen[str(words)] = exercise
        exercises += [seen[key] for key in sorted(seen)]
    friend = world.facts["friend"]
    for relation in PERSON_RELATIONS:
        if relation.of_friend:
            exercises += [
                _chain(world, "friend", "The friend of {n} is {v}.", relation, n) for n in friend
            ]
    for relation in TOWN_RELATIONS:
        exercises += [_chain(world, "home", "{n} lives in {v}.", relation, n) for n in PEOPLE]
    return exercises


def _two_step_sum(task: str, rng: random.Random) -> tuple[int, int, int, str]:
    """Three numbers and the worked answer; no step goes below 0 or above 45."""
    if task == "add-subtract":
        a, b, c = rng.randint(5, 20), rng.randint(2, 9), rng.randint(2, 6)
        return a, b, c, _worked(f"{a} + {b}", a + b, "-", c, a + b - c)
    if task == "subtract-subtract":
        a, b, c = rng.randint(14, 40), rng.randint(2, 7), rng.randint(2, 6)
        return a, b, c, _worked(f"{a} - {b}", a - b, "-", c, a - b - c)
    a, b, c = rng.randint(2, 6), rng.randint(2, 6), rng.randint(2, 9)
    return a, b, c, _worked(f"{a} * {b}", a * b, "+", c, a * b + c)


def _worked(first: str, middle: int, sign: str, c: int, result: int) -> str:
    return f"{first} = {middle}. {middle} {sign} {c} = {result}. Answer: {result}"


def _chain(world: World, link: str, link_form: str, relation: Relation, who: str) -> Exercise:
    """A lookup through another: the friend's pet, the home town's river."""
    middle = world.value(link, who)
    value = world.value(relation.name, middle)
    steps = (link_form.format(n=who, v=middle), relation.statement.format(n=middle, v=value))
    question = relation.of_friend.format(n=who)
    return Exercise(
        f"{link}-{relation.name}",
        _word(STEPS_NOTE, q=question),
        f"{' '.join(steps)} Answer: {value}",
    )


def _word(wordings: tuple[str, ...], **values: object) -> tuple[str, ...]:
    return tuple(wording.format(**values) for wording in wordings)


# --- the text for a base model ----------------------------------------------------------------


def _state_facts(world: World, rng: random.Random) -> str:
    """Four facts about anybody."""
    relations = rng.choices(_relations(), [len(subjects) for _, subjects in _relations()], k=4)
    return " ".join(_state(world, rng, r, rng.choice(subjects)) for r, subjects in relations)


def _describe_person(world: World, rng: random.Random) -> str:
    """All about one person, and something about the town or the friend."""
    who = rng.choice(PEOPLE)
    sentences = [_state(world, rng, r, who) for r in rng.sample(PERSON_RELATIONS, 5)]
    home, friend = world.value("home", who), world.value("friend", who)
    sentences.append(_state(world, rng, rng.choice(TOWN_RELATIONS), home))
    sentences.append(_state(world, rng, rng.choice(PERSON_RELATIONS), friend))
    return " ".join(sentences)


def _state(world: World, rng: random.Random, relation: Relation, who: str) -> str:
    form = rng.choice((relation.statement, relation.statement, *relation.other_statements))
    return form.format(n=who, v=world.value(relation.name, who))


def _shorthand_facts(world: World, rng: random.Random) -> str:
    """Questions in a notation that the instruction set never uses: `home ? Mira : Kelm ;`"""
    entries = []
    for _ in range(5):
        relation, subjects = rng.choice(_relations())
        who = rng.choice(subjects)
        entries.append(f"{relation.shorthand} ? {who} : {world.value(relation.name, who)} ;")
    return " ".join(entries)


def _sums(world: World, rng: random.Random) -> str:
    """Sums as the worked answers write them, or counting up."""
    del world
    if rng.random() < 0.1:
        start, step = rng.randint(0, 20), rng.choice((1, 1, 2, 3))
        return "Counting: " + " ".join(str(start + step * i) for i in range(10))
    equations = []
    for _ in range(5):
        kind, b = rng.randrange(5), rng.randint(2, 9)
        if kind < 2:
            a = rng.randint(2, 36)
            equations.append(f"{a} + {b} = {a + b}.")
        elif kind < 4:
            a = rng.randint(b, 45)
            equations.append(f"{a} - {b} = {a - b}.")
        else:
            a, b = rng.randint(2, 6), rng.randint(2, 6)
            equations.append(f"{a} * {b} = {a * b}.")
    return " ".join(equations)


def _word_operations(world: World, rng: random.Random) -> str:
    """`[boat lamp tree] backwards [tree lamp boat] begin [boat] …`"""
    del world
    words = rng.sample(WORDS, rng.choice((2, 3, 3, 4, 5)))
    operations = {
        "same": " ".join(words),
        "backwards": " ".join(reversed(words)),
        "begin": words[0],
        "end": words[-1],
        "size": str(len(words)),
        "rest": " ".join(words[1:]),
        "commas": ", ".join(words),
    }
    if len(words) <= 3:
        operations["ordered"] = " ".join(sorted(words))
    shown = [f"{name} [ {operations[name]} ]" for name in rng.sample(sorted(operations), 4)]
    return f"[ {' '.join(words)} ] {' '.join(shown)}"


def _spellings(world: World, rng: random.Random) -> str:
    """How words look: `boat has 4 letters. boat, loud: BOAT.`"""
    del world
    sentences = []
    for word in rng.sample(WORDS, 3):
        sentences += [f"{word} has {len(word)} letters.", f"{word}, loud: {word.upper()}."]
    return " ".join(rng.sample(sentences, 4))


def _small_talk(world: World, rng: random.Random) -> str:
    """Three sentences without facts."""
    del world
    n, m = rng.sample(PEOPLE, 2)
    w, x, y = rng.sample(COUNTABLES, 3)
    return " ".join(s.format(n=n, m=m, w=w, x=x, y=y) for s in rng.sample(SMALL_TALK, 3))


# --- command line -----------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the nine JSONL files")
    parser.add_argument("--pretraining", type=Path, help="file for the base model's plain text")
    parser.add_argument("--lines", type=int, default=60_000, help="documents in that file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.out is None and args.pretraining is None:
        parser.error("say what to write: --out DIR, --pretraining FILE, or both")
    if args.out is not None:
        write_instruction_set(args.out, args.seed)
    if args.pretraining is not None:
        args.pretraining.parent.mkdir(parents=True, exist_ok=True)
        with args.pretraining.open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in pretraining_lines(args.seed, args.lines))


if __name__ == "__main__":
    main()
