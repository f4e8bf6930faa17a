"""The gradient of one effective batch: its micro-batches one after the other, on all ranks.

Whatever one rank alone could decide (its clock, what `control` tells it, an error, a lack of
memory) is put to a vote, so no rank waits for one that has left. Ranks wait for one another in a
vote; so there is one after each step, and within a step only about every `VOTE_SECONDS`.

When memory runs out, the effective batch is made again in smaller micro-batches: the update is the
same. That works where gradients are reduced after the last micro-batch (ZeRO 0 and 1). Under ZeRO
2 and 3 the other ranks are inside the failed one's reductions, so the process ends, and leaves a
note of the cap that the next one is to use.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from trainer import engine
from trainer.attention import MicroBatch, attending
from trainer.batches import Batches, Step
from trainer.config import TrainConfig
from trainer.errors import RankFailed, as_failure
from trainer.fit import find_cap, halved
from trainer.metrics import Failure

Verdict = Literal["go", "pause", "stop"]
Control = Callable[[], Verdict]
Guard = Callable[[MicroBatch], None]

UNPROBED = 16_384
"""Tokens of a micro-batch where memory use can't be measured; more would hardly be faster."""
MOST_PROBED = 262_144
VOTE_SECONDS = 0.5
"""How long a wish may go unheard within a step, if micro-batches aren't longer than that."""
_NOTE = "out_of_memory.json"


@dataclass(frozen=True, slots=True)
class Watch:
    """What the caller of a step waits for: its wish, a time to come back, a time to save.

    `deadline` and `save_at` by `time.monotonic`; rank 0's count.
    """

    control: Control
    deadline: float
    save_at: float


@dataclass(frozen=True, slots=True)
class Small:
    """Gradients of single micro-batches, of `count` ranks: the mean of their squared norms, and of
    1 / (samples that each is worth)."""

    square: float = 0.0
    per_sample: float = 0.0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Votes:
    """What all ranks agreed on; `failure` is this rank's own. `loss` is summed over ranks."""

    loss: float = 0.0
    verdict: Verdict = "go"
    failed: bool = False
    out_of_memory: bool = False
    """Every rank that failed did so for lack of memory."""
    failure: Failure | None = None
    late: bool = False
    save: bool = False
    seconds: float = 0.0
    """Mean duration of a micro-batch."""
    small: Small = Small()

    def shared_failure(self) -> Failure:
        """The first rank's failure, told to all. All ranks together, after `failed`."""
        told = engine.gather(self.failure)
        rank, failure = next((r, f) for r, f in enumerate(told) if f is not None)
        return replace(failure, message=f"{failure.message} (rank {rank})") if rank else failure


@dataclass(frozen=True, slots=True)
class Accumulated:
    """The gradient of `step`, if it is `done`; else nothing. `data_wait` in seconds."""

    step: Step
    votes: Votes
    data_wait: float
    done: bool

    def gradient_parts(self, norm: float | None) -> tuple[float | None, float | None]:
        """‖G‖² and tr Σ per sample, from the norm of the whole gradient and of parts of it.

        Both expected squared norms are ‖G‖² + tr Σ / samples (arXiv 1812.06162, appendix A.1).
        """
        part = self.votes.small
        if norm is None or not part.count:
            return None, None
        whole = 1.0 / (self.step.stop - self.step.start)
        if part.per_sample <= whole * 1.01:  # the part is the whole
            return None, None
        noise = (part.square - norm**2) / (part.per_sample - whole)
        return norm**2 - noise * whole, noise


