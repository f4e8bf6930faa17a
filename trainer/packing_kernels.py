"""The plan of one step: the loops of the batch planner, in the part of Python that numba compiles.

As they stand they run on lists, with nothing to load: a batch of 128 takes a fraction of a
millisecond. `compiled()` gives the same functions as machine code, for arrays of a whole epoch.
Both give the same plan. The building blocks, and the terms used here, are in `packing_bins.py`.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from trainer import packing_bins
from trainer.packing_bins import (
    ENDLESS,
    TOLERANCE,
    UNLIMITED,
    Floats,
    Integers,
    best_fit,
    by_bin,
    cheapest_cuts,
    copy,
    cut,
    cuts_at,
    floats,
    heaviest_first,
    integers,
    largest,
    level_for,
    longest_first,
    numbered,
    refine,
    spread_cuts,
)

WORTH = 0.01
"""Share of a step's time that is given for the fewest micro-batches, or for less padding."""


# --- the plan of one step ---------------------------------------------------------------------


def plan_free(
    sizes: Integers, costs: Floats, ranks: int, cap: int, rank: Integers, micro: Integers
) -> None:
    """Each rank as many micro-batches as it needs: balanced cost, then best fit decreasing.

    If that takes more micro-batches than lockstep would, another way is tried: as many as lockstep
    has, equally full, are given to ranks by cost, and then samples exchanged as far as they have
    room. Within a rank the dearest micro-batch comes first.
    """
    count = len(sizes)
    every = numbered(count)
    rooms = integers(ranks)
    for r in range(ranks):
        rooms[r] = UNLIMITED
    for i in range(count):
        rank[i] = -1
    longest_first(costs, sizes, ranks, UNLIMITED, ENDLESS, 0, rank)
    refine(costs, sizes, every, rooms, rank)
    bins = fill_ranks(sizes, costs, ranks, cap, rank, micro)
    fewest = ranks * fewest_steps(sizes, ranks, cap)
    if bins <= fewest:
        return
    where = integers(count)
    tokens = floats(count)
    for i in range(count):
        where[i] = -1
        tokens[i] = 1.0 * sizes[i]
    if not longest_first(tokens, sizes, fewest, cap, ENDLESS, 0, where):
        return
    load = floats(fewest)
    for i in range(count):
        load[where[i]] += costs[i]
    place = heaviest_first(load)
    falling = floats(fewest)
    for b in range(fewest):
        falling[place[b]] = load[b]
    nothing = integers(fewest)
    owner = integers(fewest)
    for b in range(fewest):
        owner[b] = -1
    longest_first(falling, nothing, ranks, UNLIMITED, ENDLESS, 0, owner)
    refine(falling, nothing, numbered(fewest), rooms, owner)
    for r in range(ranks):
        rooms[r] = 0
    for b in range(fewest):
        rooms[owner[b]] += cap
    other = integers(count)
    for i in range(count):
        other[i] = owner[place[where[i]]]
    refine(costs, sizes, every, rooms, other)
    number = integers(count)
    most = heaviest(costs, rank, ranks) * (1.0 + WORTH)
    if fill_ranks(sizes, costs, ranks, cap, other, number) >= bins or (
        heaviest(costs, other, ranks) > most
    ):
        plan_lockstep(sizes, costs, ranks, cap, other, number)
        if ranks * (largest(number) + 1) >= bins or heaviest(costs, other, ranks) > most:
            return
    copy(other, rank)
    copy(number, micro)


def fill_ranks(
    sizes: Integers, costs: Floats, ranks: int, cap: int, rank: Integers, micro: Integers
) -> int:
    """Best fit decreasing on each rank. Returns the number of micro-batches of all ranks."""
    count = len(sizes)
    starts = integers(ranks + 1)
    items = integers(count)
    by_bin(rank, starts, items)
    part = integers(count)
    where = integers(count)
    total = 0
    for r in range(ranks):
        first = starts[r]
        mine = starts[r + 1] - first
        for j in range(mine):
            part[j] = sizes[items[first + j]]
        bins = best_fit(part[:mine], cap, where)
        load = floats(bins)
        for j in range(mine):
            load[where[j]] += costs[items[first + j]]
        place = heaviest_first(load)
        for j in range(mine):
            micro[items[first + j]] = place[where[j]]
        total += bins
    return total


