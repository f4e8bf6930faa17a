"""One fine-tuning run from the command line.

    torchrun --nproc-per-node 2 -m trainer config.yaml
    python -m trainer config.yaml              one rank
    python -m trainer check config.yaml        only look for mistakes; prints JSON
    python -m trainer recipes [NAME]           the study's recipes; prints JSON
    python -m trainer fetch MODEL              download a model of the hub; prints JSON

A run goes on from the last checkpoint in its output folder, if there is one, and writes a record a
line to metrics.jsonl there. With `torchrun --max-restarts 3` that also mends lost ranks, and memory
that runs out under ZeRO 2 and 3. Exit status: 0 done, 1 diverged or failed, 2 a mistake in
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
from trainer.display import Display
from trainer.errors import ConfigError, RankFailed, TrainerError
from trainer.metrics import Batch, Failure
from trainer.recipes import RECIPES, recipe

DONE, FAILED, MISTAKE, FOUND = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = arguments[0] if arguments and arguments[0] in _COMMANDS else ""
    parser = argparse.ArgumentParser(
        prog=f"trainer {command}".strip(),
        description=_COMMANDS.get(command, "Run one fine-tuning."),
        epilog=None if command else f"Other commands: {', '.join(_COMMANDS)}.",
    )
    if command == "recipes":
        parser.add_argument("name", nargs="?", help="one recipe; left out: all")
        return print_recipes(parser.parse_args(arguments[1:]).name)
    if command == "fetch":
        parser.add_argument("model", help="a hub id, e.g. meta-llama/Llama-3.2-3B")
        return fetch(parser.parse_args(arguments[1:]).model)
    parser.add_argument("config", help="YAML or JSON file of the run; - for standard input")
    if command:
        parser.add_argument("--ranks", type=int, help="how many train together")
        parser.add_argument("--device", choices=("gpu", "cpu", "elsewhere"), help="what they use")
    else:
        parser.add_argument("--verbose", action="store_true", help="let DeepSpeed log")
    options = parser.parse_args(arguments[1:] if command else arguments)
    try:
        config = read_config(options.config)
    except ConfigError as error:
        if not command:
            print(f"error: {error}", file=sys.stderr)
            return MISTAKE
        errors = [{"pointer": error.pointer, "message": str(error)}]
        print(json.dumps({"ok": False, "errors": errors}))
        return FOUND
    if command:
        return check(config, ranks=options.ranks, device=options.device)
    return train(config, verbose=options.verbose)


_COMMANDS = {
    "check": "Look for mistakes in a run.",
    "recipes": "Print the study's recipes.",
    "fetch": "Download a model of the hub, so that runs find it without a network.",
}


def print_recipes(name: str | None) -> int:
    """Print every field of one recipe, or of all by name, as JSON."""
    try:
        print(json.dumps(recipe(name) if name else {known: recipe(known) for known in RECIPES}))
    except KeyError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return MISTAKE
    return DONE


def fetch(model: str) -> int:
    """Download what a run needs of `model`; progress goes to stderr."""
    from trainer.model import check_model

    try:
        folder = check_model(model)
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    print(json.dumps({"folder": str(folder), "bytes": size}))
    return DONE


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


def check(config: TrainConfig, *, ranks: int | None = None, device: Any = None) -> int:
    """Print what is wrong with `config` as one line of JSON."""
    from trainer.check import check as run_check

    report = run_check(config, ranks=ranks, device=device)
    print(json.dumps(report.asdict()), flush=True)
    return DONE if report.ok else FOUND


def train(config: TrainConfig, *, verbose: bool = False) -> int:
    """Train as the environment that torchrun sets says; alone without it."""
    from trainer.check import check as run_check

    rank = int(os.environ.get("RANK", "0"))
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    report = run_check(config, ranks=ranks)  # before torch is imported: mistakes are told at once
    if not report.ok:
        if rank == 0:
            for error in report.errors:
                print(f"error: {error.message}", file=sys.stderr)
        return MISTAKE

    from trainer import checkpoint, engine
    from trainer.loop import Run

    engine.join(
        rank,
        ranks,
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
    try:
        status = _drive(run, output if rank == 0 else None)
    except RankFailed as error:
        _tell(error.failure, rank)
        sys.stderr.flush()
        os._exit(FAILED)  # leaving in order would wait for the others, and they for this one
    run.close()
    engine.leave()
    return status


def _drive(run: Any, output: Path | None) -> int:
    """Advance `run` to its end; report to the terminal and metrics.jsonl if `output` is given."""
    metrics = (output / "metrics.jsonl").open("a", encoding="utf-8") if output else None
    display = Display() if output else None
    try:
        while True:
            batch: Batch = run.advance(1.0)
            if metrics is not None:
                _record(batch, metrics)
            if display is not None:
                display.show(batch)
            if batch.status != "running":
                break
    finally:
        if metrics is not None:
            metrics.close()
        if display is not None:
            display.close()
    if batch.failure is not None:
        if output is not None:
            _tell(batch.failure)
        return FAILED
    if output is not None:
        print("completed", flush=True)
    return DONE


def _tell(failure: Failure, rank: int = 0) -> None:
    if failure.detail:
        print(failure.detail, file=sys.stderr)
    where = f" on rank {rank}" if rank else ""
    print(f"failed{where} ({failure.code}): {failure.message}", file=sys.stderr)


def _record(batch: Batch, stream: TextIO) -> None:
    for kind, records in (
        ("step", batch.steps),
        ("evaluation", batch.evaluations),
        ("checkpoint", batch.checkpoints),
    ):
        for record in records:
            stream.write(json.dumps({"kind": kind, **record.asdict()}) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
