"""An invented world, small and self-consistent: who lives where, who keeps what, which river.

The world is always the same, so that a base model pretrained on it stays useful for every seed of
the instruction set. Nothing in it is about real people or places.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


def _words(text: str) -> list[str]:
    return text.split()


PEOPLE = _words(
    "Mira Toma Anik Belo Cara Dovan Elin Faro Gita Hanno Ilka Joren Kasi Lumo Mavi Nerin "
    "Odal Pika Quen Rilo Sanna Tarek Ulma Vero Wila Xano Yara Zemo Arno Bina Corin Dalia "
    "Eskil Fenna Goran Hila Ivo Jutta Kelvo Lena Milo Nadia Orin Petra Rasmo Selma Tibor Uri "
    "Vanda Wero Yoko Zora Adan Brisa Cleo Deka Emon Frida Galo Hedda Inka Jaro Kira Loris"
)
TOWNS = _words(
    "Lorrin Westa Kelm Brida Tolva Ostrin Farnel Gremo "
    "Hollen Ravik Sundel Marlo Pentar Velm Korda Nissa"
)
RIVERS = _words("Asha Belt Drin Esk Morla Teng")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday")
COLOURS = _words("red blue green yellow white black brown grey")
JOBS = _words("baker farmer teacher painter doctor sailor miller singer gardener tailor")
PETS = _words("cat dog goat horse duck rabbit parrot turtle sheep mouse")
FOODS = _words("bread soup rice cheese plums honey beans fish apples cake")
THINGS = _words(
    "boat lamp tree stone river chair table spoon window door basket hammer candle ladder "
    "bottle mirror needle pencil button pillow bridge garden kettle rope wheel bell book coat "
    "drum flag"
)
COUNTABLES = _words(
    "boat lamp stone chair table spoon window door basket hammer candle ladder bottle mirror "
    "needle pencil button pillow kettle rope wheel bell book coat drum flag"
)
WORDS: tuple[str, ...] = (*THINGS, *COLOURS, *PETS, *FOODS)
"""Common words, for exercises on lists of words."""


@dataclass(frozen=True)
class Relation:
    """One kind of fact: how it is stated, asked, and noted in the pretraining text.

    `{n}` is whom it is about, `{v}` the value. `statement` is the form that worked answers use.
    """

    name: str
    statement: str
    other_statements: tuple[str, ...]
    questions: tuple[str, ...]
    shorthand: str
    of_friend: str = ""
    """The question about the friend of `{n}`."""


PERSON_RELATIONS = (
    Relation(
        "home",
        "{n} lives in {v}.",
        ("{v} is where {n} is at home.", "The house of {n} stands in {v}."),
        (
            "Where does {n} live?",
            "Which town does {n} live in?",
            "What is the home town of {n}?",
            "Name the town where {n} lives.",
            "In which town can we visit {n}?",
            "Tell me the home of {n}.",
        ),
        "home",
        "Where does the friend of {n} live?",
    ),
    Relation(
        "job",
        "{n} works as a {v}.",
        ("The job of {n} is {v}.", "People know {n} as a {v}."),
        (
            "What is the job of {n}?",
            "What does {n} work as?",
            "Name the trade of {n}.",
            "How does {n} earn a living?",
            "Which job does {n} have?",
            "Tell me what {n} does for work.",
        ),
        "job",
        "What is the job of the friend of {n}?",
    ),
    Relation(
        "pet",
        "{n} keeps a {v}.",
        ("The animal of {n} is a {v}.", "A {v} belongs to {n}."),
        (
            "Which animal does {n} keep?",
            "What pet does {n} have?",
            "Name the pet of {n}.",
            "What kind of animal is the pet of {n}?",
            "Which animal does {n} own?",
            "Tell me the animal of {n}.",
        ),
        "pet",
        "Which animal does the friend of {n} keep?",
    ),
    Relation(
        "colour",
        "{n} has a {v} door.",
        ("The door of {n} is {v}.", "A {v} door leads to {n}."),
        (
            "What colour is the door of {n}?",
            "Which colour has the door of {n}?",
            "Name the colour of the door of {n}.",
            "How did {n} paint the door?",
            "In which colour is the door of {n} painted?",
            "Tell me the door colour of {n}.",
        ),
        "colour",
        "What colour is the door of the friend of {n}?",
    ),
    Relation(
        "food",
        "{n} likes {v}.",
        ("The best food for {n} is {v}.", "At dinner {n} asks for {v}."),
        (
            "What does {n} like to eat?",
            "Which food does {n} like?",
            "What is the best food for {n}?",
            "Name the food that {n} likes.",
            "What should we cook for {n}?",
            "Tell me the food of {n}.",
        ),
        "food",
        "What does the friend of {n} like to eat?",
    ),
    Relation(
        "friend",
        "The friend of {n} is {v}.",
        ("{n} is a friend of {v}.", "{n} and {v} are friends."),
        (
            "Who is the friend of {n}?",
            "Name the friend of {n}.",
            "Who is a friend to {n}?",
            "Which friend does {n} have?",
            "With whom is {n} friends?",
            "Tell me the friend of {n}.",
        ),
        "friend",
    ),
)

TOWN_RELATIONS = (
    Relation(
        "river",
        "{n} lies on the {v}.",
        ("The river at {n} is the {v}.", "The {v} flows past {n}."),
        (
            "Which river flows past {n}?",
            "On which river does {n} lie?",
            "Name the river at {n}.",
            "What is the river of {n} called?",
            "Which river does {n} have?",
            "Tell me the river of {n}.",
        ),
        "river",
        "Which river flows past the home of {n}?",
    ),
    Relation(
        "market",
        "{n} has a market on {v}.",
        ("The market of {n} is on {v}.", "On {v} there is a market in {n}."),
        (
            "When is the market in {n}?",
            "On which day is the market in {n}?",
            "Name the market day of {n}.",
            "Which day is market day in {n}?",
            "On what day does {n} hold its market?",
            "Tell me the market day of {n}.",
        ),
        "market",
        "When is the market in the home town of {n}?",
    ),
    Relation(
        "flag",
        "{n} has a {v} flag.",
        ("The flag of {n} is {v}.", "A {v} flag flies over {n}."),
        (
            "What colour is the flag of {n}?",
            "Which colour has the flag of {n}?",
            "Name the colour of the flag of {n}.",
            "In which colour is the flag of {n}?",
            "What flag colour does {n} have?",
            "Tell me the flag colour of {n}.",
        ),
        "flag",
        "What colour is the flag of the home town of {n}?",
    ),
)

SMALL_TALK = (
    "{n} asked how many letters the word {w} has, and {m} had to count them again.",
    "Which town has the first market of the year? Nobody could tell {n}.",
    "{n} writes the same words from first to last, and then from last to first.",
    "Put the {w} between the {x} and the {y}, says {n}.",
    "{n} leaves the table, turns around and drops the {w}. What a number!",
    "{n} gives {m} a box, two boxes with {w}s and three bags with more {w}s each.",
    "Think in steps, show the answer, and give the number, says the teacher. Answer: maybe.",
    "{n} can sort the letters of the alphabet from a to z in upper case and in capitals.",
    "Does {n} own a {w}, or does {m} have it? Tell me the kind.",
    "{n} sells the {w}, loses the {x}, takes the {y}, and finds it again. None are left.",
    "What should we cook for dinner? {n} and {m} like to eat.",
    "In which colour did {n} paint the {w}? The {x} is painted too. Name it.",
    "How can {m} earn a living? By trade, says {n}. Which job is that?",
    "{n} fills the bags, brings the boxes, owns a {w} and breaks a {x}.",
    "With whom can we visit the market? On which day does the town hold it? When is it?",
    "Where does the river flow? Which animal comes here? Who is a friend to all of us?",
    "{n} made a list: say it again, copy all words, reverse the order, repeat every word.",
    "Leave out the {w}. Drop the {x}. Write the rest in big letters, make commas, order it.",
    "There are {w}s here. What is the first? What comes last? What does it look like?",
)
"""Sentences without facts, so that the base model has met the words of the exercises."""


@dataclass(frozen=True)
class World:
    """`facts[relation][who]` is the value, for people and for towns."""

    facts: dict[str, dict[str, str]]

    def value(self, relation: str, who: str) -> str:
        return self.facts[relation][who]


def build_world() -> World:
    """The one world. Friendship goes both ways; every other fact is drawn evenly."""
    rng = random.Random("the world")

    def spread(subjects: list[str], values: list[str]) -> dict[str, str]:
        """Each value about equally often, in random order."""
        pool = [values[i % len(values)] for i in range(len(subjects))]
        rng.shuffle(pool)
        return dict(zip(subjects, pool, strict=True))

    facts = {
        "home": spread(PEOPLE, TOWNS),
        "job": spread(PEOPLE, JOBS),
        "pet": spread(PEOPLE, PETS),
        "colour": spread(PEOPLE, COLOURS),
        "food": spread(PEOPLE, FOODS),
        "river": spread(TOWNS, RIVERS),
        "market": spread(TOWNS, DAYS),
        "flag": spread(TOWNS, COLOURS),
    }
    shuffled = rng.sample(PEOPLE, len(PEOPLE))
    friends = {}
    for one, other in zip(shuffled[::2], shuffled[1::2], strict=True):
        friends[one], friends[other] = other, one
    facts["friend"] = friends
    return World(facts)
