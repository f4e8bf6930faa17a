"""Who gets which slots of the cluster. Pure and deterministic.

A *slot* is room for one trial of a sweep. Sweeps with a higher priority come first, with all that
they can use. Sweeps of equal priority share by weight: projects by theirs, and inside a project its
sweeps, in terms of the resource of which a sweep needs most (dominant resource fairness, Ghodsi et
al. 2011, by progressive filling). Quotas of projects and the cluster's nodes bound all of it.

A fair share is a number like 0.4 slots; slots are whole. What a sweep got too little or too much of
is its *credit*, in slot-seconds, and whoever is owed more comes first. A slot changes hands only
when that is worth a *quantum* (seconds): a preempted trial costs a checkpoint and a new start.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.supervision.placement import Needs, Node, Room, most_that_fit
from winnow.types import Quota

_SLACK = 1e-9
STICKY = 0.99
"""What holding a slot is worth, in quanta. Below 1: a whole slot that is due is given at once."""
MAX_CREDIT = 4.0
"""Quanta of each slot of a fair share that can be owed: what can't be given back in time lapses."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """A sweep that wants slots.

    `open_trials`: those that it could run at once, as far as is known. `uses`: how many of them it
    is likely to run now; slots beyond that are given only when nobody else has a use for them.
    `held`: slots that it has now; `running`: trials that run now. `credit`: see the module.
    """

    id: str
    project: str
    needs: Needs
    open_trials: int
    priority: int = 0
    weight: float = 1.0
    max_concurrent: int | None = None
    held: int = 0
    running: int = 0
    uses: int | None = None
    credit: float = 0.0

    @property
    def most(self) -> int:
        """The most slots that it may have, whatever is free."""
        limits = (self.open_trials, self.max_concurrent)
        return max(0, min(limit for limit in limits if limit is not None))


@dataclass(frozen=True, slots=True)
class Party:
    """A project: its weight against others, the most it may have, and the GPU-hours it has had."""

    weight: float = 1.0
    quota: Quota = field(default_factory=Quota)
    gpu_hours: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """What a sweep gets: `slots` now, `target` on average, and `why` not as many as it could use.

    `charged`: the slots that count against its credit; those that nobody else could use don't.
    """

    slots: int
    target: float
    charged: int
    why: str | None


def divide(
    nodes: Sequence[Node],
    claimants: Sequence[Claimant],
    projects: Mapping[str, Party],
    quantum: float,
) -> dict[str, Share]:
    """The slots of every claimant, by id. Of equal claims the earlier in the sequence comes first.

    Raises ValueError if `quantum` isn't above 0.
    """
    if quantum <= 0:
        raise ValueError(f"quantum: must be above 0 seconds, got {quantum}")
    books = _Books(nodes, projects)
    fits = {c.id: most_that_fit(nodes, c.needs, c.most) for c in claimants}
    uses = {c.id: min(fits[c.id], c.most if c.uses is None else c.uses) for c in claimants}
    classes = _by_priority(claimants)
    targets: dict[str, float] = {}
    for members in classes:
        fair = _targets(members, uses, books)
        targets |= fair
        _fill(members, uses, fair, books, quantum)
    charged = Counter(books.slots)
    for members in classes:  # what is left goes to whoever may come to use it
        _fill(members, fits, targets, books, quantum)
    shares: dict[str, Share] = {}
    above = 0
    for members in classes:
        line = _Line(members, books, above)
        above += sum(1 for c in members if books.slots[c.id])
        for c in members:
            why = _why(c, fits[c.id], nodes, line, books)
            shares[c.id] = Share(books.slots[c.id], targets[c.id], charged[c.id], why)
    return shares


def settle(
    credits: Mapping[str, float], shares: Mapping[str, Share], seconds: float, quantum: float
) -> dict[str, float]:
    """The credits after `shares` were held for `seconds`. Sweeps without a share are forgotten."""
    settled: dict[str, float] = {}
    for sweep_id, share in shares.items():
        credit = credits.get(sweep_id, 0.0) + (share.target - share.charged) * seconds
        bound = MAX_CREDIT * quantum * max(1.0, share.target)
        settled[sweep_id] = min(bound, max(-bound, credit))
    return settled


def admit(
    nodes: Sequence[Node],
    claimants: Sequence[Claimant],
    projects: Mapping[str, Party],
    shares: Mapping[str, Share],
) -> dict[str, int]:
    """The slots to grant now, on the way to `shares`, by id.

    Slots are taken away at once, and given only where the trials that held them have left: the
    grants and what still runs never exceed the cluster or a quota together.
    """
    books = _Books(nodes, projects)
    occupied: dict[str, int] = {}
    full = False
    for c in claimants:
        occupied[c.id] = max(min(shares[c.id].slots, c.held), c.running)
        for _ in range(occupied[c.id]):
            # What runs may lie otherwise than the books would place it, or more may run than there
            # is room for since a node has left: then nobody gets more until something has ended.
            full = books.take(c) is not None or full
    granted: dict[str, int] = {}
    for members in _by_priority(claimants):
        for c in members:
            wanted = shares[c.id].slots
            now = occupied[c.id]
            while not full and now < wanted and books.take(c) is None:
                now += 1
            granted[c.id] = min(now, wanted)
    return granted


# --- books: what is taken ----------------------------------------------------------------------


class _Books:
    """The room that is left, what each project has of its quota, and each sweep's slots."""

    def __init__(self, nodes: Sequence[Node], projects: Mapping[str, Party]) -> None:
        self.room = Room(nodes)
        self.cpus = sum(node.cpus for node in nodes)
        self.gpus = sum(node.gpus for node in nodes)
        self.projects = projects
        self.slots: Counter[str] = Counter()
        self.refused: dict[str, str] = {}
        """By sweep: what kept it from its next slot, as a sentence; empty if the room did."""
        self._gpus: dict[str, float] = defaultdict(float)
        self._trials: Counter[str] = Counter()

    def take(self, c: Claimant) -> str | None:
        """Give a sweep one slot more; None, or what is in the way (see `refused`)."""
        refusal = self._quota_in_the_way(c)
        if refusal is None and not self.room.take(c.needs):
            refusal = ""
        if refusal is not None:
            self.refused[c.id] = refusal
            return refusal
        self.slots[c.id] += 1
        self._gpus[c.project] += c.needs.all_gpus
        self._trials[c.project] += 1
        return None

    def party(self, project: str) -> Party:
        return self.projects.get(project) or Party()

    def quota_left(self, project: str) -> tuple[float, float]:
        """GPUs and trials that a project may still have."""
        quota = self.party(project).quota
        return (
            float("inf") if quota.gpus is None else max(0.0, quota.gpus - self._gpus[project]),
            float("inf") if quota.trials is None else max(0, quota.trials - self._trials[project]),
        )

    def hours_left(self, c: Claimant) -> bool:
        """Whether the project may use its GPUs at all."""
        party = self.party(c.project)
        return not c.needs.gpus or (
            party.quota.gpu_hours is None or party.gpu_hours < party.quota.gpu_hours
        )

    def _quota_in_the_way(self, c: Claimant) -> str | None:
        party = self.party(c.project)
        gpus, trials = self.quota_left(c.project)
        if not self.hours_left(c):
            return (
                f"the GPU-hours of project {c.project} are used up: {party.gpu_hours:.4g} of "
                f"{party.quota.gpu_hours:.4g}"
            )
        if c.needs.all_gpus > gpus + _SLACK:
            used = f"{self._gpus[c.project]:g} of {_count(party.quota.gpus or 0, 'GPU')}"
            if c.needs.all_gpus > (party.quota.gpus or 0):
                return (
                    f"quota of project {c.project}: {_count(party.quota.gpus or 0, 'GPU')}, and "
                    f"one trial needs {c.needs.all_gpus:g}"
                )
            return f"quota of project {c.project} reached: {used}"
        if trials < 1:
            most = party.quota.trials or 0
            return (
                f"quota of project {c.project} reached: {self._trials[c.project]} of "
                f"{_count(most, 'trial')}"
            )
        return None


