"""Open a sweep's data and model before anything runs, in a process of its own.

The check needs tokenizers and model code that a server should not hold in memory, and it reads
files that a user named; so the trainer does it (`python -m trainer check -`), and a crash, a hang
or a leak there stays there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.environment import NO_VARIABLES, Environment, without_secrets
from orchestrator.plan import any_params, benchmarks, largest_batch, resolve, sweep_pointer
from orchestrator.redaction import clean
from trainer.config import ANYWHERE, Roots
from winnow.spec import SweepSpec

TIMEOUT = 270.0
"""Seconds, below what a client waits. Tokenising is about 20,000 samples a second; imports take
some seconds, and a model of the hub is downloaded if it isn't there."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the check found: faults as (JSON pointer into the sweep, message), or facts.

    `facts` without faults: `train_samples`, `too_long` (left out), `train_tokens`, `eval_samples`,
    `parameters`.
    """

    errors: tuple[tuple[str, str], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def preflight(
    spec: SweepSpec,
    *,
    cache_dir: str,
    here: bool = True,
    roots: Roots = ANYWHERE,
    passed: Environment = NO_VARIABLES,
    timeout: float = TIMEOUT,
    command: Sequence[str] = (sys.executable, "-m", "trainer", "check", "-"),
) -> Preflight:
    """Check `spec`'s files, model, memory and largest effective batch. Blocks until done.

    `here`: trials run on this machine, so its GPUs and memory are those that count. `roots`: what
    it may open. `passed`: variables that workers get; of the server's secrets the check has no
    others.
    """
    size, size_pointer = largest_batch(spec)
    params = any_params(spec)
    if spec.space.effective_batch_size is not None:
        params["effective_batch_size"] = size
    config = resolve(
        spec,
        params,
        output_dir="/nonexistent",
        cache_dir=cache_dir,
        roots=roots,
        **benchmarks(spec),
    )
    judge = spec.evaluation.judge
    variables = without_secrets(os.environ)
    variables |= dict(passed.for_worker(judge.api_key_env if judge else None))
    device = "gpu" if spec.resources.gpus_per_trial else "cpu"
    shape = ("--ranks", str(spec.resources.ranks), "--device", device if here else "elsewhere")
    code, out, err = _run((*command, *shape), config.model_dump_json().encode(), timeout, variables)
    if code is None:
        return Preflight(errors=(_too_slow(spec, timeout),))
    report = _report(out)
    if report is None:
        last = err.strip().rsplit("\n", 1)[-1][:500] or f"exit status {code}"
        return Preflight(errors=(("", f"the data and the model could not be checked: {last}"),))
    if not report.get("ok"):
        errors = tuple(
            (_pointer(str(e.get("pointer", "")), spec, size_pointer), str(e.get("message", "")))
            for e in report.get("errors", ())
        )
        return Preflight(errors=errors or (("", "the check refused the sweep without a reason"),))
    return Preflight(facts={k: v for k, v in report.items() if k not in ("ok", "errors")})


def _too_slow(spec: SweepSpec, timeout: float) -> tuple[str, str]:
    took = f"reading the data and the model took more than {timeout:g} s, so it was given up"
    if not spec.model.startswith("/"):
        return "/model", (
            f"{took}; if the model is still being downloaded, run `winnow model fetch "
            f"{spec.model}` on the server, then submit again"
        )
    return "/data", f"{took}; use smaller files, or a model folder on a local disk"


def _run(
    command: Sequence[str], stdin: bytes, timeout: float, variables: Mapping[str, str]
) -> tuple[int | None, str, str]:
    """Exit status (None if it was ended for taking too long), stdout, stderr."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=dict(variables),
    )
    try:
        out, err = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, "", ""
    return (
        process.returncode,
        clean(out.decode(errors="replace")),
        clean(err.decode(errors="replace")),
    )


def _report(out: str) -> dict[str, Any] | None:
    """The last line of stdout that is a JSON object: libraries may print before it."""
    for line in reversed(out.split("\n")):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return None


def _pointer(pointer: str, spec: SweepSpec, size_pointer: str) -> str:
    return size_pointer if pointer == "/effective_batch_size" else sweep_pointer(pointer, spec)
