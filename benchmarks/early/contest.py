"""Who takes part, in which settings, and how the replays are spread over processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.early.evaluation import Contender, PriorFor, Row, evaluate
from benchmarks.early.sweeps import Sweep
from orchestrator.schedulers.simulate import Recorded
from winnow.spec import SCHEDULER_FIELDS

RULES = tuple(SCHEDULER_FIELDS)
READS_EARLY = ("dynamics", "paper-sign")
"""Rules that go by norm and loss, so that the control with exchanged records means something."""
RUNGS: tuple[tuple[float, ...], ...] = (
    (0.125, 0.25, 0.5),
    (0.0625, 0.125, 0.25, 0.5),
    (0.0625, 0.25),
)
SHARES = (0.5, 0.25)
"""Of the trials started, for the cheap end of the frontier: any rule can have fewer of them."""
MANY_RUNGS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75)


def defaults(prior_for: PriorFor | None, only: Sequence[str] = ()) -> list[Contender]:
    """Every rule that is there, as a user gets it who sets nothing but its name.

    `none`, `one-epoch` and `paper-sign` are spared evaluations that they don't use.
    """
    found = [
        Contender.of(name, prior_for=prior_for if name == "dynamics" else None, **_spared(name))
        for name in RULES
    ]
    asha = Contender.of("asha")
    found.append(replace(asha, label="asha on training loss", show="training-loss"))
    found = [replace(c, label=c.name) if c.show == "records" else c for c in found]
    return [c for c in found if not only or c.name in only]


def controls(contenders: Sequence[Contender]) -> list[Contender]:
    """Those that go by norm and loss, once more with these exchanged between trials."""
    return [
        replace(c, label=f"{c.label} · exchanged", show="exchanged")
        for c in contenders
        if c.name in READS_EARLY and c.show == "records"
    ]


def grid(
    prior_for: PriorFor | None, *, quick: bool = False, only: Sequence[str] = ()
) -> list[Contender]:
    """The settings of the frontier: every rule from cautious to aggressive."""
    settings: list[tuple[str, dict[str, Any]]] = []
    etas, rungs = ((2, 4), RUNGS[:1]) if quick else ((2, 3, 4), RUNGS)
    for name in ("asha", "random", "hyperband", "pareto", "rate-batch-curve"):
        settings += [(name, {"eta": eta, "rungs": r}) for eta in etas for r in rungs]
    settings += [("median", {"rungs": r}) for r in (*rungs, MANY_RUNGS)]
    settings += [
        ("wilcoxon", {"p_value": p, "rungs": r})
        for p in ((0.05, 0.3) if quick else (0.02, 0.05, 0.1, 0.2, 0.4))
        for r in (RUNGS[0], MANY_RUNGS)
    ]
    for name, firsts, keeps in (
        ("one-epoch", (0.05, 0.1, 0.2, 0.35), (0.1, 0.2, 0.35, 0.5)),
        ("paper-sign", (0.05, 0.1, 0.2), (0.1, 0.3, 0.5)),
    ):
        settings += [
            (name, {"first_rung": first, "keep": keep, "rungs": ()})
            for first in (firsts[1:2] if quick else firsts)
            for keep in (keeps[::2] if quick else keeps)
        ]
    risks = (0.05, 0.3) if quick else (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
    settings += [("dynamics", {"risk": risk}) for risk in risks]
    if not quick:
        settings += [
            ("dynamics", {"risk": risk, "eta": eta, "rungs": rungs})
            for risk in (0.05, 0.8)
            for eta in etas
            for rungs in RUNGS
        ]
    wanted = [
        Contender.of(name, prior_for=prior_for if name == "dynamics" else None, **fields)
        for name, fields in settings
        if not only or name in only
    ]
    fewer = [
        replace(c, label=f"{c.label} on {share:.0%} of the trials", share=share)
        for c in defaults(prior_for, only)
        if c.show == "records" and c.name != "none"
        for share in (SHARES[:1] if quick else SHARES)
    ]
    return wanted + fewer


def _spared(name: str) -> dict[str, Any]:
    return {"rungs": ()} if name in ("none", "one-epoch", "paper-sign") else {}


# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    """What is to be replayed. `sweep_of` makes the sweep of an index, in whichever process."""

    sweep_of: Callable[[int], Sweep]
    sweeps: int
    contenders: Sequence[tuple[Contender, int]]
    """Each with the number of its draws of a sweep."""
    workers: int

    @property
    def replays(self) -> int:
        return self.sweeps * sum(draws for _, draws in self.contenders)

    def tasks(self, batch: int) -> list[tuple[int, int, int]]:
        """(sweep, first contender, one past the last) for each piece of work."""
        n = len(self.contenders)
        return [
            (s, at, min(at + batch, n)) for s in range(self.sweeps) for at in range(0, n, batch)
        ]


_contest: Contest | None = None


def run(contest: Contest, jobs: int, batch: int = 4) -> Iterator[tuple[int, list[Row]]]:
    """Replay everything in `jobs` processes. Yields (replays done, their rows) as they come in.

    The rows come in any order; each is the same whatever the number of processes.
    """
    global _contest
    _contest = contest
    tasks = contest.tasks(batch)
    if jobs == 1:
        for rows in map(_work, tasks):
            yield len(rows), rows
        return
    # Forked, so that the sweeps are there without being copied.
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for rows in pool.imap_unordered(_work, tasks):
            yield len(rows), rows


def _work(task: tuple[int, int, int]) -> list[Row]:
    assert _contest is not None
    index, start, stop = task
    sweep = _contest.sweep_of(index)
    return [
        row
        for contender, draws in _contest.contenders[start:stop]
        for row in evaluate(contender, [sweep], draws, _contest.workers)
    ]


# --- what is known before a sweep ---------------------------------------------------------------


Learner = Callable[[list[list[Recorded]]], Any]


def leave_out(
    sweeps: Sequence[Sweep], by: str, draws: int = 1, learner: Learner | None = None
) -> PriorFor | None:
    """For each sweep, what all others teach: all but it (`by` "sweep") or but its whole family
    ("family"). With "nothing" None: the rules start from what they come with.

    `learner` makes a prior from recorded sweeps; the default is the one that made winnow's own,
    from nothing but the sweeps it is given.
    """
    if by == "nothing":
        return None
    if learner is None:
        from benchmarks.prior import learn_all  # It uses this package, too.

        learner = learn_all

    def group(sweep: Sweep) -> str:
        return sweep.family if by == "family" else sweep.name

    priors: Mapping[str, Any] = {
        held_out: learner(
            [s.draw(seed) for s in sweeps if group(s) != held_out for seed in range(draws)]
        )
        for held_out in sorted({group(s) for s in sweeps})
    }
    return lambda sweep: priors.get(group(sweep))
