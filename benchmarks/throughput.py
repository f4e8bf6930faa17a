"""Tokens a second of the step loop: ours, and TRL's `SFTTrainer` at its best setting.

    python -m benchmarks.throughput --against trl [--quick] [--device cuda] --out throughput.json

Both sides fine-tune the same random Llamas (see `throughput_work.py`) on the same samples with the
same targets, effective batches, AdamW and learning rate, in one process with equally many threads
(one, unless told otherwise); on CPU in fp32. That the losses of all steps agree is checked. Counted
are real tokens only, from the end of the first step, which warms up, to the end of the last. Ours
is a whole run as in the product: planning, collation, clipping, records. TRL runs in an environment
of its own, which the script makes; nothing is evaluated or saved on either side.

TRL is tried with padded rows, with padding-free rows and with packing, in micro-batches of several
sizes; the fastest setting goes on to be measured, in turns with ours. Its samples come sorted by
length within an effective batch, which makes its padding as small as it can be. Its packing changes
which samples make a step, so there only the speed compares.

With `--device cuda` a Llama of the size of 3.2 1B trains in bf16, 8,192 tokens to a micro-batch;
model FLOPs utilisation and peak memory are taken too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.peers import environment
from benchmarks.report import Comparison, Measure
from benchmarks.throughput_work import SIZES, Size
from trainer.flops import FlopCounter, peak_flops, utilisation
from trainer.model import count_parameters

TRL = "trl==1.16.0"
UNIT = 10_000
"""Tokens that a sample of the result is the time of."""
SECONDS = 900
"""After this long, a side is given up."""
LOSS_TOLERANCE = 2e-4
TARGET = 1.3
ROOT = Path(__file__).resolve().parent.parent


class BenchmarkFailed(Exception):
    """A side could not be measured. The message says why."""


@dataclass(frozen=True)
class Timed:
    """One run: loss of each step; tokens, wall and processor seconds after the first step."""

    setting: str
    losses: list[float]
    tokens: int
    seconds: float
    cpu: float
    memory: int

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Plan:
    """What is run for a size: TRL's settings, steps to choose one by, steps and rounds to time."""

    settings: tuple[str, ...]
    choosing: int
    steps: int
    rounds: int