def plan_lockstep(
    sizes: Integers, costs: Floats, ranks: int, cap: int, rank: Integers, micro: Integers
) -> None:
    """Equally many micro-batches on every rank, and as few as the cap allows.

    They are packed jointly to equal cost, and those that cost alike share a micro-step. A sample
    that costs more than its share alone sets the time of its micro-step: the other ranks are given
    the dearest samples that fit beside it, and the other micro-steps have less to do. The dearest
    micro-step comes first.
    """
    count = len(sizes)
    steps = fewest_steps(sizes, ranks, cap)
    where = integers(count)
    filled = False
    while not filled:
        share = 1.0
        while not filled and share < 10.0:
            filled = fill_steps(sizes, costs, ranks, cap, steps, share, where)
            share *= 1.25
        if not filled:
            filled = fill_steps(sizes, costs, ranks, cap, steps, ENDLESS, where)
        if not filled:
            filled = best_fit(sizes, cap, where) <= steps * ranks
        if not filled:
            steps += 1
    load = floats(steps * ranks)
    for i in range(count):
        load[where[i]] += costs[i]
    place = heaviest_first(load)
    for i in range(count):
        position = place[where[i]]
        micro[i] = position // ranks
        rank[i] = position % ranks
    rooms = integers(ranks)
    for r in range(ranks):
        rooms[r] = cap
    starts = integers(steps + 1)
    items = integers(count)
    by_bin(micro, starts, items)
    for k in range(steps):
        refine(costs, sizes, items[starts[k] : starts[k + 1]], rooms, rank)


def fill_steps(
    sizes: Integers, costs: Floats, ranks: int, cap: int, steps: int, share: float, where: Integers
) -> bool:
    """Pack `steps` micro-steps for `plan_lockstep`; False if the samples don't fit so.

    A sample sets its micro-step's time if it costs more than `share` times the mean of a bin.
    """
    left = 0.0
    for i in range(len(costs)):
        where[i] = -1
        left += costs[i]
    first = 0  # the dearest sample that has no place yet
    for k in range(steps):
        while first < len(costs) and where[first] >= 0:
            first += 1
        if first == len(costs):
            return True
        bins = ranks * (steps - k)
        if k == steps - 1 or costs[first] * bins <= left * share:
            return longest_first(costs, sizes, bins, cap, ENDLESS, k * ranks, where)
        longest_first(costs, sizes, ranks, cap, costs[first], k * ranks, where)
        left = 0.0
        for i in range(len(costs)):
            if where[i] < 0:
                left += costs[i]
    return True


