"""What is wrong with a run's benchmarks and judge, found before it trains. Imports no torch."""

from __future__ import annotations

import contextlib
import difflib
import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer import code
from trainer import roots as confined
from trainer.config import Judge, LmEval, Roots, TrainConfig
from trainer.errors import TrainerError
from trainer.evaluate.questions import read_questions
from trainer.evaluate.task_index import (
    Entry,
    harness_tasks,
    read_index,
    read_task,
    task_files,
    task_names,
)

Problem = tuple[str, str]
"""A JSON pointer into the configuration, and a sentence for a person."""

LOCAL_FORMATS = ("json", "csv", "parquet", "arrow", "text")
"""Values of `dataset_path` that read the files named in `dataset_kwargs`."""

_MOST_READ = 200
"""A group of more tasks than this is one of the harness's own: only its names are checked."""
_TRUE = ("1", "on", "yes", "true")


def problems(config: TrainConfig, environment: Mapping[str, str] | None = None) -> list[Problem]:
    """Everything that can be found wrong with `lm_eval` and `judge`; [] if they can be run.

    Args:
        config: the run.
        environment: where the judge's key and the hub's settings are looked for; the process's
            own if None.
    """
    environment = os.environ if environment is None else environment
    found: list[Problem] = []
    if config.lm_eval is not None:
        try:
            settings = confined_tasks(config.lm_eval, config.roots)
            found += _harness_problems(settings, environment)
        except TrainerError as error:
            found.append(("/lm_eval/include_path", str(error)))
    if config.judge is not None:
        found += _judge_problems(config.judge, environment, config.roots)
    return found


def confined_tasks(settings: LmEval, roots: Roots) -> LmEval:
    """The settings with a checked copy of the task files, where only certain ones may run.

    Raises:
        ModelError: they aren't those that were allowed.
        OutsideError: they lie outside of what may be read.
    """
    if settings.include_path is None or (roots.data is None and roots.tasks is None):
        return settings
    folder = confined.folder(settings.include_path, roots.data)
    if roots.tasks is not None:
        folder = code.staged(folder, roots.tasks, code.TASK_CODE)
    return settings.model_copy(update={"include_path": str(folder)})


# --- lm-evaluation-harness ----------------------------------------------------------------------


def _harness_problems(settings: LmEval, environment: Mapping[str, str]) -> list[Problem]:
    own = harness_tasks()
    if own is None:
        return [("/lm_eval", "lm_eval needs the package lm-eval: pip install lm-eval")]
    folder = None
    if settings.include_path is not None:
        folder = Path(settings.include_path).expanduser()
        if not folder.is_dir():
            return [("/lm_eval/include_path", f"{folder} is not a folder; check the path")]
    index = read_index(folder)
    found: list[Problem] = []
    if folder is not None:
        found += [("/lm_eval/include_path", message) for message in _broken_files(folder)]
    owners: dict[str, str] = {}
    for position, name in enumerate(settings.tasks):
        pointer = f"/lm_eval/tasks/{position}"
        if name not in index:
            found.append((pointer, _unknown(name, index, folder)))
            continue
        names = task_names(index, name)
        twice = sorted(task for task in names if task in owners)
        if twice:
            found.append(
                (pointer, f"task {twice[0]} is in both {owners[twice[0]]} and {name}; name it once")
            )
        owners |= dict.fromkeys(names, name)
        tasks = list(_read_tasks(index, names, own))
        found += [(pointer, message) for message in _task_problems(tasks)]
        found += [(pointer, message) for message in _not_cached(tasks, environment)]
    return found


def _broken_files(folder: Path) -> Iterator[str]:
    empty = True
    for file in task_files(folder):
        empty = False
        try:
            read_task(file)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f"{file}, line {mark.line + 1}" if mark else str(file)
            yield f"{where}: not YAML ({error.problem})"
        except (OSError, ValueError, yaml.YAMLError) as error:
            yield f"{file}: {error}"
    if empty:
        yield f"{folder} holds no task file; task files end in .yaml"


def _unknown(name: str, index: Mapping[str, Entry], folder: Path | None) -> str:
    if name.endswith((".yaml", ".yml")):
        return (
            f"{name!r} is a file; give the name that stands in it as `task:`, and its folder as "
            "include_path"
        )
    lower = {known.lower(): known for known in index}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    hint = f"; did you mean {', '.join(lower[n] for n in near)}?" if near else ""
    where = f" or {folder}" if folder is not None else "; tasks of your own need include_path"
    return f"unknown task {name!r}: not in lm-evaluation-harness{where}{hint}"


