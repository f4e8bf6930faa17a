"""Everything that can be found wrong with a run before it starts, without torch or a GPU.

    python -m trainer check config.yaml      (or - for standard input)

prints one line of JSON. The data is tokenised into the cache on the way, where the run finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from trainer import curriculum, memory
from trainer.config import EvalSet, Source, TrainConfig, trusted_code
from trainer.data import Loader, TokenSet
from trainer.data.sources import open_source
from trainer.errors import ModelError, TrainerError
from trainer.evaluate import tasks
from trainer.evaluate.extract import reference_problem
from trainer.identity import identities
from trainer.machine import host_memory, smallest_gpu
from trainer.model import check_model, count_parameters, four_bit_problem, load_tokenizer

T = TypeVar("T")
Device = Literal["gpu", "cpu", "elsewhere"]


@dataclass(slots=True)
class Finding:
    """One thing wrong: a JSON pointer into the configuration, and a sentence for a person."""

    pointer: str
    message: str


@dataclass(slots=True)
class Report:
    """What was found.

    Counts are of usable samples, by set name for those held out; `train_sets` are in the order of
    the configuration. `too_long` maps a path to those left out. `train_tokens` are all tokens of
    the training samples, `train_targets` those that are learned; `longest` and `mean_length` are
    in tokens. `model_sizes` are the fields of the model's `config.json` that its memory depends on,
    `memory_bytes` what this machine's smallest GPU, or the host, has. `identity` maps each path of
    the configuration (of a data set its `Source.key`) to a digest of what is there.
    """

    ok: bool = True
    errors: list[Finding] = field(default_factory=list[Finding])
    train_samples: int = 0
    train_sets: list[int] = field(default_factory=list[int])
    too_long: dict[str, int] = field(default_factory=dict[str, int])
    train_tokens: int = 0
    train_targets: int = 0
    longest: int = 0
    mean_length: float = 0.0
    eval_samples: dict[str, int] = field(default_factory=dict[str, int])
    test_samples: dict[str, int] = field(default_factory=dict[str, int])
    general_samples: dict[str, int] = field(default_factory=dict[str, int])
    parameters: int = 0
    model_sizes: dict[str, Any] = field(default_factory=dict[str, Any])
    memory_bytes: int | None = None
    identity: dict[str, str] = field(default_factory=dict[str, str])

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def blame(self, pointer: str, message: str) -> None:
        self.ok = False
        self.errors.append(Finding(pointer, message))


def check(config: TrainConfig, *, ranks: int | None = None, device: Device | None = None) -> Report:
    """Check model, tokenizer, data, sizes, memory and benchmarks.

    Everything is looked at, so errors come together.

    Args:
        config: the run.
        ranks: GPUs, or processes on CPU, that train together, where it is known.
        device: what they train on; `elsewhere`: another machine, whose memory isn't known here.
    """
    report = Report()
    for pointer, message in tasks.problems(config):
        report.blame(pointer, message)
    folder = _attempt(report, "/model", lambda: _model(config))
    tokenizer = None
    if folder is not None:
        report.parameters = _attempt(report, "/model", lambda: count_parameters(folder)) or 0
        pointer = "/model" if config.data.chat_template is None else "/data/chat_template"
        report.model_sizes = memory.model_sizes(folder)
        tokenizer = _attempt(report, pointer, lambda: _tokenizer(config, folder))
    if folder is None or tokenizer is None:
        for pointer, _, _, source in _sources(config):  # at least which files aren't there
            _attempt(report, pointer, lambda source=source: open_source(source, config.roots.data))
        return report

    if config.method == "qlora" and device != "elsewhere":
        problem = four_bit_problem()
        if problem is not None:
            report.blame("/method", problem)
    loader = Loader(config, folder, tokenizer)
    train: list[TokenSet] = []
    for pointer, split, name, source in _sources(config):
        answered = config.exact_match and split in ("eval", "test")
        found: TokenSet | None = _attempt(
            report,
            pointer,
            lambda source=source, answered=answered: loader.load(source, answered=answered),
        )
        if found is None:
            continue
        if split == "train":
            train.append(found)
        else:
            counts: dict[str, int] = getattr(report, f"{split}_samples")
            counts[name] = len(found)
            if not answered or not isinstance(source, EvalSet):
                continue
            problem = reference_problem(source.extract, found.answers)
            if problem is not None:
                report.blame(f"{pointer.removesuffix('/path')}/extract", f"{name}: {problem}")
    report.too_long = dict(loader.too_long)
    _count(report, train)
    if len(train) == len(config.data.train):
        sizes = report.train_sets = [len(samples) for samples in train]
        problems = size_problems(config, report.train_samples, report.longest, sets=sizes)
        if not problems and config.max_samples != 0 and device != "elsewhere":
            problems = memory.problems(
                config,
                folder,
                report.longest,
                ranks=ranks,
                device=device,
                parameters=report.parameters,
            )
        for pointer, message in problems:
            report.blame(pointer, message)
    if report.ok and device != "elsewhere":
        report.memory_bytes = smallest_gpu() if device == "gpu" else host_memory()
    if report.ok:
        report.identity = identities(config, folder)
    return report


def _model(config: TrainConfig) -> Path:
    return check_model(
        config.model,
        config.model_revision,
        roots=config.roots.models,
        trusted=config.trust_remote_code,
    )


def _tokenizer(config: TrainConfig, folder: Path) -> Any:
    return load_tokenizer(
        folder,
        config.data.chat_template,
        roots=config.roots.data,
        trusted=trusted_code(config),
    )


def size_problems(
    config: TrainConfig, samples: int, longest: int, *, sets: Sequence[int] | None = None
) -> list[tuple[str, str]]:
    """(JSON pointer, message) for each way the data doesn't fit the configuration.

    Args:
        config: the run.
        samples: usable training samples.
        longest: tokens of the longest of them.
        sets: usable samples of each training set, where they are known.
    """
    problems: list[tuple[str, str]] = []
    if config.max_samples == 0:
        return problems
    epoch = samples
    if sets is not None:
        problems += curriculum.problems(config.data, sets, config.epochs)
        epoch = max(1, curriculum.epoch_samples(config.data, sets))
    if config.effective_batch_size > epoch:
        of = "" if epoch == samples else f" ({epoch:,} in an epoch, by their weights)"
        problems.append(
            (
                "/effective_batch_size",
                f"effective_batch_size is {config.effective_batch_size:,}, but there are only "
                f"{samples:,} usable training samples{of}; set it to {epoch:,} or less",
            )
        )
    cap = config.max_tokens_per_microbatch
    if cap != "auto" and longest > cap:
        problems.append(
            (
                "/max_tokens_per_microbatch",
                f"max_tokens_per_microbatch is {cap:,}, but the longest training sample has "
                f"{longest:,} tokens; raise it, or lower data.max_length",
            )
        )
    return problems


def _count(report: Report, train: Sequence[TokenSet]) -> None:
    report.train_samples = sum(len(samples) for samples in train)
    report.train_tokens = sum(samples.tokens for samples in train)
    report.train_targets = sum(int(samples.target_counts.sum()) for samples in train)
    if train:
        report.longest = max(int(samples.lengths.max()) for samples in train)
        report.mean_length = round(report.train_tokens / report.train_samples, 1)


def _sources(config: TrainConfig) -> Iterator[tuple[str, str, str, Source]]:
    """(pointer, split, set name, source) of every set."""
    data = config.data
    for i, source in enumerate(data.train):
        yield f"/data/train/{i}/path", "train", "", source
    for split, sets in (("eval", data.eval), ("test", data.test), ("general", data.general)):
        for i, named in enumerate(sets):
            yield f"/data/{split}/{i}/path", split, named.name, named


def _attempt(report: Report, pointer: str, action: Callable[[], T]) -> T | None:
    try:
        return action()
    except TrainerError as error:
        report.blame(pointer, str(error))
    except OSError as error:
        report.blame(pointer, str(ModelError(f"can't be read: {error}")))
    return None
