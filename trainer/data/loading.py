"""All data of a run, from the cache or into it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.config import DataConfig, Source, TrainConfig
from trainer.data.cache import Cache
from trainer.data.chat import ChatEncoder, Draft, Encoded
from trainer.data.messages import Conversation, RowError, parse_row
from trainer.data.rendering import TemplateError
from trainer.data.shards import Shard, ShardWriter, TokenSet, open_shard
from trainer.data.sources import Rows, open_source
from trainer.errors import DataError
from trainer.model import tokenizer_key

FORMAT = "2"
"""Of what is kept; changes whenever the same input would give something else."""
_CHUNK_ROWS = 512
_CHUNK_CHARACTERS = 4_000_000
_SAY_EVERY = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunData:
    """All data of a run.

    `eval`, `test` and `general` map a set's name to its samples, `too_long` a path to the samples
    left out. `sets` are the samples of each training set, in order.
    """

    train: TokenSet
    eval: dict[str, TokenSet]
    test: dict[str, TokenSet]
    too_long: dict[str, int]
    general: dict[str, TokenSet] = field(default_factory=dict[str, TokenSet])

    @property
    def sets(self) -> tuple[int, ...]:
        return self.train.sizes

    def summary(self) -> str:
        """Two lines for a person."""
        train = self.train
        held = {
            **self.eval,
            **{f"{name} (test)": samples for name, samples in self.test.items()},
            **{f"{name} (general)": samples for name, samples in self.general.items()},
        }
        sets = ", ".join(f"{name} {len(s):,}" for name, s in held.items()) or "none"
        left_out = sum(self.too_long.values())
        return (
            f"train: {len(train):,} samples, {train.tokens:,} tokens, "
            f"{int(train.target_counts.sum()):,} of them targets\n"
            f"held out: {sets}; left out as too long: {left_out:,}"
        )


def load_data(config: TrainConfig, folder: Path, tokenizer: Any) -> RunData:
    """Load, or make and keep, every set of `config.data`.

    Args:
        config: the run.
        folder: the model folder `tokenizer` came from.
        tokenizer: with the chat template in force.

    Raises:
        DataError: names file, line and what to do.
        ModelError: the tokenizer isn't a fast one.
    """
    loader = Loader(config, folder, tokenizer)
    data = config.data
    train = TokenSet([loader.shard(source) for source in data.train])
    return RunData(
        train=train,
        eval={s.name: loader.load(s, answered=config.exact_match) for s in data.eval},
        test={s.name: loader.load(s, answered=config.exact_match) for s in data.test},
        general={s.name: loader.load(s) for s in data.general},
        too_long=dict(loader.too_long),
    )


def cache_dir(config: TrainConfig) -> Path:
    """Where the run's tokenised files are kept."""
    if config.data.cache_dir is not None:
        return Path(config.data.cache_dir).expanduser()
    return Path(config.output_dir).expanduser() / "cache"


