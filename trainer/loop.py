"""The training loop: one run, advanced about a second at a time.

    engine.join(rank, world_size, address, port)
    run = Run(config)
    while (batch := run.advance()).status == "running":
        ...
    run.close()

Every rank makes the same calls. Whatever one rank alone could decide (its clock, what `control`
tells it, an error) is put to a vote, so no rank waits for one that has left.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from trainer import engine
from trainer.accumulate import UNPROBED, Accumulator, Control, Guard, Votes, Watch
from trainer.batches import Batches
from trainer.build import build
from trainer.check import size_problems
from trainer.config import EvalSet, Split, TrainConfig, trusted_code
from trainer.data import TokenSet, cache_dir, load_data
from trainer.errors import ConfigError, DiskError, RankFailed, as_failure
from trainer.evaluate import BaseLosses, Evaluator, Interrupted, base_key
from trainer.metrics import Batch, CheckpointRecord, Evaluation, Failure, StepRecord, finite
from trainer.model import check_model, load_tokenizer
from trainer.saving import EXPORT_AGAIN_SECONDS, EXPORT_SECONDS, Progress, Saving
from trainer.schedules import learning_rate, warmup_steps


class Run:
    """One fine-tuning run on all ranks of the process group.

    Args:
        config: the run; equal on all ranks.
        resume_from: a checkpoint, or a folder of them, to go on from; also an address in a store.
        guard: called with each micro-batch before it is trained on. May raise
            `torch.OutOfMemoryError`, as a device would that is smaller than this one.

    Raises:
        TrainerError: the configuration, data, model or checkpoint can't be used. The message says
            what to change. Raised on every rank.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        resume_from: Path | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.config = config
        folder = check_model(
            config.model,
            config.model_revision,
            roots=config.roots.models,
            trusted=config.trust_remote_code,
        )
        self._tokenizer = load_tokenizer(
            folder,
            config.data.chat_template,
            roots=config.roots.data,
            trusted=trusted_code(config),
        )
        self.data = load_data(config, folder, self._tokenizer)
        longest = int(self.data.train.lengths.max())
        for pointer, message in size_problems(
            config, len(self.data.train), longest, sets=self.data.sets
        ):
            raise ConfigError(message, pointer)

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._built = build(config, folder)
        self._engine = self._built.engine
        cap = config.max_tokens_per_microbatch
        self._batches = Batches(
            config,
            self.data,
            rank=engine.rank(),
            ranks=engine.world_size(),
            packed=self._built.packed,
            lockstep=self._engine.stage >= 2,
            cap=UNPROBED if cap == "auto" else cap,
            pad_id=self._tokenizer.pad_token_id,
        )
        self.total_samples = self._batches.total_samples
        self.total_steps = self._batches.total_steps
        self._warmup = warmup_steps(config, self.total_steps)
        self._accumulator = Accumulator(
            config,
            self._engine,
            self._batches,
            longest=longest,
            dropout=self._built.dropout,
            guard=guard,
            resume_from=resume_from,
        )
        self._base_losses = None
        if config.data.general:
            base = base_key(folder, self._engine.precision, config.method)
            self._base_losses = BaseLosses(cache_dir(config), base)
        self._progress = Progress()
        self._status: Literal["running", "completed", "failed"] = "running"
        self._saving = Saving(config, self._engine, self._identity())
        if resume_from is not None:
            self._progress = self._saving.resume(resume_from)
        self._news = self._notes()

    # --- advancing ----------------------------------------------------------------------------

    def advance(self, seconds: float = 1.0, control: Control | None = None) -> Batch:
        """Train for about `seconds`, or to the next point where the caller is to decide.

        Args:
            seconds: how long to run optimizer steps; at least one is made.
            control: asked between steps, and twice a second within a long one. `pause` writes a
                checkpoint and yields, `stop` yields at once; either leaves the current effective
                batch undone. If a rank is asked to stop, all do.

        Returns:
            What happened. It ends early after the step that reaches a point of `eval_at`, with
            that step's evaluations. The last call, status `completed`, carries the final
            evaluations and the export. Rank 0's is authoritative; status is equal everywhere.

        Raises:
            RankFailed: this rank failed while the others wait for it (ZeRO 2 and 3, more than one
                rank). The process is to end.
        """
        if self._status != "running":
            return self._batch(_Report(), self._status)
        report = _Report()
        try:
            return self._advance(report, time.monotonic() + seconds, control or _go)
        except Exception as error:
            if isinstance(error, RankFailed) and engine.world_size() > 1:
                self._status = "failed"
                raise
            return self._failed(report, as_failure(error))

    def close(self) -> None:
        """Free the model and its memory. Another run may follow in this process."""
        self._engine.close()

    def _advance(self, report: _Report, deadline: float, control: Control) -> Batch:
        watch = Watch(control, deadline, self._saving.due_at)
        verdict = self._accumulator.vote(watch).verdict
        if verdict != "go":
            return self._yielded(report, verdict)
        try:
            return self._train(report, watch)
        except Interrupted as wish:
            return self._yielded(report, wish.verdict)

    def _train(self, report: _Report, watch: Watch) -> Batch:
        if self._progress.step == 0 and self._base_losses is not None and self.total_samples:
            report.evaluations += self._evaluate(self._sets("general"), watch.control)
        if self._owed_evaluation():
            return self._hold(report, watch.control)
        while self._progress.samples < self.total_samples:
            record, votes = self._step(watch)
            if votes.failed:
                return self._failed(report, votes.shared_failure())
            if record is not None:
                report.steps.append(record)
                if record.loss is None or record.grad_norm is None:
                    return self._failed(report, self._divergence(record))
            if votes.verdict != "go":
                return self._yielded(report, votes.verdict)
            if self._owed_evaluation():
                return self._hold(report, watch.control)
            if self._checkpoint_is_due(votes.save):
                self._save(report)
                watch = replace(watch, save_at=self._saving.due_at)
            if votes.late:
                break
        if self._progress.samples >= self.total_samples and not report.steps:
            return self._finish(report, watch.control)
        return self._batch(report, "running")

    def _step(self, watch: Watch) -> tuple[StepRecord | None, Votes]:
        """One optimizer step. No record if it was called off before it was made."""
        began = time.monotonic()
        at = self._progress
        if self._batches.resets_optimizer(at.samples):
            self._engine.reset_optimizer()
        work = self._accumulator.accumulate(at.step, at.samples, watch)
        step = work.step
        if not work.done:
            return None, work.votes

        loss = finite(work.votes.loss / step.targets)
        rate = learning_rate(
            at.step + 1,
            peak=self.config.learning_rate,
            schedule=self.config.schedule,
            total_steps=self.total_steps,
            warmup=self._warmup,
        )
        norm = self._engine.step(rate) if loss is not None else None
        took = time.monotonic() - began
        self._progress = replace(
            at,
            step=at.step + 1,
            samples=step.stop,
            tokens=at.tokens + step.targets,
            seconds=at.seconds + took,
        )
        grad_sq, noise = work.gradient_parts(norm)
        record = StepRecord(
            step=at.step + 1,
            samples=step.stop,
            tokens=self._progress.tokens,
            loss=loss,
            grad_norm=norm,
            learning_rate=rate,
            seconds=took,
            memory=0,
            batch_samples=step.stop - step.start,
            input_tokens=step.tokens,
            padding=step.padding,
            data_wait=work.data_wait,
            mfu=self._built.mfu(step.lengths, step.targets, took),
            grad_sq=grad_sq,
            noise=noise,
        )
        return record, work.votes

    # --- holding, yielding, ending ------------------------------------------------------------

    def _owed_evaluation(self) -> bool:
        """Whether a point of `eval_at` has been reached whose evaluation nobody has seen."""
        at = self._progress
        owed = any(at.evaluated < point <= at.samples for point in self.config.eval_at)
        ending = at.samples >= self.total_samples and self.config.eval_at_end
        return owed and not ending

    def _hold(self, report: _Report, control: Control) -> Batch:
        found = self._evaluate(self._sets("eval"), control)
        report.evaluations += found
        best = self._is_best(found)
        if best or self._checkpoint_is_due(False):
            # Saved before it counts as seen: if this report is lost, it is made again.
            self._save(report, best=best)
        self._progress = replace(self._progress, evaluated=self._progress.samples)
        return self._batch(report, "running")

    def _yielded(self, report: _Report, verdict: str) -> Batch:
        if verdict == "pause":
            self._save(report)
        return self._batch(report, "yielded")

    def _finish(self, report: _Report, control: Control) -> Batch:
        """The last evaluations. They can fail for reasons outside, so the export comes first."""
        config, at = self.config, self._progress
        if config.keep_best and at.step:
            self._return_to_best(control)
        if config.export and at.step:
            self._export(report, control)
        if config.lm_eval or config.judge:
            self._save(report)
        sets = self._sets("eval") if config.eval_at_end else []
        sets += self._sets("general")
        sets += self._sets("test") if config.evaluate_test else []
        report.evaluations += self._evaluate(sets, control, generate=config.exact_match)
        evaluator = self._evaluator()
        where: Any = {"step": at.step, "seen": at.samples, "control": control}
        if config.lm_eval is not None:
            report.evaluations += evaluator.benchmarks(config.lm_eval, roots=config.roots, **where)
        if config.judge is not None:
            report.evaluations.append(evaluator.judged(config.judge, roots=config.roots, **where))
        self._status = "completed"
        return self._batch(report, "completed")

    def _is_best(self, found: list[Evaluation]) -> bool:
        """Whether these are the lowest held-out losses so far, and count as such from now on."""
        if not self.config.keep_best or not self._progress.step:
            return False
        loss = _mean_loss(found)
        if loss is None or loss >= self._progress.best_loss:
            return False
        self._progress = replace(self._progress, best_loss=loss)
        return True

    def _return_to_best(self, control: Control) -> None:
        """Take back the weights that were best on the eval sets, if the last ones aren't."""
        if self._is_best(self._evaluate(self._sets("eval"), control)):
            return
        if (step := self._saving.load_best()) is not None:
            self._news["exported_step"] = step

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

    def _sets(self, split: Split) -> list[tuple[Split, EvalSet, TokenSet]]:
        named: tuple[EvalSet, ...] = getattr(self.config.data, split)
        samples: dict[str, TokenSet] = getattr(self.data, split)
        return [(split, one, samples[one.name]) for one in named]

    def _evaluate(
        self,
        sets: list[tuple[Split, EvalSet, TokenSet]],
        control: Control,
        *,
        generate: bool = False,
    ) -> list[Evaluation]:
        at, config = self._progress, self.config
        evaluator = self._evaluator()
        return [
            evaluator.evaluate(
                samples,
                name=one.name,
                split=split,
                step=at.step,
                seen=at.samples,
                generate=(config.exact_match_samples or 2**62)
                if generate and split != "general"
                else 0,
                max_new_tokens=config.max_new_tokens,
                extract=one.extract,
                control=control,
            )
            for split, one, samples in sets
        ]

    def _evaluator(self) -> Evaluator:
        return Evaluator(
            self._engine.model,
            self._tokenizer,
            cap=self._batches.cap,  # lower than at the start, if memory ran out
            packed=self._built.packed,
            output=Path(self.config.output_dir).expanduser(),
            whole_weights=self._engine.whole_weights,
            partitioned=self._engine.stage == 3,
            base_losses=self._base_losses,
        )

    def _batch(
        self,
        report: _Report,
        status: Literal["running", "yielded", "completed", "failed"],
        failure: Failure | None = None,
    ) -> Batch:
        memory = engine.peak_memory()
        if report.steps and status != "failed":
            memory = int(engine.max_over_ranks(memory))
        notes = {**self._news, **self._accumulator.news, **self._saving.news}
        self._news, self._accumulator.news, self._saving.news = {}, {}, {}
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
            "batches": "packed" if self._built.packed else "padded",
            "max_tokens_per_microbatch": self._batches.cap,
            "longest": int(self.data.train.lengths.max()),
            "parameters": self._engine.parameters,
            "train_samples": len(self.data.train),
            "too_long": self.data.too_long,
            "resumed_at_step": self._progress.step,
        }

    # --- checkpoints --------------------------------------------------------------------------

    def _checkpoint_is_due(self, clock: bool) -> bool:
        at = self._progress
        if at.samples >= self.total_samples:
            return False
        return clock or any(at.saved < point <= at.samples for point in self.config.checkpoint_at)

    def _save(self, report: _Report, *, best: bool = False) -> None:
        record = self._saving.save(self._progress, best=best)
        if record is not None:
            report.checkpoints.append(record)
        self._progress = replace(self._progress, saved=self._progress.samples)

    def _export(self, report: _Report, control: Control) -> None:
        """Write the model, however long a full disk takes to be cleared; heard meanwhile."""
        deadline = time.monotonic() + EXPORT_SECONDS
        while True:
            try:
                report.checkpoints.append(self._saving.export(self._progress, self._tokenizer))
                return
            except DiskError as error:
                if engine.max_over_ranks(float(time.monotonic() > deadline)):
                    raise
                self._news["not_exported"] = str(error)
            again = time.monotonic() + EXPORT_AGAIN_SECONDS
            while engine.max_over_ranks(float(time.monotonic() < again)):
                verdict = self._accumulator.vote(Watch(control, math.inf, math.inf)).verdict
                if verdict != "go":
                    raise Interrupted(verdict)
                time.sleep(0.2)

    def _identity(self) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        fixed = ["seed", "effective_batch_size", "batching", "optimizer", "method"]
        if self.config.method != "full":
            fixed += ["model", "lora_alpha", "lora_dropout"]
        values = {field: getattr(self.config, field) for field in fixed}
        return {**values, "data": self.data.train.key, "parameters": self._engine.parameters}


class _Report:
    """What one `advance` gathers."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.evaluations: list[Evaluation] = []
        self.checkpoints: list[CheckpointRecord] = []


def _mean_loss(found: list[Evaluation]) -> float | None:
    """Over all target tokens; None if one wasn't finite."""
    losses = [(one.loss, one.tokens) for one in found]
    if any(loss is None for loss, _ in losses):
        return None
    return sum((loss or 0.0) * tokens for loss, tokens in losses) / sum(n for _, n in losses)


def _go() -> Literal["go"]:
    return "go"
