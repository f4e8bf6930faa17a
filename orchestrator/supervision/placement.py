"""What fits on a cluster's nodes. Pure.

A trial is a number of equal ranks. A rank is never split over nodes. A trial that would fit on one
empty node is planned for one node, because gradients travel faster inside it; a larger one is
planned over several. Ray places by the same preference (PACK), but may spread a trial where this
plan would have it wait: the plan is the stricter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SEARCHED = 2000
"""Placements that are tried for one trial at most, a few milliseconds."""
_SLACK = 1e-9
"""Resources are floating-point numbers: 0.1 added ten times is still one CPU."""


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of the cluster has in all."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What one trial takes: `ranks` times `cpus` and `gpus`."""

    ranks: int
    cpus: float
    gpus: float = 0.0

    @property
    def all_cpus(self) -> float:
        return self.ranks * self.cpus

    @property
    def all_gpus(self) -> float:
        return self.ranks * self.gpus


class Room:
    """A cluster that is being filled with trials."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = tuple(nodes)
        self._free = list(self._nodes)
        self._taken: list[Needs] = []
        self._refused: set[Needs] = set()
        """What was found to have no room: it has none later either, as the room only fills."""

    @property
    def cpus(self) -> float:
        """Free CPUs, over all nodes."""
        return sum(node.cpus for node in self._free)

    @property
    def gpus(self) -> float:
        """Free GPUs, over all nodes."""
        return sum(node.gpus for node in self._free)

    def take(self, needs: Needs) -> bool:
        """Place one more trial. False if there is no room for it, whatever is moved.

        Whether there is room should depend on what is taken and not on the order in which it came,
        or a sweep would lose a slot to the next look at the same claims. So where neither the room
        as it is nor a fresh start with the largest first has place, all arrangements are tried, up
        to a limit that large clusters exceed.
        """
        if needs in self._refused or not self.has(needs):
            return False
        if _place(self._free, needs, self._nodes):
            self._taken.append(needs)
            return True
        trials = sorted([*self._taken, needs], key=lambda n: (-n.all_gpus, -n.all_cpus, n.ranks))
        found = _largest_first(trials, self._nodes) or _searched(trials, self._nodes)
        if found is None:
            self._refused.add(needs)
            return False
        self._free, self._taken = found, trials
        return True

    def has(self, needs: Needs) -> bool:
        """Whether there is enough in all, though maybe in pieces."""
        return needs.all_cpus <= self.cpus + _SLACK and needs.all_gpus <= self.gpus + _SLACK


def most_that_fit(nodes: Sequence[Node], needs: Needs, limit: int) -> int:
    """How many trials with these needs an empty cluster holds, `limit` at most."""
    ranks = [_ranks(node, needs, limit * needs.ranks) for node in nodes]
    whole = sum(here // needs.ranks for here in ranks)
    return min(limit, whole or sum(ranks) // needs.ranks)


def _largest_first(trials: Sequence[Needs], nodes: Sequence[Node]) -> list[Node] | None:
    """What is free with each placed in turn; None if one finds no place."""
    free = list(nodes)
    return free if all(_place(free, needs, nodes) for needs in trials) else None


def _searched(trials: Sequence[Needs], nodes: Sequence[Node]) -> list[Node] | None:
    """What is free when all are placed somehow; None if that can't be done, or isn't found within
    SEARCHED placements. Trials over several nodes get the pieces that the others leave."""
    small = [n for n in trials if any(_ranks(node, n) >= n.ranks for node in nodes)]
    large = [n for n in trials if not any(_ranks(node, n) >= n.ranks for node in nodes)]
    free = list(nodes)
    path: list[int] = []
    """The node of each that is placed."""
    untried = [_choices(free, small, path)]
    """Nodes for the next one, after each number of placed ones."""
    for _ in range(SEARCHED):
        if len(path) == len(small):
            rest = list(free)
            if all(_place(rest, needs, nodes) for needs in large):
                return rest
        if untried[-1]:
            node = untried[-1].pop()
            free[node] = _less(free[node], small[len(path)], small[len(path)].ranks)
            path.append(node)
            untried.append(_choices(free, small, path))
        elif path:
            untried.pop()
            node = path.pop()
            free[node] = _less(free[node], small[len(path)], -small[len(path)].ranks)
        else:
            return None
    return None


def _choices(free: Sequence[Node], trials: Sequence[Needs], path: Sequence[int]) -> list[int]:
    """Nodes for the next trial, the fullest last: of equal nodes one, and of equal trials the later
    on no earlier node."""
    if len(path) == len(trials):
        return []
    needs = trials[len(path)]
    first = path[-1] if path and trials[len(path) - 1] == needs else 0
    different: dict[Node, int] = {}
    for i in range(len(free) - 1, first - 1, -1):
        if _ranks(free[i], needs) >= needs.ranks:
            different[free[i]] = i
    return sorted(different.values(), key=lambda i: (free[i].gpus, free[i].cpus, i), reverse=True)


def _place(free: list[Node], needs: Needs, nodes: Sequence[Node]) -> bool:
    """Take a trial out of `free`; False, and nothing taken, if that can't be done."""
    if any(_ranks(node, needs) >= needs.ranks for node in nodes):
        fitting = [i for i, node in enumerate(free) if _ranks(node, needs) >= needs.ranks]
        if not fitting:
            return False
        # The fullest node that will do, and one without GPUs if none are needed.
        best = min(fitting, key=lambda i: (free[i].gpus, free[i].cpus, i))
        free[best] = _less(free[best], needs, needs.ranks)
        return True
    left = needs.ranks
    after = list(free)
    for i in sorted(range(len(free)), key=lambda i: (-_ranks(free[i], needs), i)):
        here = min(left, _ranks(free[i], needs))
        after[i] = _less(free[i], needs, here)
        left -= here
    if left:
        return False
    free[:] = after
    return True


def _ranks(node: Node, needs: Needs, limit: int | None = None) -> int:
    """How many of the ranks of a trial (or of `limit` ranks like them) a node holds."""
    limits = [needs.ranks if limit is None else limit]
    if needs.cpus:
        limits.append(int((node.cpus + _SLACK) // needs.cpus))
    if needs.gpus:
        limits.append(int((node.gpus + _SLACK) // needs.gpus))
    return min(limits)


def _less(node: Node, needs: Needs, ranks: int) -> Node:
    return Node(node.cpus - ranks * needs.cpus, node.gpus - ranks * needs.gpus)
