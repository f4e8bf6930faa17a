from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from orchestrator.schedulers import Action, make_scheduler
from orchestrator.schedulers.audit import AuditedStop, coin, false_stops
from orchestrator.schedulers.outcome_model import Example, early_features, fit_outcomes
from orchestrator.schedulers.simulate import Recorded, simulate
from orchestrator.schedulers.transfer import DynamicsPrior, Prior, broad, default_prior, learn
from winnow.spec import SchedulerSpec


def run(recorded: list[Recorded], workers: int = 2, **settings):
    scheduler = make_scheduler(SchedulerSpec(**settings), 0)
    return scheduler, simulate(
        scheduler,
        recorded,
        workers=workers,
        act=settings.get("mode") != "shadow",
        batch_seconds=0.2,
    )


def test_is_the_default() -> None:
    assert make_scheduler(SchedulerSpec(), 0).name == "dynamics"


def test_where_norm_and_loss_weigh_nothing_it_ranks_as_asha_does(sweep) -> None:
    """Seven steps a trial: too few for a feature."""
    recorded = sweep(16, seed=1, batches=(240,))
    (_, ours), (_, asha) = run(recorded, mode="shadow"), run(recorded, name="asha", mode="shadow")
    fields = ("rank", "peers", "quota", "held_out_loss")
    places = [
        {(d.trial_id, d.evidence["point"]): [d.evidence[f] for f in fields] for d in side.decisions}
        for side in (
            replace(ours, decisions=[d for d in ours.decisions if d.rule != "first-rung"]),
            asha,
        )
    ]
    assert len(places[0]) == 48
    assert places[0] == places[1]
    assert {d.evidence.get("dynamics_weight", 0.0) for d in ours.decisions} == {0.0}


def test_the_first_rung_ends_nobody_before_norm_and_loss_have_foretold_anything(
    telling_sweep,
) -> None:
    untaught = broad()
    scheduler = make_scheduler(SchedulerSpec(), 0, untaught)
    result = simulate(scheduler, telling_sweep(24, seed=1), workers=4, batch_seconds=0.2)
    early = [d for d in result.decisions if d.rule == "first-rung"]
    unproven = [d for d in early if not d.evidence["may_pause"]]
    assert len(unproven) >= 4
    assert all(d.action is Action.CONTINUE for d in unproven)


def test_the_first_rung_is_judged_before_any_evaluation_and_says_what_is_missing(
    telling_sweep,
) -> None:
    _, result = run(telling_sweep(8, seed=1), workers=1)
    first = next(d for d in result.decisions if d.rule == "first-rung")
    assert first.samples < 0.125 * 1600
    assert first.action is Action.CONTINUE
    assert "0 peers" in first.reason


def test_norms_that_tell_the_end_pause_once_this_sweep_has_confirmed_it(telling_sweep) -> None:
    told = replace(
        default_prior(),
        dynamics=DynamicsPrior({"log_norm_mean": 0.9}, weight=0.3, quality=0.95),
    )
    recorded = telling_sweep(90, 0)
    scheduler = make_scheduler(SchedulerSpec(risk=0.5, audit=0.0), 0, told)
    result = simulate(scheduler, recorded, workers=2, batch_seconds=0.2)
    early = [d for d in result.decisions if d.rule == "first-rung"]
    spoke = [d for d in early if d.action is Action.PAUSE]
    assert spoke
    for decision in spoke:
        assert decision.evidence["probability"] < decision.evidence["threshold"]
        assert decision.code == "dynamics"
    assert all(d.action is Action.CONTINUE for d in early if not d.evidence["may_pause"])
    assert result.best is not None


def test_norms_that_tell_nothing_rarely_get_a_say(sweep) -> None:
    spoken = judged = 0
    for seed in range(4):
        _, result = run(sweep(24, seed=seed, scatter=0.3), workers=2)
        early = [d for d in result.decisions if d.rule == "first-rung" and d.evidence["outcomes"]]
        judged += len(early)
        spoken += sum(d.action is Action.PAUSE for d in early)
    assert judged > 40
    assert spoken < 0.1 * judged