# --- fair shares, in fractions of slots --------------------------------------------------------


def _targets(
    members: Sequence[Claimant], uses: Mapping[str, int], books: _Books
) -> dict[str, float]:
    """Weighted max-min fair shares of what is left, in slots, for sweeps of one priority.

    All dominant shares grow together, each project's at the pace of its weight and divided between
    its sweeps by theirs, until something is exhausted; whoever needs that stops growing.
    """
    target = {c.id: 0.0 for c in members}
    cpus, gpus = books.room.cpus, books.room.gpus
    left = {c.project: books.quota_left(c.project) for c in members}
    growing = [c for c in members if uses[c.id] > 0 and books.hours_left(c)]
    while growing:
        pace = _pace(growing, books)
        per_project: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for c in growing:
            per_project[c.project][0] += pace[c.id] * c.needs.all_gpus
            per_project[c.project][1] += pace[c.id]
        steps = [(uses[c.id] - target[c.id]) / pace[c.id] for c in growing]
        steps.append(_until(cpus, sum(pace[c.id] * c.needs.all_cpus for c in growing)))
        steps.append(_until(gpus, sum(pace[c.id] * c.needs.all_gpus for c in growing)))
        for project, (gpu_pace, trial_pace) in per_project.items():
            steps.append(_until(left[project][0], gpu_pace))
            steps.append(_until(left[project][1], trial_pace))
        step = max(0.0, min(steps))
        for c in growing:
            target[c.id] += step * pace[c.id]
            cpus -= step * pace[c.id] * c.needs.all_cpus
            gpus -= step * pace[c.id] * c.needs.all_gpus
        for project, (gpu_pace, trial_pace) in per_project.items():
            gpu_quota, trial_quota = left[project]
            left[project] = (gpu_quota - step * gpu_pace, trial_quota - step * trial_pace)
        still = [
            c
            for c in growing
            if target[c.id] < uses[c.id] - _SLACK
            and not (c.needs.all_cpus and cpus <= _SLACK)
            and not (c.needs.all_gpus and min(gpus, left[c.project][0]) <= _SLACK)
            and left[c.project][1] > _SLACK
        ]
        if len(still) == len(growing):
            break  # only rounding is left
        growing = still
    return target


