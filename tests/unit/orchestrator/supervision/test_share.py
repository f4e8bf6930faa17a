"""Who gets which slots: the rules, and what must hold whatever the sweeps and the cluster are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.supervision.placement import Needs, Node, Room
from orchestrator.supervision.share import Claimant, Party, Share, admit, divide, settle
from winnow.types import Quota

QUANTUM = 60.0
CPU = Needs(ranks=1, cpus=1)
GPU = Needs(ranks=1, cpus=1, gpus=1)


def sweep(name: str, needs: Needs = CPU, project: str = "lab", **rest: object) -> Claimant:
    return Claimant(name, project, needs, **({"open_trials": 50} | rest))  # type: ignore[arg-type]


def slots(shares: Mapping[str, Share]) -> dict[str, int]:
    return {sweep_id: share.slots for sweep_id, share in shares.items()}


def run(
    nodes: Sequence[Node],
    sweeps: Sequence[Claimant],
    projects: Mapping[str, Party],
    seconds: int,
) -> tuple[dict[str, float], int, dict[str, int]]:
    """Slot-seconds by sweep, slots taken away, and when each first had one, second by second."""
    credits: dict[str, float] = {}
    held = {c.id: 0 for c in sweeps}
    had = {c.id: 0.0 for c in sweeps}
    first: dict[str, int] = {}
    taken_away = 0
    for second in range(seconds):
        now = [
            replace(c, held=held[c.id], running=held[c.id], credit=credits.get(c.id, 0.0))
            for c in sweeps
        ]
        shares = divide(nodes, now, projects, QUANTUM)
        credits = settle(credits, shares, 1.0, QUANTUM)
        for c in sweeps:
            taken_away += max(0, held[c.id] - shares[c.id].slots)
            held[c.id] = shares[c.id].slots
            had[c.id] += held[c.id]
            if held[c.id]:
                first.setdefault(c.id, second)
    return had, taken_away, first


# --- rules -------------------------------------------------------------------------------------


def test_equal_sweeps_share_equally_and_say_so() -> None:
    shares = divide([Node(8)], [sweep("a"), sweep("b")], {}, QUANTUM)
    assert slots(shares) == {"a": 4, "b": 4}
    assert shares["a"].why == "fair share: 4 of 8 slots with weight 1 of 2"


def test_a_sweep_that_needs_less_than_its_share_leaves_the_rest_to_the_others() -> None:
    shares = divide([Node(8)], [sweep("a", open_trials=1), sweep("b"), sweep("c")], {}, QUANTUM)
    assert shares["a"] == Share(1, 1.0, 1, None)
    assert shares["b"].slots + shares["c"].slots == 7


def test_weights_divide_the_slots() -> None:
    shares = divide([Node(8)], [sweep("a", weight=3.0), sweep("b")], {}, QUANTUM)
    assert slots(shares) == {"a": 6, "b": 2}
    assert shares["b"].why == "fair share: 2 of 8 slots with weight 1 of 4"


def test_projects_share_first_and_then_the_sweeps_inside_them() -> None:
    one = sweep("a", project="one")
    many = [sweep(f"b{n}", project="two") for n in range(4)]
    shares = divide([Node(8)], [one, *many], {}, QUANTUM)
    assert slots(shares) == {"a": 4, "b0": 1, "b1": 1, "b2": 1, "b3": 1}
    assert shares["b0"].why == (
        "fair share: 1 of 8 slots with weight 1 of 4 in project two, whose weight is 1 of 2"
    )


def test_a_higher_priority_takes_all_that_it_can_use() -> None:
    high = sweep("high", priority=1, open_trials=6)
    shares = divide([Node(8)], [sweep("low", held=8, running=8), high], {}, QUANTUM)
    assert slots(shares) == {"low": 2, "high": 6}
    assert shares["low"].why == "priority: 1 sweep with higher priority comes first"


def test_slots_that_a_high_priority_does_not_use_serve_the_others() -> None:
    idle = sweep("idle", priority=5, uses=1)
    shares = divide([Node(8)], [idle, sweep("busy", open_trials=4)], {}, QUANTUM)
    assert slots(shares) == {"idle": 4, "busy": 4}  # what nobody uses is idle's again


def test_max_concurrent_is_a_sweeps_own_wish() -> None:
    shares = divide([Node(8)], [sweep("a", max_concurrent=2)], {}, QUANTUM)
    assert shares["a"].slots == 2
    assert shares["a"].why == "max_concurrent: 2 trials at once, as the sweep asks"


@pytest.mark.parametrize(
    ("party", "needs", "given", "why"),
    [
        (Party(quota=Quota(gpus=4)), GPU, 4, "quota of project lab reached: 4 of 4 GPUs"),
        (Party(quota=Quota(trials=2)), CPU, 2, "quota of project lab reached: 2 of 2 trials"),
        (
            Party(quota=Quota(gpus=1)),
            Needs(2, 1, 1),
            0,
            "quota of project lab: 1 GPU, and one trial needs 2",
        ),
        (
            Party(quota=Quota(gpu_hours=10), gpu_hours=10.5),
            GPU,
            0,
            "the GPU-hours of project lab are used up: 10.5 of 10",
        ),
    ],
)
def test_a_project_stays_within_its_quota(party: Party, needs: Needs, given: int, why: str) -> None:
    shares = divide([Node(8, 8)], [sweep("a", needs)], {"lab": party}, QUANTUM)
    assert shares["a"].slots == given
    assert shares["a"].why == why


def test_sweeps_without_gpus_go_on_when_the_gpu_hours_are_used_up() -> None:
    party = Party(quota=Quota(gpu_hours=1), gpu_hours=2.0)
    assert divide([Node(2, 2)], [sweep("a")], {"lab": party}, QUANTUM)["a"].slots == 2


def test_what_a_quota_keeps_from_one_project_serves_another() -> None:
    parties = {"lab": Party(quota=Quota(gpus=2))}
    shares = divide([Node(8, 8)], [sweep("a", GPU), sweep("b", GPU, "other")], parties, QUANTUM)
    assert slots(shares) == {"a": 2, "b": 6}


def test_four_gpus_in_pieces_are_not_promised_to_a_trial_that_fits_a_node() -> None:
    nodes = [Node(8, 4), Node(8, 4)]
    three = sweep("three", Needs(3, 1, 1), open_trials=2, priority=1)
    four = sweep("four", Needs(4, 1, 1), weight=1.0)
    shares = divide(nodes, [three, four], {}, QUANTUM)
    assert slots(shares) == {"three": 2, "four": 0}
    assert shares["four"].why == "priority: 1 sweep with higher priority comes first"
    two = sweep("two", Needs(1, 1, 1), open_trials=2, priority=1)
    alone = divide([Node(8, 2), Node(8, 2), Node(8, 4)], [two, four], {}, QUANTUM)
    assert slots(alone) == {"two": 2, "four": 1}  # the small ones leave the large node whole


def test_free_gpus_on_different_nodes_are_named_as_the_reason() -> None:
    nodes = [Node(8, 4), Node(8, 4)]
    three = sweep("three", Needs(3, 1, 1), open_trials=2, priority=1)
    two = sweep("two", Needs(2, 1, 1))
    assert divide(nodes, [three, two], {}, QUANTUM)["two"].why == "no node has 2 free GPUs"


def test_a_trial_larger_than_every_node_is_spread() -> None:
    shares = divide([Node(8, 4), Node(8, 4)], [sweep("wide", Needs(8, 1, 1))], {}, QUANTUM)
    assert shares["wide"].slots == 1


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        (Needs(9, 1, 1), "one trial needs 9 GPUs; the cluster has 8"),
        (Needs(1, 64), "one trial needs 64 CPUs; the cluster has 16"),
        (
            Needs(1, 16, 1),
            "one trial needs 1 GPU and 16 CPUs for each of its 1 rank, and the nodes have these "
            "only apart",
        ),
    ],
)
def test_a_trial_that_never_fits_is_told_why(needs: Needs, why: str) -> None:
    share = divide([Node(8, 4), Node(8, 4)], [sweep("a", needs)], {}, QUANTUM)["a"]
    assert (share.slots, share.why) == (0, why)


def test_trials_without_gpus_keep_off_the_nodes_that_have_some() -> None:
    room = Room([Node(4, 4), Node(4)])
    assert all(room.take(CPU) for _ in range(4))
    assert all(room.take(GPU) for _ in range(4))


def test_different_needs_get_equal_dominant_shares() -> None:
    on_cpu = sweep("cpu", Needs(1, 3, 0))
    on_gpu = sweep("gpu", Needs(1, 1, 2))
    shares = divide([Node(18, 9)], [on_cpu, on_gpu], {}, QUANTUM)
    # 3/18 of the CPUs a trial against 2/9 of the GPUs: 4 and 3 trials have 2/3 of each.
    assert shares["cpu"].slots >= 4
    assert shares["gpu"].slots >= 3


def test_a_slot_changes_hands_once_a_quantum_not_oftener() -> None:
    _, moves, _ = run([Node(1)], [sweep("a"), sweep("b")], {}, 1200)
    assert 1200 / QUANTUM / 2 <= moves <= 1200 / QUANTUM + 1


def test_a_large_trial_is_not_starved_by_small_ones() -> None:
    sweeps = [sweep("small", GPU), sweep("large", Needs(4, 1, 1))]
    had, _, _ = run([Node(4, 4)], sweeps, {}, 3600)
    assert had["large"] * 4 == pytest.approx(had["small"], rel=0.1)


def test_twenty_sweeps_on_eight_slots_are_within_a_tenth_of_their_weights() -> None:
    sweeps = [sweep(f"s{n}", weight=1.0 + n % 4) for n in range(20)]
    had, moves, first = run([Node(8)], sweeps, {}, 3600)
    whole = sum(had.values()) / sum(c.weight for c in sweeps)
    assert sum(had.values()) == 8 * 3600
    assert max(abs(had[c.id] / (whole * c.weight) - 1) for c in sweeps) < 0.1
    assert len(first) == 20
    assert moves <= 8 * 3600 / QUANTUM


def test_slots_are_given_only_when_their_trials_have_left() -> None:
    leaving = sweep("old", held=4, running=4, priority=-1)
    coming = sweep("new")
    shares = divide([Node(4)], [leaving, coming], {}, QUANTUM)
    assert slots(shares) == {"old": 0, "new": 4}
    assert admit([Node(4)], [leaving, coming], {}, shares) == {"old": 0, "new": 0}
    half = replace(leaving, held=0, running=2)
    assert admit([Node(4)], [half, coming], {}, shares) == {"old": 0, "new": 2}
    gone = replace(leaving, held=0, running=0)
    assert admit([Node(4)], [gone, coming], {}, shares) == {"old": 0, "new": 4}


def test_a_quota_holds_while_a_trial_is_still_leaving() -> None:
    parties = {"lab": Party(quota=Quota(gpus=1))}
    leaving = sweep("old", GPU, held=1, running=1, priority=-1)
    coming = sweep("new", GPU)
    shares = divide([Node(8, 8)], [leaving, coming], parties, QUANTUM)
    assert slots(shares) == {"old": 0, "new": 1}
    assert admit([Node(8, 8)], [leaving, coming], parties, shares)["new"] == 0


def test_a_quantum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="quantum"):
        divide([Node(1)], [], {}, 0.0)


# --- whatever the sweeps and the cluster are ---------------------------------------------------

needs_of_trials = st.builds(
    Needs,
    ranks=st.integers(1, 5),
    cpus=st.sampled_from([1.0, 2.0, 4.0]),
    gpus=st.sampled_from([0.0, 1.0]),
)
clusters = st.lists(
    st.builds(
        Node,
        cpus=st.integers(1, 24).map(float),
        gpus=st.integers(0, 8).map(float),
    ),
    min_size=1,
    max_size=4,
)
quotas = st.builds(
    Quota,
    gpus=st.none() | st.integers(0, 6),
    trials=st.none() | st.integers(0, 6),
    gpu_hours=st.none() | st.just(5.0),
)
parties = st.builds(
    Party,
    weight=st.sampled_from([0.5, 1.0, 3.0]),
    quota=quotas,
    gpu_hours=st.sampled_from([0.0, 9.0]),
)
projects = st.fixed_dictionaries({"a": parties, "b": parties})


@st.composite
def claimants(draw: st.DrawFn) -> list[Claimant]:
    found = draw(
        st.lists(
            st.builds(
                Claimant,
                id=st.just(""),
                project=st.sampled_from(["a", "b"]),
                needs=needs_of_trials,
                open_trials=st.integers(1, 12),
                priority=st.integers(-1, 1),
                weight=st.sampled_from([0.1, 1.0, 2.5]),
                max_concurrent=st.none() | st.integers(1, 6),
                held=st.integers(0, 6),
                running=st.integers(0, 6),
                uses=st.none() | st.integers(0, 6),
                credit=st.floats(-300, 300),
            ),
            max_size=8,
        )
    )
    return [replace(c, id=f"s{n}") for n, c in enumerate(found)]


def total(sweeps: Sequence[Claimant], given: Mapping[str, int]) -> tuple[float, float]:
    return (
        sum(given[c.id] * c.needs.all_cpus for c in sweeps),
        sum(given[c.id] * c.needs.all_gpus for c in sweeps),
    )


def within(
    nodes: Sequence[Node],
    sweeps: Sequence[Claimant],
    parties: Mapping[str, Party],
    given: Mapping[str, int],
) -> bool:
    """Whether the slots fit the cluster as a whole and every project's quota."""
    cpus, gpus = total(sweeps, given)
    if cpus > sum(n.cpus for n in nodes) or gpus > sum(n.gpus for n in nodes):
        return False
    for project, party in parties.items():
        own = [c for c in sweeps if c.project == project]
        if party.quota.gpus is not None and total(own, given)[1] > party.quota.gpus:
            return False
        if party.quota.trials is not None and sum(given[c.id] for c in own) > party.quota.trials:
            return False
        spent = party.quota.gpu_hours is not None and party.gpu_hours >= party.quota.gpu_hours
        if spent and any(given[c.id] for c in own if c.needs.gpus):
            return False
    return True


