"""Benchmarks of lm-evaluation-harness, run on the model in memory.

Slow to import: only a run that names benchmarks does. Code that comes with data is never run: the
harness loads plain data sets only, and tasks that run the model's code are refused.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import lm_eval.api.task
import lm_eval.evaluator
import numpy as np
import torch
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from trainer import engine
from trainer.config import LmEval
from trainer.errors import ConfigError, TrainerError
from trainer.evaluate.harness_model import HarnessModel
from trainer.evaluate.task_index import Entry as Named
from trainer.evaluate.task_index import harness_tasks, read_index, task_names
from trainer.evaluate.tasks import LOCAL_FORMATS
from trainer.evaluate.turns import Control, in_step, meanwhile
from trainer.metrics import Evaluation

FEWSHOT_SEED = 1234
"""The harness's own default: which examples are drawn doesn't depend on the run."""
BOOTSTRAP = 1000
"""Resamples behind the standard error of metrics that have no formula for it."""
_BUILT_AT_ONCE = 256
"""Documents made into requests between two votes."""
_KINDS = {"task": Kind.TASK, "python": Kind.PY_TASK, "group": Kind.GROUP, "tag": Kind.TAG}


def run_tasks(
    settings: LmEval,
    model: Any,
    tokenizer: Any,
    *,
    cap: int,
    step: int,
    seen: int,
    control: Control | None = None,
) -> list[Evaluation]:
    """Run tasks and groups; one `Evaluation` for each of them and for each task of a group.

    All ranks make the same call and get the same result, whatever their number.

    Args:
        settings: tasks and how to run them.
        model: in eval mode, with all its weights in place.
        tokenizer: the model's.
        cap: most tokens of a forward pass on a rank.
        step: optimizer steps made.
        seen: samples seen.
        control: asked between batches.

    Returns:
        `scores` by metric (`acc`, `acc_norm`, …) with `…_stderr`. Where a task has several filters,
        the bare name is the first one's and `metric,filter` names each. A tag, or a group without
        an aggregate of its own, has the mean of its tasks.

    Raises:
        ConfigError: a task can't be loaded; names it.
        Interrupted: `control` was answered with pause or stop on some rank.
    """
    began = time.monotonic()
    with _random_state_kept(), _quiet(), _polled(control):
        tasks = _loaded_by_all(settings, control)
        wrapped = HarnessModel(model, tokenizer, cap=cap, control=control)
        try:
            results: Any = lm_eval.evaluator.evaluate(
                wrapped,
                tasks,
                limit=settings.limit,
                bootstrap_iters=BOOTSTRAP if engine.rank() == 0 else 0,
                log_samples=False,
                apply_chat_template=settings.apply_chat_template,
                fewshot_as_multiturn=settings.apply_chat_template,
            )
        except (ValueError, AssertionError, KeyError, TypeError) as error:
            raise TrainerError(f"lm-evaluation-harness failed: {error}") from error
    found = [
        (name, scores(values))
        for name, values in {**results["results"], **(results.get("groups") or {})}.items()
    ]
    found = engine.gather(found)[0]  # rank 0 alone has standard errors
    found = _with_means(settings, dict(found))
    seconds = (time.monotonic() - began) / max(1, len(found))
    return [
        Evaluation(
            step=step,
            samples=seen,
            split="lm_eval",
            dataset=name,
            loss=None,
            tokens=0,
            seconds=seconds,
            scores=values,
        )
        for name, values in found.items()
        if values
    ]


def _with_means(
    settings: LmEval, found: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """The results, and for each wanted name without any of its own (a tag, a group that has no
    aggregate) the plain mean over its tasks of the metrics that all of them have."""
    index = read_index(_folder(settings))
    for name in settings.tasks:
        parts = [found[task] for task in sorted(task_names(index, name)) if task in found]
        if found.get(name) or not parts:
            continue
        shared = set.intersection(*(set(part) for part in parts))
        found[name] = {
            metric: fmean(part[metric] for part in parts)
            for metric in parts[0]
            if metric in shared and "_stderr" not in metric
        }
    return found


def _folder(settings: LmEval) -> Path | None:
    return Path(settings.include_path).expanduser() if settings.include_path is not None else None


def scores(values: dict[str, Any]) -> dict[str, float]:
    """The harness's `{"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": …}` as plain scores."""
    numbers = {
        key: float(value)
        for key, value in values.items()
        if "," in key and isinstance(value, int | float | np.number) and math.isfinite(value)
    }
    found: dict[str, float] = {}
    filters = {key.partition(",")[2] for key in numbers}
    for key, value in numbers.items():
        metric = key.partition(",")[0]
        found.setdefault(metric, value)
        if len(filters) > 1:
            found[key] = value
    return found