class Loader:
    """Loads sources for one run, one at a time; `too_long` maps a path to the samples left out."""

    def __init__(self, config: TrainConfig, folder: Path, tokenizer: Any) -> None:
        self._data: DataConfig = config.data
        self._roots = config.roots.data
        self._tokenizer = tokenizer
        self._cache = Cache(cache_dir(config))
        self._base = ":".join(
            [
                FORMAT,
                tokenizer_key(folder, tokenizer),
                str(config.data.max_length),
                config.data.unmask,
            ]
        )
        self.too_long: dict[str, int] = {}

    def load(self, source: Source, *, answered: bool = False) -> TokenSet:
        """The samples of one source.

        Args:
            source: where they are.
            answered: each must have a question and an answer, to be compared with the model's.

        Raises:
            DataError: names file, line and what to do.
        """
        found = TokenSet([self.shard(source)])
        bare = int((found.prompts == 0).sum()) if answered else 0
        if bare:
            raise DataError(
                f"{bare:,} of {len(found):,} samples have no question and answer that could be "
                "compared (plain text, or no assistant turn to be learned); list the set under "
                "data.general, or set exact_match: false",
                source.path,
            )
        return found

    def shard(self, source: Source) -> Shard:
        """The samples of one source, as they are kept."""
        rows = open_source(source, self._roots)
        identity = f"{self._base}:{rows.identity(self._cache)}"
        key = hashlib.sha256(identity.encode()).hexdigest()[:40]
        where = self._cache.folder / key
        if where not in _open_shards:
            _open_shards[where] = self._cache.get(
                key, open_shard, lambda draft: self._make(draft, rows)
            )
        shard = _open_shards[where]
        if shard.facts["too_long"]:
            self.too_long[source.path] = int(shard.facts["too_long"])
        return shard

    @cached_property
    def _encoder(self) -> ChatEncoder:
        return ChatEncoder(self._tokenizer, self._data.unmask, max_length=self._data.max_length)

    def _make(self, folder: Path, rows: Rows) -> None:
        """Tokenise all rows into a shard in `folder`."""
        limit = self._data.max_length
        too_long = longest = count = 0
        said = time.monotonic()
        with ShardWriter(folder) as writer:
            for numbers, results in encoded(rows, self._encoder):
                samples: list[Encoded] = []
                for number, result in zip(numbers, results, strict=True):
                    if isinstance(result, TemplateError):
                        raise rows.error(str(result), number)
                    samples += result
                fitting = [s for s in samples if len(s.tokens) <= limit]
                writer.add(fitting)
                count += len(numbers)
                too_long += len(samples) - len(fitting)
                longest = max([longest, *(len(s.tokens) for s in samples)])
                if time.monotonic() - said > _SAY_EVERY:
                    said = time.monotonic()
                    _log.info("%s: %s rows tokenised", rows.error("").path, f"{count:,}")
            if not count:
                raise rows.error("is empty; it needs rows with messages")
            if not writer.count:
                raise rows.error(
                    f"all {too_long:,} samples are longer than max_length = {limit} tokens (the "
                    f"longest has {longest:,}); raise max_length"
                )
            writer.close({"too_long": too_long, "longest": longest, "rows": count})


_open_shards: dict[Path, Shard] = {}
"""Shards that this process has mapped already; they never change once they exist."""


def encoded(
    rows: Rows, encoder: ChatEncoder
) -> Iterator[tuple[list[int], list[list[Encoded] | TemplateError]]]:
    """(row numbers, results) of chunk after chunk.

    One chunk's texts are tokenised, by the tokenizer's threads, while the next one is rendered.
    """
    with ThreadPoolExecutor(1) as tokenizing:
        ahead: tuple[list[int], list[list[Draft] | TemplateError], Future[list[Any]]] | None = None
        for numbers, conversations in _chunks(rows):
            drafts = encoder.draft(conversations)
            encodings = tokenizing.submit(encoder.tokenize, drafts)
            if ahead is not None:
                yield ahead[0], encoder.finish(ahead[1], ahead[2].result())
            ahead = (numbers, drafts, encodings)
        if ahead is not None:
            yield ahead[0], encoder.finish(ahead[1], ahead[2].result())


def _chunks(rows: Rows) -> Iterator[tuple[list[int], list[Conversation]]]:
    """(row numbers, conversations), some hundreds at a time, fewer if they are long."""
    numbers: list[int] = []
    conversations: list[Conversation] = []
    characters = 0
    for row in rows:
        try:
            conversation = parse_row(row.value, nulls_are_gaps=rows.table)
        except RowError as error:
            raise rows.error(str(error), row.number) from None
        numbers.append(row.number)
        conversations.append(conversation)
        characters += len(conversation.text or "") + sum(
            len(message.get("content", "")) for message in conversation.messages
        )
        if len(numbers) == _CHUNK_ROWS or characters > _CHUNK_CHARACTERS:
            yield numbers, conversations
            numbers, conversations, characters = [], [], 0
    if numbers:
        yield numbers, conversations
