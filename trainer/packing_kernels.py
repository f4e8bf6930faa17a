"""The loops of the batch planner, written in the part of Python that numba compiles.

As they stand they run on lists, with nothing to load: under a millisecond for a batch of 128.
`compiled()` gives the same functions as machine code, for arrays of a whole epoch. Both give the
same plan.

Samples of a step are sorted here, longest first: `sizes` are their tokens, `costs` what they take,
rising with size. Results are written into arguments. A *bin* is a micro-batch or a rank; its *load*
is the cost in it, its *room* the tokens that it still takes.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any

# A list here and an array there: `Any` in this module, exact types in `packing.py`.
Integers = Any
Floats = Any

UNLIMITED = 1 << 60
"""A cap that nothing reaches."""
TOLERANCE = 1e-3
"""Refinement ends when the heaviest bin is this close to the mean."""
TRIES = 6
"""How many of the lightest bins are tried for an exchange with the heaviest."""
PASSES = 64
"""Most exchanges of one refinement: its time is bounded."""
HALVINGS = 18
"""Of the interval in which the level of padded micro-batches is searched."""


# --- the plan of one step ---------------------------------------------------------------------


def plan_free(
    sizes: Integers, costs: Floats, ranks: int, cap: int, rank: Integers, micro: Integers
) -> None:
    """Each rank as many micro-batches as it needs: balanced cost, then best fit decreasing.

    Within a rank the dearest micro-batch comes first.
    """
    count = len(sizes)
    longest_first(costs, sizes, floats(ranks), UNLIMITED, rank)
    refine(costs, sizes, numbered(count), ranks, UNLIMITED, rank)
    starts = integers(ranks + 1)
    items = integers(count)
    by_bin(rank, starts, items)
    part = integers(count)
    where = integers(count)
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


def plan_lockstep(
    sizes: Integers, costs: Floats, ranks: int, cap: int, rank: Integers, micro: Integers
) -> None:
    """Equally many micro-batches on every rank, and as few as the cap allows.

    All are packed jointly to equal cost. Where single samples cost more than that, the dearest
    share a micro-step, and the ranks beside them are given more. So the ranks of a micro-step cost
    about the same; the dearest micro-step comes first.
    """
    count = len(sizes)
    tokens = 0
    for i in range(count):
        tokens += min(sizes[i], cap)
    steps = max(1, -(-tokens // (ranks * cap)))
    where = integers(count)
    while True:
        targets = levels(sizes, costs, ranks, steps, cap)
        if longest_first(costs, sizes, targets, cap, where):
            break
        if best_fit(sizes, cap, where) <= steps * ranks:
            break
        steps += 1
    load = floats(steps * ranks)
    for i in range(count):
        load[where[i]] += costs[i]
    place = heaviest_first(load)
    for i in range(count):
        position = place[where[i]]
        micro[i] = position // ranks
        rank[i] = position % ranks
    starts = integers(steps + 1)
    items = integers(count)
    by_bin(micro, starts, items)
    for k in range(steps):
        refine(costs, sizes, items[starts[k] : starts[k + 1]], ranks, cap, rank)


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

    For each number of micro-batches a rank, the samples are cut where the dearest rectangle is
    cheapest; the number that takes least time is chosen, a micro-batch costing `overhead` beside
    its rectangle.
    """
    group = ranks if lockstep else 1
    least = -(-cuts_at(sizes, costs, 1, cap, 1e300, UNLIMITED) // ranks)
    best = 1e300
    chosen = 0
    for steps in range(least, 2 * least + 3):
        level = level_for(sizes, costs, group, cap, steps * ranks)
        if level < 0.0:
            continue
        starts = cut(sizes, costs, group, cap, level, steps * ranks)
        took = spread_cuts(starts, costs, ranks, lockstep, overhead, rank, micro)
        if took < best:
            best = took
            chosen = steps
        elif steps > chosen + 1:
            break
    level = level_for(sizes, costs, group, cap, chosen * ranks)
    starts = cut(sizes, costs, group, cap, level, chosen * ranks)
    spread_cuts(starts, costs, ranks, lockstep, overhead, rank, micro)


# --- balance ----------------------------------------------------------------------------------


def longest_first(
    costs: Floats, sizes: Integers, targets: Floats, cap: int, where: Integers
) -> bool:
    """LPT: the dearest remaining sample goes to the bin that is furthest below its target.

    With equal targets that is the least loaded one. A bin must have room for it; a sample above
    the cap takes an empty bin. False if a sample finds none.
    """
    bins = len(targets)
    load = floats(bins)
    room = integers(bins)
    heap = numbered(bins)
    for b in range(bins):
        load[b] = -targets[b]
        room[b] = cap
    for at in range(bins // 2, -1, -1):
        sift(heap, load, at, bins)
    open_bins = bins  # the others, at the heap's end, lack room for now: samples only get shorter
    most = -1  # room of the roomiest of those
    for i in range(len(costs)):
        size = sizes[i]
        if most >= size:
            open_bins = bins
            most = -1
            for at in range(bins // 2, -1, -1):
                sift(heap, load, at, bins)
        while open_bins > 0:
            b = heap[0]
            if room[b] >= size or room[b] == cap:
                break
            most = max(most, room[b])
            open_bins -= 1
            heap[0] = heap[open_bins]
            heap[open_bins] = b
            sift(heap, load, 0, open_bins)
        if open_bins == 0:
            return False
        b = heap[0]
        where[i] = b
        load[b] += costs[i]
        room[b] -= size
        sift(heap, load, 0, open_bins)
    return True


def levels(sizes: Integers, costs: Floats, ranks: int, steps: int, cap: int) -> Floats:
    """What each of `steps` x `ranks` bins should cost, for the least sum of micro-steps' maxima.

    The mean, unless a sample alone costs more: then the bins beside it may cost as much, as far as
    the cap lets them, and the other micro-steps have less to do.
    """
    left = 0.0
    for i in range(len(costs)):
        left += costs[i]
    targets = floats(steps * ranks)
    for k in range(steps):
        level = max(0.0, left / (ranks * (steps - k)))
        first = k * ranks
        pinned = first < len(costs) and costs[first] > level > 0.0
        for b in range(first, first + ranks):
            target = level
            if pinned:
                most = 1.0 * cap
                if b < len(costs):
                    most = costs[b] + max(0, cap - sizes[b])
                target = min(costs[first], most)
            targets[b] = target
            left -= target
    return targets


def refine(
    costs: Floats, sizes: Integers, items: Integers, bins: int, cap: int, where: Integers
) -> None:
    """Lower the heaviest of `bins` bins by exchanges with the lightest; its load never rises.

    `items` are the samples in them, longest first.
    """
    load = floats(bins)
    room = integers(bins)
    held = integers(bins)
    total = 0.0
    for b in range(bins):
        room[b] = cap
    for i in items:
        b = where[i]
        load[b] += costs[i]
        room[b] -= sizes[i]
        held[b] += 1
        total += costs[i]
    goal = total / bins * (1.0 + TOLERANCE)
    mine = integers(len(items))
    theirs = integers(len(items))
    for _ in range(PASSES):
        a = 0
        for b in range(1, bins):
            if load[b] > load[a]:
                a = b
        if load[a] <= goal or held[a] <= 1:
            return
        improved = False
        last = -1.0
        for _try in range(TRIES):
            low = -1  # the lightest that has not been tried
            for b in range(bins):
                if load[b] > last and (low < 0 or load[b] < load[low]):
                    low = b
            if low < 0 or low == a:
                break
            last = load[low]
            if exchange(costs, sizes, items, a, low, load, room, held, where, mine, theirs):
                improved = True
                break
        if not improved:
            return


def exchange(
    costs: Floats,
    sizes: Integers,
    items: Integers,
    a: int,
    b: int,
    load: Floats,
    room: Integers,
    held: Integers,
    where: Integers,
    mine: Integers,
    theirs: Integers,
) -> bool:
    """Give a sample of bin a to bin b, for a cheaper one or none, so that they end most alike.

    False, and nothing is changed, if both can't end below what a has now. `mine` and `theirs` are
    for use inside.
    """
    ideal = (load[a] - load[b]) / 2.0
    in_a = 0
    in_b = 0
    for i in items:
        if where[i] == a:
            mine[in_a] = i
            in_a += 1
        elif where[i] == b:
            theirs[in_b] = i
            in_b += 1
    best = ideal * (1.0 - 1e-9)
    give = -1
    take = -1
    j = 0
    for m in range(in_a):
        i = mine[m]
        off = abs(costs[i] - ideal)
        if off < best and sizes[i] <= room[b]:
            best = off
            give = i
            take = -1
        while j < in_b and costs[i] - costs[theirs[j]] < ideal:
            j += 1
        for k in range(max(0, j - 1), min(j + 1, in_b)):
            other = theirs[k]
            off = abs(costs[i] - costs[other] - ideal)
            if off < best and sizes[i] - sizes[other] <= room[b]:
                best = off
                give = i
                take = other
    if give < 0:
        return False
    moved = costs[give]
    tokens = sizes[give]
    where[give] = b
    if take >= 0:
        moved -= costs[take]
        tokens -= sizes[take]
        where[take] = a
    else:
        held[a] -= 1
        held[b] += 1
    load[a] -= moved
    load[b] += moved
    room[a] += tokens
    room[b] -= tokens
    return True


# --- bins under the cap -----------------------------------------------------------------------


def best_fit(sizes: Integers, cap: int, where: Integers) -> int:
    """Best fit decreasing: each sample goes into the fullest bin that still takes it.

    Returns the number of bins, at most 11/9 of the fewest possible, plus 6/9 (Dosa 2007). A sample
    above the cap gets a bin of its own.
    """
    count = len(sizes)
    bins = 0
    rooms = [0]  # room and bin in one number, ascending
    rooms.pop()
    for i in range(count):
        size = sizes[i]
        low = 0
        high = len(rooms)
        while low < high:
            middle = (low + high) // 2
            if rooms[middle] < size << 32:
                low = middle + 1
            else:
                high = middle
        if low < len(rooms):
            key = rooms.pop(low)
            room = key >> 32
            b = key & 0xFFFFFFFF
            high = low
        else:
            room = cap
            b = bins
            bins += 1
            high = len(rooms)
        where[i] = b
        room -= size
        if room < sizes[count - 1]:
            continue  # full: nothing to come is shorter than the last
        low = 0
        while low < high:
            middle = (low + high) // 2
            if rooms[middle] < room << 32:
                low = middle + 1
            else:
                high = middle
        rooms.insert(low, room << 32 | b)
    return bins


# --- padded rectangles ------------------------------------------------------------------------


def cut(sizes: Integers, costs: Floats, group: int, cap: int, level: float, bins: int) -> Integers:
    """Where rectangles start: each as many samples as fit into the cap and cost at most `level`.

    Where one sample costs more, the rectangles of its group (its micro-step) may cost as much.
    There are at most `bins`; the starts of those that are not needed are the number of samples.
    """
    starts = integers(bins + 1)
    i = 0
    limit = level
    for b in range(bins + 1):
        starts[b] = i
        if i < len(sizes):
            if b % group == 0:
                limit = max(level, costs[i])
            i += rows(sizes, costs, i, cap, limit)
    return starts


def cuts_at(sizes: Integers, costs: Floats, group: int, cap: int, level: float, most: int) -> int:
    """How many rectangles `cut` makes; it stops counting above `most`."""
    found = 0
    i = 0
    limit = level
    while i < len(sizes) and found <= most:
        if found % group == 0:
            limit = max(level, costs[i])
        found += 1
        i += rows(sizes, costs, i, cap, limit)
    return found


def rows(sizes: Integers, costs: Floats, i: int, cap: int, limit: float) -> int:
    """Height of the rectangle that starts with sample i, the widest in it."""
    most = min(len(sizes) - i, cap // sizes[i])
    if limit < most * costs[i]:
        most = int(limit / costs[i])
    return max(1, most)


def level_for(sizes: Integers, costs: Floats, group: int, cap: int, bins: int) -> float:
    """The least level at which `bins` rectangles suffice, to 1e-5; -1 if the cap needs more."""
    if cuts_at(sizes, costs, group, cap, 1e300, bins) > bins:
        return -1.0
    low = 0.0
    for i in range(len(costs)):
        low += costs[i]
    low /= bins
    if cuts_at(sizes, costs, group, cap, low, bins) <= bins:
        return low
    high = 2.0 * low
    while cuts_at(sizes, costs, group, cap, high, bins) > bins:
        low = high
        high *= 2.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        if cuts_at(sizes, costs, group, cap, middle, bins) <= bins:
            high = middle
        else:
            low = middle
    return high


def spread_cuts(
    starts: Integers,
    costs: Floats,
    ranks: int,
    lockstep: bool,
    overhead: float,
    rank: Integers,
    micro: Integers,
) -> float:
    """Spread the rectangles over ranks. Returns the time of the step, times ranks."""
    bins = 0
    while bins < len(starts) - 1 and starts[bins] < len(costs):
        bins += 1
    load = floats(bins)
    for b in range(bins):
        load[b] = costs[starts[b]] * (starts[b + 1] - starts[b]) + overhead
    place = heaviest_first(load)
    falling = floats(bins)
    for b in range(bins):
        falling[place[b]] = load[b]
    owner = integers(bins)
    number = integers(bins)
    took = 0.0
    if lockstep:
        for p in range(bins):
            owner[p] = p % ranks
            number[p] = p // ranks
            if p % ranks == 0:
                took += falling[p]
    else:
        nothing = integers(bins)
        longest_first(falling, nothing, floats(ranks), UNLIMITED, owner)
        refine(falling, nothing, numbered(bins), ranks, UNLIMITED, owner)
        held = integers(ranks)
        sums = floats(ranks)
        for p in range(bins):
            number[p] = held[owner[p]]
            held[owner[p]] += 1
            sums[owner[p]] += falling[p]
            took = max(took, sums[owner[p]])
    for b in range(bins):
        for i in range(starts[b], starts[b + 1]):
            rank[i] = owner[place[b]]
            micro[i] = number[place[b]]
    return took * ranks


# --- order ------------------------------------------------------------------------------------


def heaviest_first(load: Floats) -> Integers:
    """The place of each bin when they are sorted by load, the heaviest at 0."""
    bins = len(load)
    negative = floats(bins)
    heap = numbered(bins)
    for b in range(bins):
        negative[b] = -load[b]
    for at in range(bins // 2, -1, -1):
        sift(heap, negative, at, bins)
    place = integers(bins)
    for position in range(bins):
        place[heap[0]] = position
        heap[0] = heap[bins - 1 - position]
        sift(heap, negative, 0, bins - 1 - position)
    return place


def sift(heap: Integers, load: Floats, at: int, size: int) -> None:
    """Let the bin at place `at` of a heap, the lightest on top, sink to where it belongs."""
    if at >= size:
        return
    b = heap[at]
    mine = load[b]
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        child = heap[below]
        theirs = load[child]
        if below + 1 < size:
            other = heap[below + 1]
            if load[other] < theirs or (load[other] == theirs and other < child):
                below += 1
                child = other
                theirs = load[child]
        if mine < theirs or (mine == theirs and b < child):
            break
        heap[at] = child
        at = below
    heap[at] = b


def by_bin(where: Integers, starts: Integers, items: Integers) -> None:
    """Samples sorted by bin, in order within: `items[starts[b] : starts[b + 1]]` are those of b."""
    bins = len(starts) - 1
    for i in range(len(where)):
        starts[where[i] + 1] += 1
    for b in range(bins):
        starts[b + 1] += starts[b]
    free = starts[:bins] + integers(bins)  # a copy
    for i in range(len(where)):
        items[free[where[i]]] = i
        free[where[i]] += 1


# --- lists here, arrays when compiled ---------------------------------------------------------


def integers(count: int) -> Integers:
    return [0] * count


def floats(count: int) -> Floats:
    return [0.0] * count


def numbered(count: int) -> Integers:
    return list(range(count))


# --- many steps, compiled ---------------------------------------------------------------------


def plan_many(
    sizes: Integers,
    costs: Floats,
    bounds: Integers,
    ranks: int,
    cap: int,
    padded: bool,
    lockstep: bool,
    overhead: float,
    rank: Integers,
    micro: Integers,
) -> None:
    """Plan the steps between `bounds`, one after the other."""
    for step in range(len(bounds) - 1):
        a = bounds[step]
        b = bounds[step + 1]
        if padded:
            plan_padded(
                sizes[a:b], costs[a:b], ranks, cap, lockstep, overhead, rank[a:b], micro[a:b]
            )
        elif lockstep:
            plan_lockstep(sizes[a:b], costs[a:b], ranks, cap, rank[a:b], micro[a:b])
        else:
            plan_free(sizes[a:b], costs[a:b], ranks, cap, rank[a:b], micro[a:b])


_I, _F, _N, _X, _B = "int64[::1]", "float64[::1]", "int64", "float64", "boolean"
SIGNATURES = {
    # Each after those that it calls: result, then arguments.
    "sift": ("void", _I, _F, _N, _N),
    "heaviest_first": (_I, _F),
    "by_bin": ("void", _I, _I, _I),
    "longest_first": (_B, _F, _I, _F, _N, _I),
    "levels": (_F, _I, _F, _N, _N, _N),
    "exchange": (_B, _F, _I, _I, _N, _N, _F, _I, _I, _I, _I, _I),
    "refine": ("void", _F, _I, _I, _N, _N, _I),
    "best_fit": (_N, _I, _N, _I),
    "rows": (_N, _I, _F, _N, _N, _X),
    "cut": (_I, _I, _F, _N, _N, _X, _N),
    "cuts_at": (_N, _I, _F, _N, _N, _X, _N),
    "level_for": (_X, _I, _F, _N, _N, _N),
    "spread_cuts": (_X, _I, _F, _N, _B, _X, _I, _I),
    "plan_free": ("void", _I, _F, _N, _N, _I, _I),
    "plan_lockstep": ("void", _I, _F, _N, _N, _I, _I),
    "plan_padded": ("void", _I, _F, _N, _N, _B, _X, _I, _I),
    "plan_many": ("void", _I, _F, _I, _N, _N, _B, _B, _X, _I, _I),
}


@cache
def compiled() -> SimpleNamespace:
    """The same functions, compiled. About 0.5 s; once on a machine, some ten seconds more."""
    import numba
    import numpy as np

    space: dict[str, Any] = dict(globals())
    space["integers"] = numba.njit(lambda count: np.zeros(count, np.int64))
    space["floats"] = numba.njit(lambda count: np.zeros(count, np.float64))
    space["numbered"] = numba.njit(lambda count: np.arange(count))
    for name, (result, *arguments) in SIGNATURES.items():
        kernel = globals()[name]
        twin = FunctionType(kernel.__code__, space, name)
        signature = f"{result}({', '.join(arguments)})"
        try:
            space[name] = numba.njit(signature, cache=True)(twin)
        except RuntimeError:  # nowhere to keep the machine code
            space[name] = numba.njit(signature)(twin)
    return SimpleNamespace(**{name: space[name] for name in SIGNATURES})
