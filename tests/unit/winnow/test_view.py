"""What the terminal shows of a live sweep, and what it says at the end."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from winnow.cli.live import screen
from winnow.cli.report import report
from winnow.cli.tables import duration, number, trials_table
from winnow.cli.view import SweepView
from winnow.client import Update
from winnow.types import Event, Scores, Sweep, SweepState, SweepSummary, Trial, TrialState

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def trial(n: int, state: str, samples: int = 0, **changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "id": f"s-{n}",
        "sweep_id": "s",
        "number": n,
        "kind": "search",
        "state": state,
        "reason": None,
        "message": None,
        "params": {"learning_rate": 1e-4, "effective_batch_size": 16},
        "attempt": 1,
        "step": samples // 10,
        "total_steps": 10,
        "samples": samples,
        "total_samples": 100,
        "loss": 1.5,
        "grad_norm": 2.0,
        "eval_loss": None,
        "exact_match": None,
        "value": None,
        "seconds": 1.0,
        "checkpoint": None,
        "created_at": NOW,
        "started_at": NOW,
        "ended_at": None,
    }
    return Trial.model_validate(fields | changes)


def sweep(state: str = "RUNNING", planned: int = 4, **summary: Any) -> Sweep:
    fields: dict[str, Any] = {
        "trials": 4,
        "planned": planned,
        "by_state": {},
        "samples_trained": 150,
        "samples_full": 400,
        "seconds": 90.0,
        "best_trial": None,
        "best_value": None,
        "baseline": {},
        "winner": {},
    }
    return Sweep(
        id="s",
        name="tiny",
        state=SweepState(state),
        message=None,
        spec={},
        summary=SweepSummary.model_validate(fields | summary),
        created_at=NOW,
        started_at=NOW,
        ended_at=NOW + timedelta(seconds=75) if state != "RUNNING" else None,
    )


def view(*trials: Trial, of: Sweep | None = None) -> SweepView:
    shown = SweepView()
    shown.apply(Update("sweep", sweep=of or sweep()))
    shown.apply(Update("progress", trials=trials))
    return shown


def decision(action: str, reason: str, acted: bool = True) -> Update:
    data = {"number": 3, "action": action, "reason": reason, "acted": acted}
    event = Event(id=1, sweep_id="s", trial_id="s-3", type="decision", data=data, created_at=NOW)
    return Update("event", event=event)


def text_of(renderable: Any, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable, crop=False)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_progress_counts_ended_trials_whole_and_running_ones_in_part() -> None:
    shown = view(trial(0, "COMPLETED", 100), trial(1, "PRUNED", 10), trial(2, "RUNNING", 50))
    assert shown.progress() == 2.5 / 4


def test_trials_to_come_are_taken_to_be_as_long_as_those_that_were_judged() -> None:
    shown = view(trial(0, "COMPLETED", 100), trial(1, "PRUNED", 20), trial(2, "RUNNING", 30))
    # 150 samples took 75 s; one trial of 60 is to come, and half of another one.
    assert shown.seconds_left(NOW + timedelta(seconds=75)) == 45
    assert view(trial(0, "RUNNING", 50)).seconds_left(NOW + timedelta(seconds=60)) is None


def test_only_ended_trials_have_saved_compute() -> None:
    shown = view(trial(0, "COMPLETED", 100), trial(1, "PRUNED", 25), trial(2, "RUNNING", 10))
    assert shown.saved() == 0.25
    assert view(trial(2, "RUNNING", 10)).saved() is None


def test_running_trials_come_first_then_the_best_finished_ones() -> None:
    shown = view(
        trial(0, "PRUNED"),
        trial(1, "COMPLETED", eval_loss=2.0),
        trial(2, "COMPLETED", eval_loss=1.0),
        trial(3, "RUNNING"),
        trial(4, "COMPLETED", kind="baseline"),
    )
    assert [t.number for t in shown.ranked()] == [3, 2, 1, 0]


def test_the_screen_shows_trials_and_why_one_was_stopped() -> None:
    shown = view(trial(0, "RUNNING", 50, eval_loss=1.25), trial(3, "PRUNED", 10, reason="asha"))
    shown.apply(decision("stop", "held-out loss 3.1 is in the worse half"))
    shown.apply(decision("continue", "among the better half"))
    shown.apply(decision("stop", "recorded only", acted=False))
    text = text_of(screen(shown, height=40))
    assert "5/10" in text
    assert "1.25" in text
    assert "trial 3 stopped: held-out loss 3.1 is in the worse half" in text
    assert "among the better half" not in text
    assert "recorded only" not in text


def test_a_small_terminal_shows_the_trials_that_matter_most() -> None:
    shown = view(*(trial(n, "PRUNED") for n in range(30)), trial(30, "RUNNING"))
    text = text_of(screen(shown, height=14))
    assert len(text.splitlines()) <= 14
    assert "running" in text
    assert "… and 23 more" in text


def test_the_report_tells_what_was_found_stopped_and_saved() -> None:
    final = sweep(
        "COMPLETED",
        best_trial="s-2",
        baseline={"eval": Scores(loss=3.0, exact_match=0.0), "test": Scores(loss=3.1)},
        winner={"eval": Scores(loss=1.0, exact_match=0.75), "test": Scores(loss=1.1)},
    )
    trials = [
        trial(0, "PRUNED", reason="dynamics", message="norm far above its peers"),
        trial(1, "PRUNED", reason="dynamics"),
        trial(2, "COMPLETED", checkpoint="/ckpt/best"),
        trial(3, "FAILED", reason="diverged", message="loss was NaN at step 4"),
    ]
    text = text_of(report(final, trials, "http://127.0.0.1:1/#token=t"))
    assert "2: learning_rate 1.00e-04, effective_batch_size 16" in text
    assert "loss 3, exact match 0.0 %  →  loss 1, exact match 75.0 %" in text
    assert "loss 3.1  →  loss 1.1" in text
    assert "3 of 4 trials were stopped" in text
    assert "norm far above its peers" in text
    assert "loss was NaN at step 4" in text
    assert "62.5 %: 150 of 400 training samples" in text
    assert "/ckpt/best" in text
    assert "http://127.0.0.1:1/#token=t" in text


def test_what_is_to_be_copied_is_whole_on_a_narrow_terminal() -> None:
    folder = "/home/someone/winnow/sweeps/abcdefghij/trial-15/attempt-1/export"
    address = "http://127.0.0.1:8642/#token=wnw_" + "x" * 43
    final = sweep("COMPLETED", best_trial="s-0")
    text = text_of(report(final, [trial(0, "COMPLETED", checkpoint=folder)], address), width=40)
    assert folder in text
    assert address in text


def test_a_sweep_without_a_winner_is_told_plainly() -> None:
    text = text_of(report(sweep("CANCELED"), [trial(0, "CANCELED", reason="user")]))
    assert "ended as canceled" in text
    assert "No trial finished" in text


def test_text_of_others_is_never_taken_for_markup() -> None:
    odd = trial(0, "RUNNING", params={"schedule": "[bold]x[/]"}, reason="[/red]")
    text = text_of(trials_table([odd]), width=200)
    assert "[bold]x[/]" in text


def test_numbers_and_times_are_short() -> None:
    assert [number(v) for v in (None, 0.0, 2.34567, 1e-6, 123456.0)] == [
        "",
        "0",
        "2.346",
        "1.0e-06",
        "1.2e+05",
    ]
    assert [duration(s) for s in (4.2, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 5 min"]


def test_states_know_whether_they_are_final() -> None:
    assert TrialState.PRUNED.ended
    assert not TrialState.PAUSED.ended


def by_mmlu(state: str = "COMPLETED", **summary: Any) -> Sweep:
    found = sweep(state, best_trial="s-1", best_value=0.5, **summary)
    return found.model_copy(
        update={"spec": {"objective": {"metric": "lm_eval/mmlu/acc", "mode": "max"}}}
    )


def test_trials_are_ordered_and_named_by_what_they_are_judged_by() -> None:
    found = view(
        trial(0, "COMPLETED", 100, value=0.25, eval_loss=1.0),
        trial(1, "COMPLETED", 100, value=0.5, eval_loss=2.0),
        of=by_mmlu("RUNNING"),
    )
    assert [t.number for t in found.ranked()] == [1, 0]
    text = text_of(screen(found, 30), width=200)
    assert "best mmlu acc 50.0 %" in text
    header, first = (line for line in text.splitlines() if "rate" in line or "25.0 %" in line)
    assert "mmlu acc" in header
    assert "25.0 %" in first


def test_the_report_tells_benchmarks_and_retention_before_and_after() -> None:
    final = by_mmlu(
        baseline={
            "general": Scores(loss=2.0),
            "lm_eval": Scores(scores={"mmlu/acc,none": 0.25, "mmlu/acc_stderr,none": 0.01}),
        },
        winner={
            "general": Scores(loss=2.5),
            "lm_eval": Scores(scores={"mmlu/acc,none": 0.5}),
            "judge": Scores(scores={"mt_bench/score": 6.8}),
        },
    )
    best = trial(1, "COMPLETED", value=0.5)
    lines = [" ".join(line.split()) for line in text_of(report(final, [best])).splitlines()]
    assert "Chosen by mmlu acc 50.0 %" in lines
    assert "General text loss 2 → loss 2.5" in lines
    assert "mmlu/acc 25.0 % → 50.0 %" in lines
    assert "mt_bench/score not measured → 6.8" in lines
    assert not any("stderr" in line for line in lines)


def test_the_report_shows_the_trials_that_no_other_beats_in_everything() -> None:
    final = sweep("COMPLETED", best_trial="s-1", front=["s-1", "s-0"])
    objective = {"metric": "eval/loss", "also": [{"metric": "judge/score", "mode": "max"}]}
    final = final.model_copy(update={"spec": {"objective": objective}})
    trials = [
        trial(0, "COMPLETED", value=2.0, also={"judge/score": 7.5}),
        trial(1, "COMPLETED", value=1.5, also={"judge/score": 6.0}),
        trial(2, "COMPLETED", value=3.0, also={"judge/score": 5.0}),
    ]
    lines = [" ".join(line.split()) for line in text_of(report(final, trials)).splitlines()]
    assert "2 trials that no other beats in everything" in lines
    at = lines.index("trial held-out loss judge score")
    assert lines[at + 1 : at + 3] == ["1 1.5 6", "0 2 7.5"]
    table = text_of(trials_table(trials, further=["judge/score"], front=final.summary.front), 160)
    assert [line.count("●") for line in table.splitlines()] == [0, 1, 1, 0]


ACCOUNT = {
    "scheduler": "dynamics",
    "announced_risk": 0.05,
    "risk_taken": 0.012,
    "weights": {"held_out": 1.0, "norm_and_loss": 0.21, "interval": [0.05, 0.4]},
    "audit": {
        "audited_stops": 12,
        "needed": 8,
        "false_stops": 1,
        "rate": 1 / 12,
        "interval": [0.02, 0.3],
    },
    "guard": {"state": "fired", "p": 0.4, "text": "early ranks do not tell the end"},
    "paper_sign": {"agrees": None, "partial": 0.12, "interval": [-0.2, 0.4], "text": "unsure"},
    "transfer": {"sweeps": 3, "weight": 0.4},
}


def test_the_report_ends_with_what_the_scheduler_says_of_its_evidence() -> None:
    final = sweep("COMPLETED").model_copy(update={"scheduler_summary": ACCOUNT})
    lines = [" ".join(line.split()) for line in text_of(report(final, []), 200).splitlines()]
    assert lines[lines.index("Early decisions") + 1 :] == [
        "Risk 5.0 % announced, 1.2 % taken (of losing the best)",
        "Norm and loss weight 0.21 (0.05 to 0.4), beside held-out loss with 1",
        "Audit 1 of 12 audited stops would have lost the best: 8.3 % (2.0 % to 30.0 %)",
        "Guard fired: early ranks do not tell the end",
        "Paper's sign unsure (partial correlation 0.12, -0.2 to 0.4)",
        "Transfer started from 3 earlier sweeps, with weight 0.4",
    ]


def test_too_few_audits_are_said_to_be_too_few() -> None:
    audit = {"audited_stops": 2, "needed": 8, "note": "not enough audits (2)"}
    final = sweep("COMPLETED").model_copy(update={"scheduler_summary": {"audit": audit}})
    assert "not enough audits (2); a rate takes 8" in text_of(report(final, []), 200)


@pytest.mark.parametrize(
    "said",
    [None, {}, {"scheduler": "asha"}, {"guard": None, "weights": [], "audit": {"rate": "?"}}],
)
def test_a_scheduler_that_says_nothing_leaves_no_heading(said: Any) -> None:
    final = sweep("COMPLETED").model_copy(update={"scheduler_summary": said})
    assert "Early decisions" not in text_of(report(final, []))