def test_a_rate_near_zero_is_marked_and_gets_no_credit_for_its_low_norm(trial) -> None:
    learning = [trial(n, final=1.0 + 0.05 * n, batch=4, noise=0.2, norm=2.0) for n in range(7)]
    idle = trial(7, final=3.99, start=4.0, batch=4, noise=0.2, norm=0.01)
    scheduler = make_scheduler(SchedulerSpec(first_rung=0.12), 0)
    decision = None
    for recorded in [*learning, idle]:
        scheduler.add(recorded.info)
        decision = scheduler.observe(recorded.info.id, recorded.steps[:49], [])
    assert decision is not None
    assert decision.rule == "first-rung"
    assert decision.evidence["underfit"] is True
    assert decision.evidence["queue_score"] >= 0
    assert decision.evidence["predicted"] >= 0
    assert decision.action is Action.CONTINUE
    assert "hardly learns" in decision.reason


def test_every_decision_is_json_and_carries_what_it_rests_on(sweep) -> None:
    _, result = run(sweep(16, seed=2), audit=0.3)
    for decision in result.decisions:
        json.dumps(decision.evidence, allow_nan=False)
        assert decision.reason
        assert "\n" not in decision.reason
        assert {"point", "gates", "coin", "audit", "peers", "features"} <= set(decision.evidence)
    assert {d.evidence["audit"]["note"] for d in result.decisions if "note" in d.evidence["audit"]}


def test_an_audited_trial_is_never_ended_by_the_model_but_by_the_gate(sweep) -> None:
    recorded = sweep(16, seed=3)
    audited = {r.info.id for r in recorded if coin(0, r.info.number) < 0.5}
    broken = next(r for r in recorded if r.info.id in audited)
    hurt = replace(broken, steps=(*broken.steps[:20], replace(broken.steps[20], loss=None)))
    _, result = run([hurt if r is broken else r for r in recorded], audit=0.5)
    for trial_id in audited - {broken.info.id}:
        assert result.trials[trial_id].state == "COMPLETED"
    assert result.trials[broken.info.id].reason == "diverged"
    spared = [d for d in result.decisions if "would" in d.evidence]
    assert spared
    assert {d.trial_id for d in spared} <= audited
    assert all(d.action is Action.CONTINUE and "audited" in d.reason for d in spared)


def test_the_audit_reports_a_rate_only_with_enough_audits(sweep) -> None:
    scheduler, _ = run(sweep(16, seed=3), audit=0.2)
    assert scheduler.audit()["note"].startswith("not enough audits (")  # type: ignore[attr-defined]
    stops = [AuditedStop(f"t{n}", 2.0 + n) for n in range(9)] + [AuditedStop("t9", 0.5)]
    report = false_stops(stops, best=1.0)
    assert report["rate"] == pytest.approx(0.1)
    low, high = report["interval"]
    assert 0 < low < 0.1 < high < 0.4
    assert report["interval"] == pytest.approx([0.0333, 0.3644], abs=1e-3)  # Beta(2, 10)


def test_shadow_mode_judges_every_point_and_touches_nobody(sweep) -> None:
    _, result = run(sweep(8, seed=5), mode="shadow")
    assert result.saved == 0
    assert {t.state for t in result.trials.values()} == {"COMPLETED"}
    at_rungs = [d for d in result.decisions if d.rule != "first-rung"]
    assert len(at_rungs) == 8 * 3
    assert any(d.action is Action.PAUSE for d in at_rungs)
    assert all(d.evidence["mode"] == "shadow" for d in result.decisions)


# --- the model of the outcome ---------------------------------------------------------------------


def test_features_leave_warmup_out_and_need_eight_steps(trial) -> None:
    steps = trial(0, batch=16, warmup=10).steps
    assert early_features(steps[:7]) is None
    features = early_features(steps[:24])
    assert features is not None
    assert features["loss_mean"] == pytest.approx(
        sum(s.loss or 0 for s in steps[4:24]) / 20
    )  # from half of the full rate on


def test_with_no_outcome_the_model_is_the_paper_s_sign_at_a_small_weight(trial) -> None:
    low_norm, high_norm = (
        Example(early_features(trial(0, norm=norm, seed=1).steps[:20]), {}) for norm in (0.1, 10)
    )
    fit = fit_outcomes([low_norm, high_norm])
    assert fit.mean[0] < fit.mean[1]
    assert abs(fit.mean[0]) < 0.2
    assert not fit.earned


