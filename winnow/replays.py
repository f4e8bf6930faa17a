"""What the API tells of a replay: an ended sweep under another scheduler."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from winnow.types import Model

Fate = Literal["kept", "stopped", "failed", "unknown"]


class ReplayedTrial(Model):
    """What another rule would have made of a trial.

    `fate`: it runs to its end (`kept`), the rule ends it (`stopped`), it diverges or fails before
    that (`failed`), or the rule lets it go on past all that was recorded of it (`unknown`).
    """

    trial_id: str
    number: int
    fate: Fate
    censored: bool
    """It was ended early when the sweep ran, so its own end isn't known."""
    samples: int
    """Where the replay leaves it."""
    recorded_samples: int
    total_samples: int
    value: float | None
    """The objective, as measured."""
    rule: str | None = None
    reason: str | None = None
    """Of the decision that stopped it."""


class RandomChoice(Model):
    """Random search at the replay's compute: `trials` of the sweep's trials, picked blindly and run
    whole (K, not a whole number in general).

    With n trials of which m have a value, v₁ ≤ … ≤ v_m best first, and K of them drawn without
    replacement, the best drawn is vᵢ with probability pᵢ = C(n−i, K−1) / C(n, K), and none drawn
    has a value with probability p₀ = C(n−m, K) / C(n, K). So `value` = Σ vᵢ pᵢ / (1 − p₀), and the
    chance that the very best is drawn, `best_kept`, is K / n. Between whole K, linear.
    """

    trials: float
    best_kept: float
    value: float | None
    regret: float | None


class Replay(Model):
    """A finished sweep under another scheduler: what that would have saved, and lost.

    Shares, seconds and hours are of the trials whose fate is known, and net of what the rule costs:
    its evaluations and pauses.
    """

    sweep_id: str
    scheduler: dict[str, Any]
    seed: int
    workers: int
    metric: str
    mode: Literal["min", "max"]
    trials: int
    completed: int
    """Trials that had run to their end when the sweep ran, and have a value."""
    censored: int
    stopped: int
    unknown: int
    samples_trained: int
    samples_full: int
    seconds: float
    seconds_full: float
    """Worker time, under the rule and with every trial run to its end. What a censored trial would
    still have taken is estimated by its own pace."""
    saved: float
    """1 − seconds / seconds_full."""
    saved_at_least: float
    """The same if each trial of unknown fate had run to its end."""
    device: Literal["GPU", "CPU"]
    device_hours: float
    device_hours_full: float
    wall_seconds: float
    wall_seconds_full: float
    """With `workers` trials at once."""
    best_trial: str
    best_value: float
    """Of the trials that completed when the sweep ran."""
    best_kept: bool
    """Whether the replay's choice is as good as that."""
    chosen_trial: str | None
    """What the replay would have chosen; null if nothing completes in it."""
    chosen_value: float | None
    regret: float | None
    """How much worse it is than the best, in the objective's units; 0 if it is kept."""
    front: list[str] = Field(default=[])
    front_kept: list[str] = Field(default=[])
    """With several objectives: the completed trials that no other beats in all of them, and those
    of them that the replay runs to their end."""
    random: RandomChoice
    notes: list[str]
    """What has to be known to read this right."""
    outcomes: list[ReplayedTrial]
