"""The training loop: one run, advanced about a second at a time.

    engine.join(rank, world_size, address, port)
    run = Run(config)
    while (batch := run.advance()).status == "running":
        ...
    run.close()

Every rank makes the same calls. Whatever one rank alone could decide (its clock, what `control`
tells it, an error) is put to a vote between micro-batches, so no rank waits for one that has left.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from trainer import checkpoint, engine
from trainer.attention import attending, collate, supports_packing
from trainer.check import size_problems
from trainer.config import TrainConfig
from trainer.data import load_data
from trainer.errors import CheckpointError, ConfigError, as_failure
from trainer.evaluate import Evaluator
from trainer.loss import TokenLoss, has_plain_head
from trainer.metrics import Batch, CheckpointRecord, Evaluation, Failure, StepRecord, finite
from trainer.model import check_model, load_model, load_tokenizer
from trainer.packing import SampleStream, plan_step, run_samples, run_steps
from trainer.schedules import learning_rate, warmup_steps

Control = Callable[[], Literal["go", "pause", "stop"]]


class Run:
    """One fine-tuning run on all ranks of the process group.

    Args:
        config: the run; equal on all ranks.
        resume_from: a checkpoint, or a folder of them, to go on from.

    Raises:
        TrainerError: the configuration, data, model or checkpoint can't be used. The message says
            what to change. Raised on every rank.
    """

    def __init__(self, config: TrainConfig, *, resume_from: Path | None = None) -> None:
        self.config = config
        folder = check_model(config.model)
        self._tokenizer = load_tokenizer(folder, config.data.chat_template)
        self.data = load_data(config, folder, self._tokenizer)
        self._lengths = self.data.train.lengths
        longest = int(self._lengths.max())
        for pointer, message in size_problems(config, len(self.data.train), longest):
            raise ConfigError(message, pointer)
        self.total_samples = run_samples(len(self.data.train), config.epochs, config.max_samples)
        self.total_steps = run_steps(self.total_samples, config.effective_batch_size)
        self._warmup = warmup_steps(config, self.total_steps)
        self._stream = SampleStream(len(self.data.train), config.seed)

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        model = load_model(folder)
        if config.activation_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self._packed = supports_packing(model)
        self._dropout = _has_dropout(model)
        loss = TokenLoss(model, plain_head=has_plain_head(model)).train()
        self._engine = engine.Engine(loss, config)
        self._evaluator = Evaluator(
            self._engine.model,
            self._tokenizer,
            cap=config.max_tokens_per_microbatch,
            packed=self._packed,
        )
        self._progress = _Progress()
        self._status: Literal["running", "completed", "failed"] = "running"
        self._noted = False
        self._saved_at = time.monotonic()
        if resume_from is not None:
            self._resume(resume_from)
        self._began_at = self._progress.step

    # --- advancing ----------------------------------------------------------------------------

    def advance(self, seconds: float = 1.0, control: Control | None = None) -> Batch:
        """Train for about `seconds`, or to the next point where the caller is to decide.

        Args:
            seconds: how long to run optimizer steps; at least one is made.
            control: asked before each micro-batch. `pause` writes a checkpoint and yields, `stop`
                yields at once; either leaves the current effective batch undone. If a rank is
                asked to stop, all do.

        Returns:
            What happened. It ends early after the step that reaches a point of `eval_at`, with
            that step's evaluations. The last call, status `completed`, carries the final
            evaluations and the export. Rank 0's is authoritative; status is equal everywhere.
        """
        if self._status != "running":
            return self._batch(_Report(), self._status)
        report = _Report()
        try:
            return self._advance(report, time.monotonic() + seconds, control or _go)
        except Exception as error:
            return self._failed(report, as_failure(error))

    def close(self) -> None:
        """Free the model and its memory. Another run may follow in this process."""
        self._engine.close()
        del self._evaluator

    def _advance(self, report: _Report, deadline: float, control: Control) -> Batch:
        verdict = self._vote(control()).verdict
        if verdict != "go":
            return self._yielded(report, verdict)
        if self._owed_evaluation():
            return self._hold(report)
        while self._progress.samples < self.total_samples:
            record, votes = self._step(control, deadline)
            if votes.failed:
                return self._failed(report, _shared_failure(votes.failure))
            if record is not None:
                report.steps.append(record)
                if record.loss is None or record.grad_norm is None:
                    return self._failed(report, self._divergence(record))
            if votes.verdict != "go":
                return self._yielded(report, votes.verdict)
            if self._owed_evaluation():
                return self._hold(report)
            if self._checkpoint_is_due(votes.save):
                report.checkpoints.append(self._save())
            if votes.late:
                break
        if self._progress.samples >= self.total_samples and not report.steps:
            return self._finish(report)
        return self._batch(report, "running")

    def _step(self, control: Control, deadline: float) -> tuple[StepRecord | None, _Votes]:
        """One optimizer step. No record if it was called off before it was made."""
        began = time.monotonic()
        config, progress = self.config, self._progress
        start = progress.samples
        stop = min(start + config.effective_batch_size, self.total_samples)
        chosen = self._stream.take(start, stop)
        plan = plan_step(
            self._lengths[chosen].tolist(),
            ranks=engine.world_size(),
            cap=config.max_tokens_per_microbatch,
            padded=not self._packed,
            equal_counts=self._engine.stage == 2,
        )
        targets = int(self.data.train.target_counts[chosen].sum())
        rounds = max(len(part) for part in plan)
        mine = plan[engine.rank()]
        if self._dropout:
            torch.manual_seed((config.seed * 1_000_003 + progress.step) * 4_099 + engine.rank())

        loss_sum = 0.0
        votes = _Votes()
        for number in range(rounds):
            failure: Failure | None = None
            if number < len(mine):
                try:
                    loss_sum += self._micro_batch([int(chosen[i]) for i in mine[number]], targets)
                except Exception as error:
                    if (
                        self._engine.stage == 2
                    ):  # the others are inside this micro-batch's reduction
                        raise
                    failure = as_failure(error)
            last = number == rounds - 1
            votes = self._vote(control(), loss_sum, failure, late=time.monotonic() >= deadline)
            if votes.failed or (votes.verdict != "go" and not last):
                self._engine.discard()
                return None, votes

        loss = finite(votes.loss / targets)
        rate = learning_rate(
            progress.step + 1,
            peak=config.learning_rate,
            schedule=config.schedule,
            total_steps=self.total_steps,
            warmup=self._warmup,
        )
        norm = self._engine.step(rate) if loss is not None else None
        took = time.monotonic() - began
        self._progress = replace(
            progress,
            step=progress.step + 1,
            samples=stop,
            tokens=progress.tokens + targets,
            seconds=progress.seconds + took,
        )
        record = StepRecord(
            step=self._progress.step,
            samples=stop,
            tokens=self._progress.tokens,
            loss=loss,
            grad_norm=norm,
            learning_rate=rate,
            seconds=took,
            memory=0,
            batch_samples=stop - start,
        )
        return record, votes

    def _micro_batch(self, samples: list[int], targets: int) -> float:
        """Forward and backward of one micro-batch; its summed loss."""
        batch = collate(
            [self.data.train.sample(i) for i in samples],
            packed=self._packed,
            pad_id=self._tokenizer.pad_token_id,
            device=engine.device(),
        )
        with attending(batch.segments):  # backward too: activation checkpointing runs forward there
            loss = self._engine.forward(batch)
            self._engine.backward(loss, targets)
        return float(loss.detach())

    def _vote(
        self,
        wish: Literal["go", "pause", "stop"],
        loss: float = 0.0,
        failure: Failure | None = None,
        *,
        late: bool = False,
    ) -> _Votes:
        """Agree with all ranks. Time is rank 0's; a stop outweighs a pause."""
        leads = engine.rank() == 0
        every = self.config.checkpoint_every_seconds
        save = every is not None and time.monotonic() - self._saved_at >= every
        total, pause, stop, failed, is_late, is_due = engine.sum_over_ranks(
            loss,
            wish == "pause",
            wish == "stop",
            failure is not None,
            late and leads,
            save and leads,
        )
        return _Votes(
            loss=total,
            verdict="stop" if stop else "pause" if pause else "go",
            failed=bool(failed),
            failure=failure,
            late=bool(is_late),
            save=bool(is_due),
        )

    # --- holding, yielding, ending ------------------------------------------------------------

    def _owed_evaluation(self) -> bool:
        """Whether a point of `eval_at` has been reached whose evaluation nobody has seen."""
        at = self._progress
        owed = any(at.evaluated < point <= at.samples for point in self.config.eval_at)
        ending = at.samples >= self.total_samples and self.config.eval_at_end
        return owed and not ending

    def _hold(self, report: _Report) -> Batch:
        report.evaluations += self._evaluate(final=False)
        if self._checkpoint_is_due(False):
            # Saved before it counts as seen: if this report is lost, it is made again.
            report.checkpoints.append(self._save())
        self._progress = replace(self._progress, evaluated=self._progress.samples)
        return self._batch(report, "running")

    def _yielded(self, report: _Report, verdict: str) -> Batch:
        if verdict == "pause":
            report.checkpoints.append(self._save())
        return self._batch(report, "yielded")

    def _finish(self, report: _Report) -> Batch:
        report.evaluations += self._evaluate(final=True)
        at = self._progress
        if self.config.export and at.step:
            problem = ""
            if engine.rank() == 0:
                try:
                    report.checkpoints.append(
                        checkpoint.export(
                            Path(self.config.output_dir).expanduser() / "export",
                            self._engine.model.model,
                            self._tokenizer,
                            step=at.step,
                            samples=at.samples,
                        )
                    )
                except Exception as error:
                    problem = f"the export could not be written: {error}"
            problem = engine.gather(problem)[0]
            if problem:
                raise CheckpointError(problem)
        self._status = "completed"
        return self._batch(report, "completed")

    def _failed(self, report: _Report, failure: Failure) -> Batch:
        self._status = "failed"
        return self._batch(report, "failed", failure)

    def _divergence(self, record: StepRecord) -> Failure:
        what = "loss" if record.loss is None else "gradient norm"
        return Failure(
            code="diverged",
            message=f"the {what} was not finite at step {record.step} (learning rate "
            f"{record.learning_rate:.3g}); lower the learning rate",
        )

    def _evaluate(self, *, final: bool) -> list[Evaluation]:
        config, at = self.config, self._progress
        generate = 0
        if final and config.exact_match:
            generate = config.exact_match_samples or 2**62
        sets = []
        if not final or config.eval_at_end:
            sets += [("eval", name, samples) for name, samples in self.data.eval.items()]
        if final and config.evaluate_test:
            sets += [("test", name, samples) for name, samples in self.data.test.items()]
        return [
            self._evaluator.evaluate(
                samples,
                name=name,
                split=split,
                step=at.step,
                seen=at.samples,
                generate=generate,
                max_new_tokens=config.max_new_tokens,
            )
            for split, name, samples in sets
        ]

    def _batch(
        self,
        report: _Report,
        status: Literal["running", "yielded", "completed", "failed"],
        failure: Failure | None = None,
    ) -> Batch:
        memory = _peak_memory()
        if report.steps and status != "failed":
            memory = int(engine.max_over_ranks(memory))
        notes = {} if self._noted else self._notes()
        self._noted = True
        return Batch(
            status=status,
            steps=tuple(replace(record, memory=memory) for record in report.steps),
            evaluations=tuple(report.evaluations),
            checkpoints=tuple(report.checkpoints),
            failure=failure,
            total_steps=self.total_steps,
            total_samples=self.total_samples,
            notes=notes,
        )

    def _notes(self) -> dict[str, Any]:
        where = engine.device()
        return {
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
            "ranks": engine.world_size(),
            "precision": self._engine.precision,
            "zero_stage": self._engine.stage,
            "batches": "packed" if self._packed else "padded",
            "parameters": self._engine.parameters,
            "train_samples": len(self.data.train),
            "too_long": self.data.too_long,
            "resumed_at_step": self._began_at,
        }

    # --- checkpoints --------------------------------------------------------------------------

    def _checkpoint_is_due(self, clock: bool) -> bool:
        at = self._progress
        if at.samples >= self.total_samples:
            return False
        return clock or any(at.saved < point <= at.samples for point in self.config.checkpoint_at)

    def _save(self) -> CheckpointRecord:
        at = self._progress
        state = {
            "step": at.step,
            "samples": at.samples,
            "tokens": at.tokens,
            "seconds": at.seconds,
            "evaluated": at.evaluated,
            "run": self._identity(),
        }
        where = Path(self.config.output_dir).expanduser() / "checkpoints"
        record = checkpoint.save(where, self._engine.shard(), state)
        self._progress = replace(at, saved=at.samples)
        self._saved_at = time.monotonic()
        return record

    def _resume(self, path: Path) -> None:
        found = engine.gather(checkpoint.latest(path) if engine.rank() == 0 else None)[0]
        if found is None:
            raise CheckpointError(f"there is no undamaged checkpoint in {path}")
        state = checkpoint.read_state(found)
        for field, value in self._identity().items():
            if state["run"].get(field) != value:
                raise CheckpointError(
                    f"{found} is of a run with {field} = {state['run'].get(field)!r}, this one has "
                    f"{value!r}; give this run another output_dir"
                )
        self._engine.load(checkpoint.reader(found))
        self._progress = _Progress(
            step=state["step"],
            samples=state["samples"],
            tokens=state["tokens"],
            seconds=state["seconds"],
            evaluated=state["evaluated"],
            saved=state["samples"],
        )

    def _identity(self) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        return {
            "seed": self.config.seed,
            "effective_batch_size": self.config.effective_batch_size,
            "data": self.data.train.key,
            "parameters": self._engine.parameters,
        }


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far the run is. `evaluated` and `saved`: samples at the last hold and checkpoint."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluated: int = -1
    saved: int = 0


class _Report:
    """What one `advance` gathers."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.evaluations: list[Evaluation] = []
        self.checkpoints: list[CheckpointRecord] = []


@dataclass(frozen=True, slots=True)
class _Votes:
    """What all ranks agreed on; `failure` is this rank's own."""

    loss: float = 0.0
    verdict: Literal["go", "pause", "stop"] = "go"
    failed: bool = False
    failure: Failure | None = None
    late: bool = False
    save: bool = False


def _go() -> Literal["go"]:
    return "go"


def _shared_failure(mine: Failure | None) -> Failure:
    """The first rank's failure, told to all."""
    told = engine.gather((engine.rank(), mine))
    rank, failure = next((rank, failure) for rank, failure in told if failure is not None)
    return replace(failure, message=f"{failure.message} (rank {rank})") if rank else failure


def _has_dropout(model: Any) -> bool:
    if any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules()):
        return True
    settings: dict[str, Any] = model.config.to_dict()
    return any("drop" in name and value for name, value in settings.items())


def _peak_memory() -> int:
    """Most bytes in use at once: of the GPU, or of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