# --- loading ------------------------------------------------------------------------------------


def load_tasks(settings: LmEval) -> Any:
    """The tasks with their data, as the harness's `evaluate` takes them.

    Raises:
        ConfigError: one can't be loaded.
    """
    names = list(settings.tasks)
    try:
        tasks: Any = _manager(_folder(settings)).load(names)
    except Exception as error:
        raise ConfigError(
            f"lm_eval: {', '.join(names)} can't be loaded: {type(error).__name__}: {error}",
            "/lm_eval/tasks",
        ) from error
    for task in tasks["tasks"].values():
        own = task.get_config("num_fewshot")
        # 0 in a task file means that the task is made for it, as in the harness itself.
        if settings.num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=settings.num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return tasks


def _loaded_by_all(settings: LmEval, control: Control | None) -> Any:
    """Rank 0 downloads first; the others find the data in the cache."""
    first = engine.rank() == 0

    def load() -> Any:
        return load_tasks(settings)

    before = meanwhile(load if first else None, control)
    after = meanwhile(None if first else load, control)
    return before if first else after


def _manager(folder: Path | None) -> TaskManager:
    """The harness's task manager with our index: its own takes ten seconds to make."""
    manager = TaskManager(include_defaults=False)
    own = harness_tasks()
    for name, named in read_index(folder).items():
        manager.task_index[name] = _entry(named, own)
    return manager


def _entry(named: Named, own: Path | None) -> Entry:
    entry = Entry(named.name, _KINDS[named.kind], named.file, tags=set(named.members))
    if named.kind == "task" and named.file is not None and own not in named.file.parents:
        values = load_yaml(named.file, resolve_func=True)
        if values.get("dataset_path") in LOCAL_FORMATS:
            # Data beside the task file is found wherever the run's working directory is.
            settings = dict(values.get("dataset_kwargs") or {})
            for field in ("data_files", "data_dir"):
                if field in settings:
                    settings[field] = _beside(named.file, settings[field])
            values["dataset_kwargs"] = settings
            entry.cfg, entry.yaml_path = values, None
    return entry


def _beside(file: Path, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _beside(file, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_beside(file, inner) for inner in value]
    if not isinstance(value, str) or "://" in value:
        return value
    path = Path(value).expanduser()
    near = file.resolve().parent / path
    return str(near) if any(near.parent.glob(near.name)) else str(path)


# --- surroundings -------------------------------------------------------------------------------


@contextlib.contextmanager
def _polled(control: Control | None) -> Iterator[None]:
    """While requests are made from documents, the same on every rank, all ranks vote as well."""

    def voting(documents: Iterable[Any], **_: Any) -> Iterator[Any]:
        for number, document in enumerate(documents):
            if number % _BUILT_AT_ONCE == 0:
                in_step([], lambda _: None, control)
            yield document

    # In place of the progress bar that the harness draws around its documents.
    bar = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = voting
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's log and progress bars, and without the processes it would fork."""
    import datasets

    log = logging.getLogger("lm_eval")
    level, bars = log.level, datasets.is_progress_bar_enabled()
    forking = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = forking or "1"
    log.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if forking is None:
            del os.environ["DISABLE_MULTIPROC"]
        log.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Tasks draw numbers from the process's generators: start them alike, then put them back."""
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[engine.device()] if torch.cuda.is_available() else []):
        random.seed(0)
        np.random.seed(FEWSHOT_SEED)
        torch.manual_seed(FEWSHOT_SEED)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