def _pace(growing: Collection[Claimant], books: _Books) -> dict[str, float]:
    """Slots that each sweep gains while a project of weight 1 gains one dominant share."""
    in_project: dict[str, float] = defaultdict(float)
    for c in growing:
        in_project[c.project] += c.weight
    return {
        c.id: books.party(c.project).weight
        * c.weight
        / in_project[c.project]
        / _dominant_share(c.needs, books)
        for c in growing
    }


def _dominant_share(needs: Needs, books: _Books) -> float:
    """The largest share of any of the cluster's resources that one trial takes."""
    cpus = needs.all_cpus / books.cpus if books.cpus else 0.0
    gpus = needs.all_gpus / books.gpus if books.gpus else 0.0
    return max(cpus, gpus, _SLACK)


def _until(left: float, pace: float) -> float:
    return left / pace if pace > 0 else float("inf")


# --- whole slots -------------------------------------------------------------------------------


def _fill(
    members: Sequence[Claimant],
    limit: Mapping[str, int],
    target: Mapping[str, float],
    books: _Books,
    quantum: float,
) -> None:
    """Give slots to sweeps of one priority, one by one, until nobody can take another.

    The next goes to whoever would be owed most in a quantum's time without it, in terms of its
    dominant resource; a slot that is held counts as (nearly) one quantum more.
    """
    size = {c.id: _dominant_share(c.needs, books) for c in members}

    def owed(c: Claimant) -> float:
        have = books.slots[c.id]
        quanta = c.credit / quantum + target[c.id] - have + STICKY * (have < c.held)
        return round(size[c.id] * quanta, 9)

    # What a sweep is owed changes with its own slots alone. Of equals the earliest comes first.
    waiting = [(-owed(c), index) for index, c in enumerate(members)]
    heapq.heapify(waiting)
    while waiting:
        c = members[waiting[0][1]]
        if books.slots[c.id] >= limit[c.id] or books.take(c) is not None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (-owed(c), waiting[0][1]))