PLANS = {
    "2m": Plan(
        (
            "padded:1",
            "padded:2",
            "padded:4",
            "padded:8",
            "padding-free:2",
            "padding-free:8",
            "packing:1",
        ),
        choosing=2,
        steps=4,
        rounds=3,
    ),
    "20m": Plan(
        ("padded:1", "padded:2", "padding-free:2", "packing:1"),
        choosing=2,
        steps=3,
        rounds=2,
    ),
    "1b": Plan(
        ("padded:8", "padded:16", "padding-free:8", "padding-free:16", "packing:2"),
        choosing=3,
        steps=8,
        rounds=3,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console()
    try:
        result = _measure(options, console)
    except BenchmarkFailed as error:
        console.print(f"[red]The benchmark failed.[/] {error}", highlight=False)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    return 0


def _measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    gpu = options.device == "cuda"
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise BenchmarkFailed("there is no GPU here; leave --device cuda out")
    python = environment("trl", TRL)
    names = ["1b"] if gpu else ["2m"] if options.quick else ["2m", "20m"]
    ours: dict[str, list[Timed]] = {}
    peer: dict[str, list[Timed]] = {}
    tried: dict[str, dict[str, Any]] = {}
    work: dict[str, Any] = {"threads": options.threads}
    extra: dict[str, Any] = {}
    for name in names:
        plan = PLANS[name]
        rounds = 1 if options.quick else plan.rounds
        with tempfile.TemporaryDirectory(prefix="winnow-throughput-") as folder:
            side = _Side(name, Path(folder), options, python, console)
            side.prepare(max(plan.choosing, plan.steps))
            tried[name], best = side.choose(plan)
            ours[name], peer[name] = [], []
            for _ in range(rounds):
                ours[name].append(side.ours(plan.steps))
                peer[name].append(side.trl(plan.steps, best)[0])
            check_same_work(ours[name], peer[name])
            work |= {
                f"{name}_parameters": count_parameters(Path(folder) / "model"),
                f"{name}_tokens": ours[name][0].tokens,
                f"{name}_samples_per_step": SIZES[name].batch,
            }
            if gpu:
                extra = _gpu_figures(Path(folder), SIZES[name], ours[name], peer[name])
    comparison = Comparison(
        name="Throughput of the step loop",
        quick=options.quick,
        measures=[_measure_of(name, SIZES[name]) for name in names],
        peer_name=f"TRL {TRL.partition('==')[2]}",
        ours={name: [UNIT / timed.speed for timed in ours[name]] for name in names},
        peer={name: [UNIT / timed.speed for timed in peer[name]] for name in names},
        work=work,
    )
    comparison.show(console)
    result = comparison.as_json()
    result["tokens_per_second"] = {
        name: {"ours": _speed(ours[name]), "peer": _speed(peer[name])} for name in names
    }
    # Of processor time: the same ratio, whatever else the machine did meanwhile.
    result["processor_time_ratio"] = {
        name: round(_cpu(peer[name]) / _cpu(ours[name]), 2) for name in names
    }
    result["peer_settings"] = {
        name: {"chosen": peer[name][0].setting, "tokens_per_second": tried[name]} for name in names
    }
    result["largest_loss_difference"] = {
        name: loss_difference(ours[name], peer[name]) for name in names
    }
    result["gpu"] = extra if gpu else "not run"
    return result


@dataclass
class _Side:
    """Runs either side, each time in a process of its own."""

    name: str
    folder: Path
    options: argparse.Namespace
    python: Path
    console: Console

    def prepare(self, steps: int) -> None:
        command = ["-m", "benchmarks.throughput_work", self.name, str(self.folder), str(steps)]
        self._run([sys.executable, *command])

    def ours(self, steps: int) -> Timed:
        command = ["-m", "benchmarks.throughput_ours", self.name, str(self.folder), str(steps)]
        (line,) = self._run([sys.executable, *command, str(self.options.threads)])
        timed = _timed(line)
        self.console.print(f"{self.name} ours: {timed.speed:,.0f} tokens/s", highlight=False)
        return timed

    def trl(self, steps: int, *settings: str) -> list[Timed]:
        script = str(ROOT / "benchmarks" / "throughput_trl.py")
        options = [str(self.folder), str(steps), str(self.options.threads), self.options.device]
        runs: list[Timed] = []
        for line in self._run([str(self.python), script, *options, *settings]):
            if "error" in line:
                self.console.print(f"{self.name} TRL {line['setting']}: {line['error']}")
                continue
            runs.append(_timed(line))
            said = f"{self.name} TRL {runs[-1].setting}: {runs[-1].speed:,.0f} tokens/s"
            self.console.print(said, highlight=False)
        return runs

    def choose(self, plan: Plan) -> tuple[dict[str, Any], str]:
        """TRL's speed in each setting, and the fastest one."""
        runs = self.trl(plan.choosing, *plan.settings)
        if not runs:
            raise BenchmarkFailed("TRL trained in none of its settings")
        speeds = {run.setting: round(run.speed, 1) for run in runs}
        if self.options.device == "cuda":
            return speeds, max(runs, key=lambda run: run.speed).setting
        # By processor time: a short try on a busy machine would choose by luck.
        return speeds, min(runs, key=lambda run: run.cpu / run.tokens).setting

    def _run(self, command: list[str]) -> list[dict[str, Any]]:
        environ = os.environ | {"OMP_NUM_THREADS": str(self.options.threads)}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environ | {"TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise BenchmarkFailed(f"{' '.join(command[:4])} failed:\n{done.stderr[-2000:]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


def check_same_work(ours: Sequence[Timed], peer: Sequence[Timed]) -> None:
    """Both sides trained the same: their losses agree, step by step.

    Raises:
        BenchmarkFailed: they don't.
    """
    if peer[0].setting.startswith("packing"):
        return
    if loss_difference(ours, peer) > LOSS_TOLERANCE:
        raise BenchmarkFailed(
            f"the sides didn't train the same: losses {ours[0].losses} and {peer[0].losses}"
        )


def loss_difference(ours: Sequence[Timed], peer: Sequence[Timed]) -> float:
    """Largest relative difference of the two sides' losses at a step."""
    pairs = zip(ours[0].losses, peer[0].losses, strict=True)
    return max(abs(one - other) / abs(one) for one, other in pairs)


def _timed(line: dict[str, Any]) -> Timed:
    steps = line["steps"]
    return Timed(
        setting=line["setting"],
        losses=[step["loss"] for step in steps],
        tokens=sum(step["tokens"] for step in steps[1:]),
        seconds=steps[-1]["ended"] - steps[0]["ended"],
        cpu=steps[-1]["cpu"] - steps[0]["cpu"],
        memory=line.get("memory", 0),
    )


def _measure_of(name: str, size: Size) -> Measure:
    what = f"seconds for {UNIT:,} real tokens, {size.precision}, effective batch {size.batch}"
    return Measure(name, size.label, what, target=TARGET if name != "1b" else 1.0)


def _speed(runs: Sequence[Timed]) -> float:
    return round(statistics.median(run.speed for run in runs), 1)


def _cpu(runs: Sequence[Timed]) -> float:
    return statistics.median(run.cpu / run.tokens for run in runs)


def _gpu_figures(
    folder: Path, size: Size, ours: Sequence[Timed], peer: Sequence[Timed]
) -> dict[str, Any]:
    import torch

    counter = FlopCounter.of(json.loads((folder / "model" / "config.json").read_text("utf-8")))
    assert counter is not None
    batches = json.loads((folder / "steps.json").read_text("utf-8"))[1 : len(ours[0].losses)]
    samples = [sample for batch in batches for sample in batch]
    flops = counter.step(
        [len(sample["input_ids"]) for sample in samples],
        sum(sum(sample["assistant_masks"]) for sample in samples),
    )
    device = torch.cuda.get_device_name()
    peak = peak_flops(device, size.precision)
    seconds = {"ours": ours, "peer": peer}
    return {
        "device": device,
        "mfu": {
            side: utilisation(flops, statistics.median(run.seconds for run in runs), peak)
            for side, runs in seconds.items()
        },
        "peak_memory": {side: max(run.memory for run in runs) for side, runs in seconds.items()},
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", choices=["trl"], default="trl")
    parser.add_argument("--quick", action="store_true", help="the small model, once")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