def test_what_it_says_of_a_trial_does_not_rest_on_that_trial_s_own_outcome(trial) -> None:
    rng = random.Random(1)
    known = [
        Example(
            early_features(trial(n, norm=math.exp(rng.gauss(0, 1)), seed=n).steps[:20]),
            {"learning_rate": math.exp(rng.gauss(0, 1)), "effective_batch_size": 16},
            rng.gauss(0, 1),
            rng.choice([0.35, 1.0]),
        )
        for n in range(12)
    ]
    fit = fit_outcomes(known)
    for n in range(12):
        without = fit_outcomes(
            [replace(e, outcome=None, weight=0.0) if i == n else e for i, e in enumerate(known)]
        )
        assert fit.mean[n] == pytest.approx(without.mean[n])


def test_signs_are_learned_and_rate_explains_away_what_is_its_doing(trial) -> None:
    rng = random.Random(0)

    def examples(tells: str) -> list[Example]:
        made = []
        for n in range(24):
            outcome = rng.gauss(0, 1)
            cause = outcome if tells == "norm" else rng.gauss(0, 1)
            rate = math.exp(rng.gauss(0, 1)) if tells == "norm" else math.exp(outcome)
            steps = trial(n, norm=math.exp(-cause) * rate, seed=n, batch=64).steps[:20]
            made.append(Example(early_features(steps), {"learning_rate": rate}, outcome, 1.0))
        return made

    by_norm = fit_outcomes(examples("norm"))
    assert by_norm.earned
    assert by_norm.coefficients["log_norm_mean"] < 0  # against the paper's sign
    by_rate = fit_outcomes(examples("rate"))
    assert by_rate.errors["rate_and_batch"] < by_rate.errors["null"]
    assert not by_rate.earned


# --- risk, guard, transfer ------------------------------------------------------------------------


def shuffled_ends(recorded: list[Recorded], seed: int) -> list[Recorded]:
    """The same curves, with outcomes that have nothing to do with them."""
    values = [r.value for r in recorded]
    random.Random(seed).shuffle(values)
    return [replace(r, value=v) for r, v in zip(recorded, values, strict=True)]


def test_a_higher_risk_saves_more(sweep) -> None:
    recorded = sweep(24, seed=4, scatter=0.4)
    saved = [run(recorded, risk=risk)[1].saved for risk in (0.01, 0.1, 0.5)]
    assert saved[0] < saved[1] < saved[2]


def test_where_early_losses_tell_nothing_hardly_anybody_is_ended(sweep) -> None:
    for seed in (0, 1, 3):
        telling = sweep(24, seed=seed)
        _, true = run(telling)
        scheduler, result = run(shuffled_ends(telling, seed))
        ended = sum(t.reason in ("asha", "dynamics") for t in result.trials.values())
        assert result.saved < 0.5 * true.saved
        assert ended <= 24 / 4
        assert scheduler.summary()["persistence"]["mean"] < 0.3  # type: ignore[attr-defined]


def test_the_guard_fires_and_calls_everybody_back(sweep) -> None:
    """Ends run against the beginnings: the first held-out losses are the wrong way round."""
    recorded = sweep(24, seed=2)
    order = sorted(recorded, key=lambda r: r.value or 0.0)
    against = [replace(r, value=o.value) for r, o in zip(order, reversed(order), strict=True)]
    against.sort(key=lambda r: r.info.number)
    scheduler, result = run(against, audit=0.3)
    assert scheduler.summary()["guard"]["state"] == "fired"  # type: ignore[attr-defined]
    called = [d for d in result.decisions if d.rule == "guard"]
    assert called
    assert all(d.action in (Action.RESUME, Action.CONTINUE) for d in called)
    assert {t.state for t in result.trials.values()} == {"COMPLETED"}


def test_everybody_gets_to_the_first_evaluation_before_anybody_goes_on(sweep) -> None:
    _, result = run(sweep(16, seed=8), workers=2)
    at_first = [n for n, d in enumerate(result.decisions) if d.evidence["point"] == "0"]
    back = [n for n, d in enumerate(result.decisions) if d.action is Action.RESUME]
    judged = {result.decisions[n].trial_id for n in at_first if n < back[1]}
    assert len(judged) >= 15  # a second worker may go on while the last trial is on its way
    gathered = [d for d in result.decisions if d.rule == "gather"]
    assert all(d.action is Action.PAUSE and "still to get there" in d.reason for d in gathered)
    assert len(gathered) >= 14


