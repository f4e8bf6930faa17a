"""One fine-tuning run from the command line.

    torchrun --nproc-per-node 2 -m trainer config.yaml
    python -m trainer config.yaml              one rank
    python -m trainer check config.yaml        only look for mistakes; prints JSON

A run goes on from the last checkpoint in its output folder, if there is one, and writes a record a
line to metrics.jsonl there. Exit status: 0 done, 1 diverged or failed, 2 a mistake in
configuration or data, 3 (check) mistakes found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import pydantic
import yaml

from trainer.config import TrainConfig
from trainer.errors import ConfigError, TrainerError
from trainer.metrics import Batch, Evaluation, StepRecord
from trainer.recipes import recipe

DONE, FAILED, MISTAKE, FOUND = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    checking = arguments[:1] == ["check"]
    parser = argparse.ArgumentParser(
        prog="trainer check" if checking else "trainer",
        description="Look for mistakes in a run." if checking else "Run one fine-tuning.",
    )
    parser.add_argument("config", help="YAML or JSON file of the run; - for standard input")
    if not checking:
        parser.add_argument("--verbose", action="store_true", help="let DeepSpeed log")
    options = parser.parse_args(arguments[1:] if checking else arguments)
    try:
        config = read_config(options.config)
    except ConfigError as error:
        if not checking:
            print(f"error: {error}", file=sys.stderr)
            return MISTAKE
        errors = [{"pointer": error.pointer, "message": str(error)}]
        print(json.dumps({"ok": False, "errors": errors}))
        return FOUND
    return check(config) if checking else train(config, verbose=options.verbose)


def read_config(path: str) -> TrainConfig:
    """Read a run's configuration; `recipe` fills in the fields that are not given.

    Raises:
        ConfigError: names the field.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: write one `field: value` a line")
    try:
        if values.get("recipe") is not None:
            fields = recipe(str(values["recipe"]))
            if values.keys() & {"warmup_steps", "warmup_ratio"}:
                fields.pop("warmup_steps", None)
                fields.pop("warmup_ratio", None)
            values = {**fields, **values}
        return TrainConfig.model_validate(values)
    except KeyError as error:
        raise ConfigError(f"recipe: {error.args[0]}", "/recipe") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        raise ConfigError(
            f"{'.'.join(where) or path}: {first['msg']}", "".join(f"/{part}" for part in where)
        ) from None


def check(config: TrainConfig) -> int:
    """Print what is wrong with `config` as one line of JSON."""
    from trainer.check import check as run_check

    report = run_check(config)
    print(json.dumps(report.asdict()), flush=True)
    return DONE if report.ok else FOUND


def train(config: TrainConfig, *, verbose: bool = False) -> int:
    """Train as the environment that torchrun sets says; alone without it."""
    from trainer.check import check as run_check

    rank = int(os.environ.get("RANK", "0"))
    report = run_check(config)  # before torch is imported: mistakes are told within a second
    if not report.ok:
        if rank == 0:
            for error in report.errors:
                print(f"error: {error.message}", file=sys.stderr)
        return MISTAKE

    from trainer import checkpoint, engine
    from trainer.loop import Run

    engine.join(
        rank,
        int(os.environ.get("WORLD_SIZE", "1")),
        os.environ.get("MASTER_ADDR", "127.0.0.1"),
        int(os.environ.get("MASTER_PORT", "0")),
        int(os.environ.get("LOCAL_RANK", "0")),
        verbose=verbose,
    )
    output = Path(config.output_dir).expanduser()
    try:
        output.mkdir(parents=True, exist_ok=True)
        found = engine.gather(checkpoint.latest(output) if rank == 0 else None)[0]
        run = Run(config, resume_from=found)
    except (TrainerError, OSError) as error:
        if rank == 0:
            print(f"error: {error}", file=sys.stderr)
        engine.leave()
        return MISTAKE
    if rank == 0:
        print(run.data.summary(), flush=True)
        print(f"{run.total_steps:,} steps, {run.total_samples:,} samples", flush=True)
    status = _drive(run, output if rank == 0 else None)
    run.close()
    engine.leave()
    return status


def _drive(run: Any, output: Path | None) -> int:
    """Advance `run` to its end; report to the terminal and metrics.jsonl if `output` is given."""
    metrics = (output / "metrics.jsonl").open("a", encoding="utf-8") if output else None
    try:
        while True:
            batch: Batch = run.advance(1.0)
            if metrics is not None:
                _record(batch, metrics)
                _show(batch)
            if batch.status != "running":
                break
    finally:
        if metrics is not None:
            metrics.close()
    if batch.failure is not None:
        if batch.failure.detail:
            print(batch.failure.detail, file=sys.stderr)
        print(f"failed ({batch.failure.code}): {batch.failure.message}", file=sys.stderr)
        return FAILED
    if output is not None:
        print("completed", flush=True)
    return DONE


def _record(batch: Batch, stream: TextIO) -> None:
    for kind, records in (
        ("step", batch.steps),
        ("evaluation", batch.evaluations),
        ("checkpoint", batch.checkpoints),
    ):
        for record in records:
            stream.write(json.dumps({"kind": kind, **record.asdict()}) + "\n")
    stream.flush()


def _show(batch: Batch) -> None:
    if batch.notes:
        print(", ".join(f"{name} {value}" for name, value in batch.notes.items() if value))
    if batch.steps:
        print(_step_line(batch.steps, batch.total_steps))
    for evaluation in batch.evaluations:
        print(_evaluation_line(evaluation))
    for saved in batch.checkpoints:
        print(f"{saved.kind} checkpoint: {saved.path} ({saved.bytes / 2**20:,.1f} MiB)")
    sys.stdout.flush()


def _step_line(steps: Sequence[StepRecord], total: int) -> str:
    last = steps[-1]
    seconds = sum(step.seconds for step in steps)
    samples = sum(step.batch_samples for step in steps)
    return (
        f"step {last.step:>6,}/{total:,}  samples {last.samples:>9,}  loss {_number(last.loss)}  "
        f"norm {_number(last.grad_norm)}  lr {last.learning_rate:.3g}  "
        f"{samples / max(seconds, 1e-9):,.0f} samples/s  "
        f"{last.tokens / max(last.samples, 1) * samples / max(seconds, 1e-9):,.0f} target tokens/s"
    )


def _evaluation_line(evaluation: Evaluation) -> str:
    match = ""
    if evaluation.exact_match is not None:
        match = f"  exact match {evaluation.exact_match:.1%} of {evaluation.generated:,}"
    return (
        f"{evaluation.split} {evaluation.dataset} at step {evaluation.step:,}: "
        f"loss {_number(evaluation.loss)}{match}"
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