def _by_priority(claimants: Sequence[Claimant]) -> list[list[Claimant]]:
    """Sweeps of equal priority together, the highest first."""
    classes: dict[int, list[Claimant]] = defaultdict(list)
    for c in claimants:
        classes[c.priority].append(c)
    return [classes[priority] for priority in sorted(classes, reverse=True)]


# --- reasons -----------------------------------------------------------------------------------


class _Line:
    """Sweeps of one priority, as far as their reasons go: what they have together.

    `above`: sweeps of higher priority that have slots.
    """

    def __init__(self, members: Sequence[Claimant], books: _Books, above: int) -> None:
        self.above = above
        self.slots = sum(books.slots[c.id] for c in members)
        self.weights: dict[str, float] = defaultdict(float)
        """Of the sweeps of each project."""
        for c in members:
            self.weights[c.project] += c.weight
        self.among = sum(books.party(project).weight for project in self.weights)


def _why(c: Claimant, fits: int, nodes: Sequence[Node], line: _Line, books: _Books) -> str | None:
    """Why a sweep has fewer slots than it has trials to run; None if it has as many."""
    slots = books.slots[c.id]
    if slots >= c.open_trials:
        return None
    if slots >= c.most:
        return f"max_concurrent: {_count(slots, 'trial')} at once, as the sweep asks"
    if refusal := books.refused.get(c.id):
        return refusal
    if fits == 0:
        return _never_fits(c, nodes)
    if slots >= fits:
        return f"the cluster holds {_count(slots, 'trial')} of this size at once"
    if books.room.has(c.needs):
        what = (c.needs.all_gpus, "GPU") if c.needs.gpus else (c.needs.all_cpus, "CPU")
        return f"no node has {what[0]:g} free {what[1]}{'' if what[0] == 1 else 's'}"
    if line.above:
        verb = "comes" if line.above == 1 else "come"
        return f"priority: {_count(line.above, 'sweep')} with higher priority {verb} first"
    return _fair_share(c, line, books)


def _fair_share(c: Claimant, line: _Line, books: _Books) -> str:
    weights = f"weight {c.weight:g} of {line.weights[c.project]:g}"
    if len(line.weights) > 1:
        weights += (
            f" in project {c.project}, whose weight is {books.party(c.project).weight:g} "
            f"of {line.among:g}"
        )
    return f"fair share: {books.slots[c.id]} of {_count(line.slots, 'slot')} with {weights}"


def _never_fits(c: Claimant, nodes: Sequence[Node]) -> str:
    """Why not even an empty cluster has room for one trial."""
    gpus, cpus = sum(n.gpus for n in nodes), sum(n.cpus for n in nodes)
    if c.needs.all_gpus > gpus + _SLACK:
        return f"one trial needs {_count(c.needs.all_gpus, 'GPU')}; the cluster has {gpus:g}"
    if c.needs.all_cpus > cpus + _SLACK:
        return f"one trial needs {_count(c.needs.all_cpus, 'CPU')}; the cluster has {cpus:g}"
    each = _count(c.needs.cpus, "CPU")
    if c.needs.gpus:
        each = f"{_count(c.needs.gpus, 'GPU')} and {each}"
    return (
        f"one trial needs {each} for each of its {_count(c.needs.ranks, 'rank')}, and the nodes "
        "have these only apart"
    )


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