class Accumulator:
    """Accumulates gradients in an engine.

    Args:
        config: the run.
        owner: where gradients accumulate.
        batches: what steps consist of. Its cap is lowered when memory runs out.
        longest: tokens of the longest sample.
        dropout: the model has dropout, which is seeded anew for each step.
        guard: called with each micro-batch before it is trained on; may raise.
        resume_from: the checkpoint that the run goes on from.

    `news` holds facts that have come up since it was last emptied.
    """

    def __init__(
        self,
        config: TrainConfig,
        owner: engine.Engine,
        batches: Batches,
        *,
        longest: int,
        dropout: bool,
        guard: Guard | None,
        resume_from: Path | None,
    ) -> None:
        self._config = config
        self._engine = owner
        self._batches = batches
        self._longest = longest
        self._dropout = dropout
        self._guard = guard
        self._reduces_in_backward = owner.stage >= 2
        self._output = Path(config.output_dir).expanduser()
        self._vote_every = 1
        """Micro-batches between two votes; follows from their duration, alike on all ranks."""
        self.news: dict[str, Any] = {}
        left = engine.gather(_left_cap(self._output, resume_from))[0]
        if left is not None:
            self._set_cap(max(longest, min(batches.cap, left)), "in an earlier process")
        elif config.max_tokens_per_microbatch == "auto":
            self._probe()

    def accumulate(self, number: int, start: int, watch: Watch) -> Accumulated:
        """Forward and backward of step `number` (from 0), which begins after `start` samples.

        Nothing has been accumulated if it was called off or failed.
        """
        while True:
            made = self._attempt(number, start, watch)
            if made.done or not made.votes.out_of_memory or not self._lower_cap(number):
                return made

    def vote(
        self,
        watch: Watch,
        loss: float = 0.0,
        failure: Failure | None = None,
        small: Small | None = None,
        seconds: float = 0.0,
    ) -> Votes:
        """Agree with all ranks. Time is rank 0's; a stop outweighs a pause.

        Args:
            watch: what the caller waits for.
            loss: this rank's summed loss.
            failure: why this rank can't go on.
            small: this rank's part of a gradient.
            seconds: what one micro-batch took on this rank.
        """
        leads, now = engine.rank() == 0, time.monotonic()
        wish, small = watch.control(), small or Small()
        total, took, pause, stop, failed, exhausted, late, save, square, per_sample, count = (
            engine.sum_over_ranks(
                loss,
                seconds,
                wish == "pause",
                wish == "stop",
                failure is not None,
                failure is not None and failure.code == "oom",
                leads and now >= watch.deadline,
                leads and now >= watch.save_at,
                small.square,
                small.per_sample,
                small.count,
            )
        )
        return Votes(
            loss=total,
            verdict="stop" if stop else "pause" if pause else "go",
            failed=bool(failed),
            out_of_memory=0 < failed == exhausted,
            failure=failure,
            late=bool(late),
            save=bool(save),
            seconds=took / engine.world_size(),
            small=Small(square / count, per_sample / count, int(count)) if count else Small(),
        )

    # --- one effective batch ------------------------------------------------------------------

    def _attempt(self, number: int, start: int, watch: Watch) -> Accumulated:
        began = time.monotonic()
        step = self._batches.step(number, start)
        data_wait = time.monotonic() - began
        if self._dropout:
            seed = (self._config.seed * 1_000_003 + number) * 4_099 + engine.rank()
            torch.manual_seed(seed)
        small, votes = Small(), Votes()
        failure: Failure | None = None
        loss = torch.zeros((), dtype=torch.float64, device=engine.device())
        ahead: MicroBatch | None = None
        since, done = time.monotonic(), 0
        for turn in range(step.rounds):
            if turn < len(step.mine) and failure is None:
                try:
                    waited = time.monotonic()
                    batch = ahead or self._batches.tensors(step.mine[turn], engine.device())
                    data_wait += time.monotonic() - waited
                    loss += self._micro_batch(batch, step.targets)
                    if turn == 0:
                        small = self._small(len(batch.targets), step)
                    waited = time.monotonic()
                    ahead = None  # made while a GPU computes
                    if turn + 1 < len(step.mine):
                        ahead = self._batches.tensors(step.mine[turn + 1], engine.device())
                    data_wait += time.monotonic() - waited
                except Exception as error:
                    failure = as_failure(error)
                    if self._reduces_in_backward:
                        raise RankFailed(self._for_the_next(failure)) from error
            done += 1
            last = turn == step.rounds - 1
            if not last and (turn + 1) % self._vote_every:
                continue
            value = float(loss)  # waits for the device
            each = (time.monotonic() - since) / done
            votes = self.vote(watch, value, failure, small, each)
            since, done = time.monotonic(), 0
            if votes.failed or (votes.verdict != "go" and not last):
                ahead = None
                self._engine.discard()
                return Accumulated(step, votes, data_wait, done=False)
        self._vote_every = max(1, int(VOTE_SECONDS / max(votes.seconds, 1e-4)))
        return Accumulated(step, votes, data_wait, done=True)

    def _micro_batch(self, batch: MicroBatch, targets: int) -> torch.Tensor:
        """Forward and backward of one micro-batch; its summed loss, (), still on the device."""
        if self._guard is not None:
            self._guard(batch)
        with attending(batch.segments):  # backward too: activation checkpointing runs forward there
            loss = self._engine.forward(batch)
            self._engine.backward(loss, targets)
        return loss.detach()

    def _small(self, targets: int, step: Step) -> Small:
        """The mean gradient of this rank's first micro-batch, which has `targets` targets."""
        if not targets or targets == step.targets:  # nothing, or all there is
            return Small()
        square = self._engine.gradient_square()
        if square is None:
            return Small()
        # What has been accumulated is a sum over target tokens times ranks / all targets.
        scale = step.targets / (engine.world_size() * targets)
        samples = (step.stop - step.start) * targets / step.targets
        return Small(square=square * scale**2, per_sample=1.0 / samples, count=1)

    # --- memory -------------------------------------------------------------------------------

    def _lower_cap(self, number: int) -> bool:
        """Halve the cap on all ranks alike. False if no smaller one can help."""
        cap = halved(self._batches.cap, self._longest)
        if cap is None or self._config.batching == "paper":
            return False
        self._set_cap(cap, f"at step {number + 1}")
        return True

    def _set_cap(self, cap: int, ran_out: str = "") -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._batches.cap = cap
        self.news["max_tokens_per_microbatch"] = cap
        if ran_out:
            self.news["out_of_memory"] = ran_out

    def _for_the_next(self, failure: Failure) -> Failure:
        """`failure`, and for a lack of memory a note of the cap that the next process is to use."""
        cap = halved(self._batches.cap, self._longest) if failure.code == "oom" else None
        if cap is None:
            return failure
        self._output.mkdir(parents=True, exist_ok=True)
        note = self._output / _NOTE
        beside = note.with_suffix(f".{engine.rank()}")
        beside.write_text(json.dumps({"max_tokens_per_microbatch": cap}), encoding="utf-8")
        beside.replace(note)
        return replace(
            failure,
            message=f"out of memory; started again, the run goes on from its last checkpoint with "
            f"max_tokens_per_microbatch = {cap:,}",
        )

    def _probe(self) -> None:
        """Find the cap by training on micro-batches of the longest samples, without an update."""
        began = time.monotonic()
        most = MOST_PROBED if torch.cuda.is_available() else UNPROBED
        most = min(most, self._batches.largest_share())
        self._set_cap(find_cap(self._try, longest=self._longest, most=most))
        self.news["probe_seconds"] = round(time.monotonic() - began, 3)

    def _try(self, tokens: int) -> float | None:
        """Share of memory that a micro-batch of `tokens` uses on the fullest rank.

        0 where it can't be measured; None if it ran out.
        """
        failure: Failure | None = None
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            batch = self._batches.tensors(self._batches.longest(tokens), engine.device())
            self._micro_batch(batch, max(1, len(batch.targets)))
        except Exception as error:
            failure = as_failure(error)
            if self._reduces_in_backward:
                raise RankFailed(failure) from error
            if failure.code != "oom":
                raise
        self._engine.discard()
        share = 0.0
        if gpu:
            total = torch.cuda.get_device_properties(engine.device()).total_memory
            share = (torch.cuda.max_memory_reserved() + self._to_come()) / total
        used = engine.max_over_ranks(2.0 if failure else share)
        return used if used <= 1.0 else None

    def _to_come(self) -> float:
        """Bytes that the optimizer takes on this GPU in the first step: two fp32 moments."""
        if self._config.offload != "none":
            return 0.0
        return 8.0 * self._engine.parameters / engine.world_size()


def _left_cap(output: Path, resume_from: Path | None) -> int | None:
    """The cap that an earlier process of this run left after it ran out of memory."""
    places = [output]
    if resume_from is not None:  # OUTPUT/checkpoints/step-N, or a folder above it
        places += [resume_from, *resume_from.parents[:2]]
    for place in places:
        try:
            found = json.loads((place / _NOTE).read_text(encoding="utf-8"))
            return int(found["max_tokens_per_microbatch"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
