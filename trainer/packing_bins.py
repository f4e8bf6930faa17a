"""The building blocks of `packing_kernels.py`: LPT, exchanges, best fit decreasing, rectangles.

Written in the part of Python that numba compiles, and run both ways; see there. Samples of a step
are sorted, longest first: `sizes` are their tokens, `costs` what they take, rising with size.
Results are written into arguments. A *bin* is a micro-batch or a rank; its *load* is the cost in
it, its *room* the tokens that it still takes.
"""

from __future__ import annotations

from typing import Any

# A list in one case and an array in the other: `Any` here, exact types in `packing.py`.
Integers = Any
Floats = Any

UNLIMITED = 1 << 60
"""A cap that nothing reaches."""
ENDLESS = 1e300
"""A cost that nothing reaches."""
TOLERANCE = 1e-3
"""Refinement ends when the heaviest bin is this close to the mean."""
TRIES = 6
"""How many of the lightest bins are tried for an exchange with the heaviest."""
PASSES = 4
"""Most exchanges of one refinement, times the number of bins: its time is bounded."""
HALVINGS = 12
"""Of the interval in which the level of padded micro-batches is searched."""


# --- balance ----------------------------------------------------------------------------------


def longest_first(
    costs: Floats, sizes: Integers, bins: int, cap: int, limit: float, first: int, where: Integers
) -> bool:
    """LPT: the dearest sample without a place (-1) goes to the least loaded bin with room for it.

    The bins, empty at the start, are `first` to `first + bins`. None gets more than `cap` tokens,
    unless by a single sample, nor more cost than `limit`. False if a sample is left over.
    """
    load = floats(bins)
    room = integers(bins)
    for b in range(bins):
        room[b] = cap
    heap = numbered(bins)  # by load; those without room for the present sample are set aside
    inside = bins
    aside = integers(bins)  # by room, for samples only get shorter
    lack = floats(bins)
    outside = 0
    complete = True
    for i in range(len(costs)):
        if where[i] >= 0:
            continue
        size = sizes[i]
        while outside > 0 and room[aside[0]] >= size:
            heap[inside] = aside[0]
            inside += 1
            rise(heap, load, inside - 1)
            outside -= 1
            aside[0] = aside[outside]
            sift(aside, lack, 0, outside)
        while inside > 0 and room[heap[0]] < size and room[heap[0]] < cap:
            b = heap[0]
            inside -= 1
            heap[0] = heap[inside]
            sift(heap, load, 0, inside)
            lack[b] = -1.0 * room[b]
            aside[outside] = b
            outside += 1
            rise(aside, lack, outside - 1)
        if inside == 0 or load[heap[0]] + costs[i] > limit:
            complete = False
            continue
        b = heap[0]
        where[i] = first + b
        load[b] += costs[i]
        room[b] -= size
        sift(heap, load, 0, inside)
    return complete


def refine(
    costs: Floats, sizes: Integers, items: Integers, rooms: Integers, where: Integers
) -> None:
    """Lower the heaviest bin by exchanges with the lightest; the heaviest load never rises.

    `items` are the samples in the bins, longest first; `rooms` the most tokens that each takes.
    """
    bins = len(rooms)
    load = floats(bins)
    room = integers(bins)
    held = integers(bins)
    total = 0.0
    for b in range(bins):
        room[b] = rooms[b]
    for i in items:
        b = where[i]
        load[b] += costs[i]
        room[b] -= sizes[i]
        held[b] += 1
        total += costs[i]
    goal = total / bins * (1.0 + TOLERANCE)
    mine = integers(len(items))
    theirs = integers(len(items))
    for _ in range(PASSES * bins):
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


def cut(
    sizes: Integers, costs: Floats, group: int, cap: int, level: float, starts: Integers
) -> None:
    """Where rectangles start: each as many samples as fit into the cap and cost at most `level`.

    Where one sample costs more, the rectangles of its group (its micro-step) may cost as much. What
    is left of `starts` is filled with the number of samples.
    """
    i = 0
    limit = level
    for b in range(len(starts)):
        starts[b] = i
        if i < len(sizes):
            if b % group == 0:
                limit = max(level, costs[i])
            i += rows(sizes, costs, i, cap, limit)


def cheapest_cuts(
    sizes: Integers, costs: Floats, cap: int, level: float, overhead: float, starts: Integers
) -> None:
    """Where rectangles start for the least sum of their costs, `overhead` added to each.

    Of those that cost more than `level` there are only single samples.
    Dynamic programming over the end of the last rectangle. One with more padding than 8 times
    `overhead` is never worth it up to 1,096 samples: by the larger of the rectangles that could be
    cut off, it saves a (1 + ln n)th of the padding.
    """
    count = len(sizes)
    least = floats(count + 1)
    begin = integers(count + 1)
    for end in range(1, count + 1):
        best = ENDLESS
        inside = 0.0
        for i in range(end - 1, -1, -1):
            height = end - i
            inside += costs[i]
            area = height * costs[i]
            if height > 1 and (
                height * sizes[i] > cap or area > level or area - inside > 8.0 * overhead
            ):
                break
            if least[i] + area < best:
                best = least[i] + area
                begin[end] = i
        least[end] = best + overhead
    bins = 0
    end = count
    while end > 0:
        end = begin[end]
        bins += 1
    end = count
    for b in range(bins, len(starts)):
        starts[b] = count
    for b in range(bins - 1, -1, -1):
        end = begin[end]
        starts[b] = end


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
    if cuts_at(sizes, costs, group, cap, ENDLESS, bins) > bins:
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
        rooms = integers(ranks)
        for r in range(ranks):
            rooms[r] = UNLIMITED
        for p in range(bins):
            owner[p] = -1
        longest_first(falling, nothing, ranks, UNLIMITED, ENDLESS, 0, owner)
        refine(falling, nothing, numbered(bins), rooms, owner)
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


def rise(heap: Integers, load: Floats, at: int) -> None:
    """Let the bin at place `at` of such a heap rise to where it belongs."""
    b = heap[at]
    while at > 0:
        above = (at - 1) // 2
        parent = heap[above]
        if load[parent] < load[b] or (load[parent] == load[b] and parent < b):
            break
        heap[at] = parent
        at = above
    heap[at] = b


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


def largest(numbers: Integers) -> int:
    most = 0
    for number in numbers:
        most = max(most, number)
    return most


def copy(source: Integers, target: Integers) -> None:
    for i in range(len(source)):
        target[i] = source[i]


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
