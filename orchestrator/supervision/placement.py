"""What fits on a cluster's nodes. Pure.

A trial is a number of equal ranks. A rank is never split over nodes. A trial that would fit on one
empty node is planned for one node, because gradients travel faster inside it; a larger one is
planned over several. Ray places by the same preference (PACK), but may spread a trial where this
plan would have it wait: the plan is the stricter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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

    @property
    def cpus(self) -> float:
        """Free CPUs, over all nodes."""
        return sum(node.cpus for node in self._free)

    @property
    def gpus(self) -> float:
        """Free GPUs, over all nodes."""
        return sum(node.gpus for node in self._free)

    def take(self, needs: Needs) -> bool:
        """Place one more trial. False if there is no room for it, whatever is moved."""
        if not self.has(needs):
            return False
        if _place(self._free, needs, self._nodes):
            self._taken.append(needs)
            return True
        return self._repack([*self._taken, needs])

    def has(self, needs: Needs) -> bool:
        """Whether there is enough in all, though maybe in pieces."""
        return needs.all_cpus <= self.cpus + _SLACK and needs.all_gpus <= self.gpus + _SLACK

    def _repack(self, trials: Sequence[Needs]) -> bool:
        """Place all of them anew, the largest first; as it was if that fails."""
        free = list(self._nodes)
        for needs in sorted(trials, key=lambda n: (-n.all_gpus, -n.all_cpus, n.ranks)):
            if not _place(free, needs, self._nodes):
                return False
        self._free, self._taken = free, list(trials)
        return True


def most_that_fit(nodes: Sequence[Node], needs: Needs, limit: int) -> int:
    """How many trials with these needs an empty cluster holds, `limit` at most."""
    ranks = [_ranks(node, needs, limit * needs.ranks) for node in nodes]
    whole = sum(here // needs.ranks for here in ranks)
    return min(limit, whole or sum(ranks) // needs.ranks)


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