def fewest_steps(sizes: Integers, ranks: int, cap: int) -> int:
    """Micro-steps that the samples' tokens need at least."""
    tokens = 0
    for i in range(len(sizes)):
        tokens += min(sizes[i], cap)
    return max(1, -(-tokens // (ranks * cap)))


def heaviest(costs: Floats, where: Integers, bins: int) -> float:
    """Load of the heaviest bin."""
    load = floats(bins)
    most = 0.0
    for i in range(len(costs)):
        load[where[i]] += costs[i]
        most = max(most, load[where[i]])
    return most


def plan_padded(
    sizes: Integers,
    costs: Floats,
    ranks: int,
    cap: int,
    lockstep: bool,
    overhead: float,
    rank: Integers,
    micro: Integers,
) -> None:
    """Rectangles of neighbours in length, each at most `cap` tokens with its padding.

    A micro-batch costs `overhead` beside its rectangle. Free: the cuts that cost least in sum, and
    such cuts with a limit on the dearest rectangle, so that ranks can be balanced; the fastest is
    taken. Lockstep: for each number of micro-steps, the cuts whose dearest rectangle is cheapest,
    for each rank waits for it; or others with less padding that take as long.
    """
    starts = integers(len(sizes) + 1)
    chosen = integers(len(sizes) + 1)
    tight = integers(len(sizes) + 1)
    best = ENDLESS
    best_tight = ENDLESS
    total = 0.0
    for i in range(len(costs)):
        total += costs[i]
    if not lockstep:
        cheapest_cuts(sizes, costs, cap, ENDLESS, overhead, chosen)
        best = spread_cuts(chosen, costs, ranks, lockstep, overhead, rank, micro)
    steps = -(-cuts_at(sizes, costs, 1, cap, ENDLESS, UNLIMITED) // ranks)
    worse = 0
    while worse < 3 and best > (total + overhead) * (1.0 + TOLERANCE):
        worse += 1
        level = level_for(sizes, costs, ranks if lockstep else 1, cap, steps * ranks)
        steps += 1
        if level < 0.0:
            continue
        if lockstep:
            cheapest_cuts(sizes, costs, cap, level * 1.02, 8.0 * overhead, starts)
            took = spread_cuts(starts, costs, ranks, lockstep, overhead, rank, micro)
            if took < best_tight:
                best_tight = took
                copy(starts, tight)
            cut(sizes, costs, ranks, cap, level, starts)
        else:
            cheapest_cuts(sizes, costs, cap, level, overhead, starts)
        took = spread_cuts(starts, costs, ranks, lockstep, overhead, rank, micro)
        if took < best:
            best = took
            worse = 0
            copy(starts, chosen)
    if best_tight <= best * (1.0 + WORTH):
        copy(tight, chosen)
    spread_cuts(chosen, costs, ranks, lockstep, overhead, rank, micro)


# --- compiled -----------------------------------------------------------------------------------

_I, _F, _N, _X, _B = "int64[::1]", "float64[::1]", "int64", "float64", "boolean"
SIGNATURES = {
    # Each after those that it calls: result, then arguments.
    "sift": ("void", _I, _F, _N, _N),
    "rise": ("void", _I, _F, _N),
    "heaviest_first": (_I, _F),
    "heaviest": (_X, _F, _I, _N),
    "largest": (_N, _I),
    "copy": ("void", _I, _I),
    "by_bin": ("void", _I, _I, _I),
    "longest_first": (_B, _F, _I, _N, _N, _X, _N, _I),
    "exchange": (_B, _F, _I, _I, _N, _N, _F, _I, _I, _I, _I, _I),
    "refine": ("void", _F, _I, _I, _I, _I),
    "best_fit": (_N, _I, _N, _I),
    "rows": (_N, _I, _F, _N, _N, _X),
    "cut": ("void", _I, _F, _N, _N, _X, _I),
    "cuts_at": (_N, _I, _F, _N, _N, _X, _N),
    "cheapest_cuts": ("void", _I, _F, _N, _X, _X, _I),
    "level_for": (_X, _I, _F, _N, _N, _N),
    "spread_cuts": (_X, _I, _F, _N, _B, _X, _I, _I),
    "fewest_steps": (_N, _I, _N, _N),
    "fill_ranks": (_N, _I, _F, _N, _N, _I, _I),
    "fill_steps": (_B, _I, _F, _N, _N, _N, _X, _I),
    "plan_lockstep": ("void", _I, _F, _N, _N, _I, _I),
    "plan_free": ("void", _I, _F, _N, _N, _I, _I),
    "plan_padded": ("void", _I, _F, _N, _N, _B, _X, _I, _I),
}


@cache
def compiled() -> SimpleNamespace:
    """The same functions, compiled. About half a second; once on a machine, some seconds more."""
    import numba
    import numpy as np

    space: dict[str, Any] = {**vars(packing_bins), **globals()}
    # numba keeps machine code by file and name, and doesn't see that a function called by it has
    # changed in another file: so names carry a digest of both.
    digest = hashlib.sha256()
    for file in (packing_bins.__file__, __file__):
        digest.update(Path(file).read_bytes())
    suffix = digest.hexdigest()[:12]
    space["integers"] = numba.njit(lambda count: np.zeros(count, np.int64))
    space["floats"] = numba.njit(lambda count: np.zeros(count, np.float64))
    space["numbered"] = numba.njit(lambda count: np.arange(count))
    for name, (result, *arguments) in SIGNATURES.items():
        twin = FunctionType(space[name].__code__, space, f"{name}_{suffix}")
        twin.__qualname__ = twin.__name__
        signature = f"{result}({', '.join(arguments)})"
        try:
            space[name] = numba.njit(signature, cache=True)(twin)
        except RuntimeError:  # nowhere to keep the machine code
            space[name] = numba.njit(signature)(twin)
    return SimpleNamespace(**{name: space[name] for name in SIGNATURES})