@settings(max_examples=100, deadline=None)
@given(clusters, claimants(), projects)
def test_no_share_exceeds_the_cluster_a_quota_or_a_sweeps_own_limit(
    nodes: list[Node], sweeps: list[Claimant], parties: dict[str, Party]
) -> None:
    shares = divide(nodes, sweeps, parties, QUANTUM)
    assert within(nodes, sweeps, parties, slots(shares))
    for c in sweeps:
        assert 0 <= shares[c.id].slots <= c.most
        assert (shares[c.id].why is None) == (shares[c.id].slots >= c.open_trials)


@settings(max_examples=100, deadline=None)
@given(clusters, claimants(), projects)
def test_nothing_that_somebody_could_use_is_left_idle(
    nodes: list[Node], sweeps: list[Claimant], parties: dict[str, Party]
) -> None:
    one_node = [Node(sum(n.cpus for n in nodes), sum(n.gpus for n in nodes))]
    given_out = slots(divide(one_node, sweeps, parties, QUANTUM))
    for c in sweeps:
        more = {**given_out, c.id: given_out[c.id] + 1}
        assert given_out[c.id] == c.most or not within(one_node, sweeps, parties, more)


@settings(max_examples=100, deadline=None)
@given(clusters, claimants(), projects)
def test_a_higher_priority_never_waits_for_a_lower(
    nodes: list[Node], sweeps: list[Claimant], parties: dict[str, Party]
) -> None:
    sweeps = [replace(c, uses=None) for c in sweeps]
    shares = divide(nodes, sweeps, parties, QUANTUM)
    for priority in {c.priority for c in sweeps}:
        among_their_betters = [c for c in sweeps if c.priority >= priority]
        alone = slots(divide(nodes, among_their_betters, parties, QUANTUM))
        assert alone == {c.id: shares[c.id].slots for c in among_their_betters}