def _read_tasks(
    index: Mapping[str, Entry], names: set[str], own: Path
) -> Iterator[tuple[Entry, dict[str, Any]]]:
    entries = [entry for name in sorted(names) if (entry := index.get(name)) and entry.file]
    if len(entries) > _MOST_READ:
        entries = [entry for entry in entries if entry.file and own not in entry.file.parents]
    for entry in entries:
        assert entry.file is not None
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):  # told by _broken_files
            yield entry, read_task(entry.file)


def _task_problems(tasks: list[tuple[Entry, dict[str, Any]]]) -> Iterator[str]:
    for entry, task in tasks:
        if task.get("unsafe_code"):
            yield (
                f"task {entry.name} runs code that the model writes, which winnow doesn't do; "
                "leave it out"
            )
        if task.get("doc_to_image") or task.get("doc_to_audio"):
            yield f"task {entry.name} needs a model that sees or hears; leave it out"
        yield from _missing_data(entry, task)


def _not_cached(
    tasks: list[tuple[Entry, dict[str, Any]]], environment: Mapping[str, str]
) -> Iterator[str]:
    """Data sets of the hub that a run without a network won't find."""
    offline = [
        name
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
        if environment.get(name, "").lower() in _TRUE
    ]
    if not offline:
        return
    home = Path(environment.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    hub = Path(environment.get("HF_HUB_CACHE") or home / "hub").expanduser()
    made = Path(environment.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()
    seen: set[str] = set()
    for entry, task in tasks:
        source = task.get("dataset_path")
        if not isinstance(source, str) or source in seen or source in LOCAL_FORMATS:
            continue
        seen.add(source)
        places = (hub / f"datasets--{source.replace('/', '--')}", made / source.replace("/", "___"))
        if "custom_dataset" in task or source.startswith((".", "/", "~")):
            continue
        if not any(place.is_dir() for place in places):
            yield (
                f"task {entry.name} needs the data set {source}, which is not in {home}, and "
                f"{offline[0]} is set; fetch it once where there is a network"
            )


def _missing_data(entry: Entry, task: dict[str, Any]) -> Iterator[str]:
    assert entry.file is not None
    for named, candidates in local_data(entry.file, task):
        if not any(glob.glob(str(path)) for path in candidates):
            looked = " and ".join(str(path.parent) for path in candidates)
            yield (
                f"task {entry.name} ({entry.file}) reads {named}, which doesn't exist; looked in "
                f"{looked}"
            )


def local_data(file: Path, task: dict[str, Any]) -> Iterator[tuple[str, list[Path]]]:
    """Each local path that a task file names as its data, and where it may be.

    A relative one is looked for beside the task file, then in the working directory.
    """
    source = task.get("dataset_path")
    if not isinstance(source, str):
        return
    if source not in LOCAL_FORMATS:
        if source.startswith((".", "/", "~")):
            yield source, _places(file, source)
        return
    settings = task.get("dataset_kwargs")
    settings = settings if isinstance(settings, dict) else {}
    for named in [*_paths(settings.get("data_files")), *_paths(settings.get("data_dir"))]:
        if "://" not in named:
            yield named, _places(file, named)


def _paths(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [path for inner in value.values() for path in _paths(inner)]
    if isinstance(value, list):
        return [path for inner in value for path in _paths(inner)]
    return [value] if isinstance(value, str) else []


def _places(file: Path, named: str) -> list[Path]:
    path = Path(named).expanduser()
    return [path] if path.is_absolute() else [file.resolve().parent / path, Path.cwd() / path]


# --- the judge ----------------------------------------------------------------------------------


def _judge_problems(settings: Judge, environment: Mapping[str, str], roots: Roots) -> list[Problem]:
    found: list[Problem] = []
    try:
        read_questions(Path(settings.questions).expanduser(), roots.data)
    except TrainerError as error:
        found.append(("/judge/questions", str(error)))
    except OSError as error:
        found.append(("/judge/questions", f"{settings.questions} can't be read: {error}"))
    name = settings.api_key_env
    if name is not None and not environment.get(name):
        found.append(
            (
                "/judge/api_key_env",
                f"the environment variable {name} is not set; set it to the judge's key where the "
                "workers start, or leave api_key_env out if the endpoint needs none",
            )
        )
    return found