def test_the_best_of_each_batch_size_goes_on_while_it_may_win(trial) -> None:
    """Large batches start slowly: all of them are behind at the first rung."""
    recorded = [trial(n, final=1.5 + 0.05 * n, batch=16, rate=1e-4) for n in range(9)] + [
        trial(n, final=1.4 + 0.05 * n, batch=64, rate=1e-4, crossing=1.5) for n in range(9, 12)
    ]
    scheduler = make_scheduler(SchedulerSpec(audit=0.0), 0, broad())
    result = simulate(scheduler, recorded, workers=1)
    survivors = [d for d in result.decisions if d.rule == "survivor"]
    assert survivors
    assert {d.trial_id for d in survivors} & {"t9", "t10", "t11"}
    assert any("batch size" in d.reason for d in survivors)


def test_a_trial_goes_on_only_while_the_best_could_be_lost_without_it(sweep) -> None:
    _, result = run(sweep(24, seed=6, scatter=0.6), workers=1, risk=0.02)
    called = [d for d in result.decisions if d.action is Action.RESUME]
    assert {"promotion", "risk", "survivor", "last-standing"} >= {d.rule for d in called}
    at_least = {"promotion": 0.2 * 0.02, "last-standing": 0.02, "risk": 0.02, "survivor": 0.02}
    assert all(d.evidence["risk_taken"] > at_least[d.rule] for d in called)
    assert called
    ends = [d for d in result.decisions if d.action is Action.STOP]
    assert ends
    assert ends[-1].evidence["risk_taken"] <= 0.02


def test_what_earlier_sweeps_showed_saves_more_in_the_next(sweep) -> None:
    prior = learn([sweep(24, seed=s) for s in range(10, 16)], broad())
    assert prior.sweeps == 6
    saved = {"fresh": 0.0, "taught": 0.0}
    for seed in range(3):
        for name, known in (("fresh", broad()), ("taught", prior)):
            scheduler = make_scheduler(SchedulerSpec(), 0, known)
            result = simulate(scheduler, recorded := sweep(24, seed=seed), workers=2)
            assert result.best == min(recorded, key=lambda r: r.value or 0.0).info.id
            saved[name] += result.saved
    assert saved["taught"] > saved["fresh"] + 0.1
    assert Prior.of_json(json.loads(json.dumps(prior.to_json()))).to_json() == prior.to_json()


def test_earlier_benchmarks_that_losses_did_not_foretell_teach_caution(sweep) -> None:
    """Where the outcome is a benchmark: in these sweeps one that held-out losses do foretell."""
    prior = learn([shuffled_ends(sweep(24, seed=s), s) for s in range(10, 14)])
    saved = {"fresh": 0.0, "warned": 0.0}
    for seed in range(3):
        benchmark = [replace(r, value=10 * (r.value or 0.0)) for r in sweep(24, seed=seed)]
        for name, known in (("fresh", None), ("warned", prior)):
            scheduler = make_scheduler(SchedulerSpec(), 0, known)
            saved[name] += simulate(scheduler, benchmark, workers=2).saved
    assert saved["warned"] < saved["fresh"]


def test_with_two_objectives_who_may_be_on_the_front_is_not_ended(sweep) -> None:
    """The further objective is best where the first is worst: everybody is on the front."""
    recorded = [replace(r, also=(-(r.value or 0.0),)) for r in sweep(12, seed=1)]
    _, single = run(sweep(12, seed=1), workers=1)
    _, both = run(recorded, workers=1)
    assert single.saved > 0.3
    assert both.saved < 0.6 * single.saved


def test_the_summary_is_json_and_says_what_the_page_shows(sweep) -> None:
    scheduler, _ = run(sweep(16, seed=2), audit=0.2)
    summary = scheduler.summary()  # type: ignore[attr-defined]
    json.dumps(summary, allow_nan=False)
    assert {
        "weights",
        "announced_risk",
        "risk_taken",
        "guard",
        "audit",
        "paper_sign",
        "transfer",
        "saved",
        "persistence",
    } <= set(summary)
    assert 0.0 <= summary["risk_taken"] <= summary["announced_risk"]
    assert summary["saved"]["share"] > 0