@settings(max_examples=100, deadline=None)
@given(clusters, claimants(), projects)
def test_the_same_claims_get_the_same_slots_and_keep_them(
    nodes: list[Node], sweeps: list[Claimant], parties: dict[str, Party]
) -> None:
    sweeps = [replace(c, uses=None) for c in sweeps]
    once = divide(nodes, sweeps, parties, QUANTUM)
    assert once == divide(nodes, sweeps, parties, QUANTUM)
    kept = [replace(c, held=once[c.id].slots) for c in sweeps]
    assert slots(divide(nodes, kept, parties, QUANTUM)) == slots(once)


@settings(max_examples=100, deadline=None)
@given(clusters, claimants(), projects)
def test_what_is_granted_on_the_way_fits_beside_what_still_runs(
    nodes: list[Node], sweeps: list[Claimant], parties: dict[str, Party]
) -> None:
    shares = divide(nodes, sweeps, parties, QUANTUM)
    granted = admit(nodes, sweeps, parties, shares)
    occupied = {c.id: max(min(c.held, shares[c.id].slots), c.running) for c in sweeps}
    assert all(granted[c.id] <= shares[c.id].slots for c in sweeps)
    if any(granted[c.id] > occupied[c.id] for c in sweeps):
        assert within(
            nodes, sweeps, parties, {c.id: max(granted[c.id], occupied[c.id]) for c in sweeps}
        ) or not within(nodes, sweeps, parties, occupied)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([1.0, 2.0, 5.0])),
        min_size=1,
        max_size=7,
    ),
    st.sampled_from([1.0, 3.0]),
)
def test_in_the_long_run_every_sweep_gets_what_its_weight_gives_it(
    cpus: int, weights: list[tuple[str, float]], of_a: float
) -> None:
    sweeps = [sweep(f"s{n}", project=p, weight=w) for n, (p, w) in enumerate(weights)]
    parties = {"a": Party(weight=of_a), "b": Party()}
    had, _, first = run([Node(float(cpus))], sweeps, parties, 1800)
    there = {c.project for c in sweeps}
    for c in sweeps:
        inside = sum(o.weight for o in sweeps if o.project == c.project)
        fair = cpus * 1800 * c.weight / inside
        fair *= parties[c.project].weight / sum(parties[p].weight for p in there)
        assert had[c.id] == pytest.approx(fair, abs=6 * QUANTUM)
        assert c.id in first or fair < 6 * QUANTUM


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("cpus", "trials"),
    [
        ([6, 22], [*[Needs(1, 4.0)] * 4, *[Needs(3, 1.0)] * 4]),
        ([1, 1, 2, 4], [Needs(3, 1.0), Needs(5, 1.0)]),
    ],
)
def test_what_fits_does_not_depend_on_the_order_in_which_it_came(
    cpus: list[int], trials: list[Needs], order: int
) -> None:
    room = Room([Node(float(one)) for one in cpus])
    assert all(room.take(needs) for needs in trials[::order])
    assert room.cpus == pytest.approx(0.0)
    assert not room.take(Needs(1, 1.0))
