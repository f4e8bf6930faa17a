"""Everything that can be found wrong with a run before it starts, without torch or a GPU.

    python -m trainer check config.yaml      (or - for standard input)

prints one line of JSON. The data is tokenised into the cache on the way, where the run finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trainer.chat import ChatEncoder
from trainer.config import TrainConfig
from trainer.data import FORMAT, TokenSet, cache_dir, load_file
from trainer.errors import DataError, ModelError, TrainerError
from trainer.model import check_model, count_parameters, load_tokenizer, tokenizer_key

T = TypeVar("T")


@dataclass(slots=True)
class Finding:
    """One thing wrong: a JSON pointer into the configuration, and a sentence for a person."""

    pointer: str
    message: str


@dataclass(slots=True)
class Report:
    """What was found. Counts are of usable samples; `too_long` maps a path to those left out."""

    ok: bool = True
    errors: list[Finding] = field(default_factory=list)
    train_samples: int = 0
    too_long: dict[str, int] = field(default_factory=dict)
    train_tokens: int = 0
    eval_samples: dict[str, int] = field(default_factory=dict)
    test_samples: dict[str, int] = field(default_factory=dict)
    parameters: int = 0

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def blame(self, pointer: str, message: str) -> None:
        self.ok = False
        self.errors.append(Finding(pointer, message))


def check(config: TrainConfig) -> Report:
    """Check model, tokenizer, data and sizes; every file is looked at, so errors come together."""
    report = Report()
    folder = _attempt(report, "/model", lambda: check_model(config.model))
    tokenizer = None
    if folder is not None:
        report.parameters = _attempt(report, "/model", lambda: count_parameters(folder)) or 0
        pointer = "/model" if config.data.chat_template is None else "/data/chat_template"
        tokenizer = _attempt(
            report, pointer, lambda: load_tokenizer(folder, config.data.chat_template)
        )
    if folder is None or tokenizer is None:
        _check_paths(config, report)
        return report

    base = f"{FORMAT}:{tokenizer_key(folder, tokenizer)}:{config.data.max_length}"
    encoder, cache = ChatEncoder(tokenizer), cache_dir(config)
    longest = 0
    for pointer, split, name, path in _files(config):
        file = Path(path).expanduser()
        found: TokenSet | None = _attempt(
            report,
            pointer,
            lambda file=file: load_file(file, cache, base, encoder, config.data.max_length),
        )
        if found is None:
            continue
        if found.too_long:
            report.too_long[path] = found.too_long
        if split == "train":
            report.train_samples += len(found)
            report.train_tokens += len(found.tokens)
            longest = max(longest, int(found.lengths.max()))
        else:
            counts = report.eval_samples if split == "eval" else report.test_samples
            counts[name] = len(found)
    if report.ok:
        for pointer, message in size_problems(config, report.train_samples, longest):
            report.blame(pointer, message)
    return report


def size_problems(config: TrainConfig, samples: int, longest: int) -> list[tuple[str, str]]:
    """(JSON pointer, message) for each way the data doesn't fit the batch sizes of `config`.

    Args:
        config: the run.
        samples: usable training samples.
        longest: tokens of the longest of them.
    """
    problems: list[tuple[str, str]] = []
    if config.effective_batch_size > samples and config.max_samples != 0:
        problems.append(
            (
                "/effective_batch_size",
                f"effective_batch_size is {config.effective_batch_size:,}, but there are only "
                f"{samples:,} usable training samples; set it to {samples:,} or less",
            )
        )
    if longest > config.max_tokens_per_microbatch:
        problems.append(
            (
                "/max_tokens_per_microbatch",
                f"max_tokens_per_microbatch is {config.max_tokens_per_microbatch:,}, but the "
                f"longest training sample has {longest:,} tokens; raise it, or lower "
                "data.max_length",
            )
        )
    return problems


def _files(config: TrainConfig) -> list[tuple[str, str, str, str]]:
    """(pointer, split, set name, path) of every data file."""
    data = config.data
    files = [
        (f"/data/train/{i}/path", "train", "", entry.path) for i, entry in enumerate(data.train)
    ]
    for split, sets in (("eval", data.eval), ("test", data.test)):
        files += [
            (f"/data/{split}/{i}/path", split, entry.name, entry.path)
            for i, entry in enumerate(sets)
        ]
    return files


def _check_paths(config: TrainConfig, report: Report) -> None:
    """Without a tokenizer, at least say which files aren't there."""
    for pointer, _, _, path in _files(config):
        if not Path(path).expanduser().is_file():
            report.blame(pointer, str(DataError("no such file; check the path", path)))


def _attempt(report: Report, pointer: str, action: Callable[[], T]) -> T | None:
    try:
        return action()
    except TrainerError as error:
        report.blame(pointer, str(error))
    except OSError as error:
        report.blame(pointer, str(ModelError(f"can't be read: {error}")))
    return None
