"""Messages JSONL to token arrays on disk.

A file is read, checked line by line, rendered and tokenised once; the result is kept under a name
that is the hash of everything it depends on, so concurrent runs share it and a changed file is
never mistaken for an old one. Reading it back maps it into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from trainer.chat import ChatEncoder, Message, TemplateError
from trainer.config import TrainConfig
from trainer.errors import DataError
from trainer.model import tokenizer_key

FORMAT = "1"
ROLES = ("system", "user", "assistant", "tool")
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The usable samples of one or more files.

    `tokens` and `targets` are flat; sample i is the slice `offsets[i]:offsets[i + 1]`. `prompts`
    (samples,) counts the tokens before the last assistant turn, `answers` holds that turn's text.
    `too_long` samples exceeded max_length and were left out.
    """

    tokens: npt.NDArray[np.int32]
    targets: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    prompts: npt.NDArray[np.int32]
    target_counts: npt.NDArray[np.int32]
    answers: tuple[str, ...]
    too_long: int
    key: str

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sample, (samples,)."""
        return np.diff(self.offsets)

    def sample(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Token ids and target mask of one sample, both (tokens,)."""
        begin, end = self.offsets[index], self.offsets[index + 1]
        return self.tokens[begin:end], self.targets[begin:end]

    def prompt(self, index: int) -> npt.NDArray[np.int32]:
        """Tokens the model is given before the sample's last assistant turn."""
        begin = self.offsets[index]
        return self.tokens[begin : begin + self.prompts[index]]


@dataclass(frozen=True, slots=True)
class RunData:
    """All data of a run. `eval` and `test` map a set's name to its samples."""

    train: TokenSet
    eval: dict[str, TokenSet]
    test: dict[str, TokenSet]
    too_long: dict[str, int]

    def summary(self) -> str:
        """Two lines for a person."""
        train = self.train
        held = {**self.eval, **{f"{name} (test)": s for name, s in self.test.items()}}
        sets = ", ".join(f"{name} {len(s):,}" for name, s in held.items()) or "none"
        left_out = sum(self.too_long.values())
        return (
            f"train: {len(train):,} samples, {len(train.tokens):,} tokens, "
            f"{int(train.target_counts.sum()):,} of them targets\n"
            f"held out: {sets}; left out as too long: {left_out:,}"
        )


def load_data(config: TrainConfig, folder: Path, tokenizer: Any) -> RunData:
    """Load, or make and keep, every file of `config.data`.

    Args:
        config: the run.
        folder: the model folder `tokenizer` came from.
        tokenizer: with the chat template in force.

    Raises:
        DataError: names file, line and what to do.
    """
    cache = cache_dir(config)
    base = f"{FORMAT}:{tokenizer_key(folder, tokenizer)}:{config.data.max_length}"
    encoder = ChatEncoder(tokenizer)
    too_long: dict[str, int] = {}

    def one(path: str) -> TokenSet:
        found = load_file(Path(path).expanduser(), cache, base, encoder, config.data.max_length)
        if found.too_long:
            too_long[path] = found.too_long
        return found

    return RunData(
        train=_join([one(entry.path) for entry in config.data.train]),
        eval={entry.name: one(entry.path) for entry in config.data.eval},
        test={entry.name: one(entry.path) for entry in config.data.test},
        too_long=too_long,
    )


def cache_dir(config: TrainConfig) -> Path:
    """Where the run's tokenised files are kept."""
    if config.data.cache_dir is not None:
        return Path(config.data.cache_dir).expanduser()
    return Path(config.output_dir).expanduser() / "cache"


def load_file(
    path: Path, cache: Path, base: str, encoder: ChatEncoder, max_length: int
) -> TokenSet:
    """One file's samples, from `cache` if it is there. `base` identifies tokenizer and settings."""
    key = hashlib.sha256(f"{base}:{_file_hash(path)}".encode()).hexdigest()[:40]
    entry = cache / key
    if not entry.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            if not entry.is_dir():
                _write(entry, *_encode_file(path, encoder, max_length))
    return _read(entry)


# --- reading and checking messages ------------------------------------------------------------


def read_messages(path: Path) -> Iterator[tuple[int, list[Message]]]:
    """Yield (line number, messages) for each line that isn't blank.

    Raises:
        DataError: the file is absent or empty, or a line is malformed.
    """
    _require(path)
    seen = False
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.strip():
                continue
            seen = True
            yield number, _parse(raw, path, number)
    if not seen:
        raise DataError("the file is empty; it needs one JSON object with messages a line", path)


def _require(path: Path) -> None:
    if path.is_dir():
        raise DataError("is a folder; give a messages JSONL file", path)
    if not path.is_file():
        raise DataError("no such file; check the path", path)


def _parse(raw: bytes, path: Path, number: int) -> list[Message]:
    try:
        value = json.loads(raw)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason})", path, number) from None
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", path, number) from None
    if not isinstance(value, dict):
        raise DataError('not a JSON object; write {"messages": [...]}', path, number)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError('has no messages; write {"messages": [...]}', path, number)
    parsed: list[Message] = []
    for position, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise DataError(f"message {position} is not a JSON object", path, number)
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(
                f"message {position} has role {role!r}; use one of {', '.join(ROLES)}", path, number
            )
        if not isinstance(content, str):
            raise DataError(
                f"message {position}: content is {type(content).__name__}, not text", path, number
            )
        parsed.append({"role": role, "content": content})
    if not any(message["role"] == "assistant" for message in parsed):
        raise DataError(
            "has no assistant turn, so nothing can be learned from it; add one or remove the line",
            path,
            number,
        )
    return parsed


def _file_hash(path: Path) -> str:
    _require(path)
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        with path.open("rb") as stream:
            _hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _hashes[key]


_hashes: dict[tuple[str, int, int], str] = {}


# --- the cache --------------------------------------------------------------------------------


def _encode_file(
    path: Path, encoder: ChatEncoder, max_length: int
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    tokens: list[npt.NDArray[np.int32]] = []
    targets: list[npt.NDArray[np.bool_]] = []
    prompts: list[int] = []
    answers: list[str] = []
    too_long = longest = 0
    for lines in _chunks(read_messages(path)):
        encoded = encoder.encode([messages for _, messages in lines])
        for (number, _), result in zip(lines, encoded, strict=True):
            if isinstance(result, TemplateError):
                raise DataError(str(result), path, number)
            longest = max(longest, len(result.tokens))
            if len(result.tokens) > max_length:
                too_long += 1
                continue
            tokens.append(result.tokens)
            targets.append(result.targets)
            prompts.append(result.prompt)
            answers.append(result.answer)
    if not tokens:
        raise DataError(
            f"all {too_long:,} samples are longer than max_length = {max_length} tokens (the "
            f"longest has {longest:,}); raise max_length",
            path,
        )
    arrays: dict[str, npt.NDArray[Any]] = {
        "tokens": np.concatenate(tokens),
        "targets": np.concatenate(targets),
        "offsets": np.concatenate([[0], np.cumsum([len(t) for t in tokens])]).astype(np.int64),
        "prompts": np.array(prompts, dtype=np.int32),
        "target_counts": np.array([int(t.sum()) for t in targets], dtype=np.int32),
    }
    return arrays, {"answers": answers, "too_long": too_long}


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write(entry: Path, arrays: dict[str, npt.NDArray[Any]], index: dict[str, Any]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=entry.parent))
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        os.replace(temporary, entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(entry: Path) -> TokenSet:
    if entry not in _open_sets:
        index = json.loads((entry / "index.json").read_text(encoding="utf-8"))
        _open_sets[entry] = TokenSet(
            tokens=np.load(entry / "tokens.npy", mmap_mode="r"),
            targets=np.load(entry / "targets.npy", mmap_mode="r"),
            offsets=np.load(entry / "offsets.npy"),
            prompts=np.load(entry / "prompts.npy"),
            target_counts=np.load(entry / "target_counts.npy"),
            answers=tuple(index["answers"]),
            too_long=int(index["too_long"]),
            key=entry.name,
        )
    return _open_sets[entry]


_open_sets: dict[Path, TokenSet] = {}
"""Sets this process has mapped already; entries never change once they exist."""


def _join(sets: Sequence[TokenSet]) -> TokenSet:
    """The samples of several files, one after the other."""
    if len(sets) == 1:
        return sets[0]
    key = ",".join(s.key for s in sets)
    if key not in _joined:
        starts = np.cumsum([0, *(len(s.tokens) for s in sets)])
        offsets = [s.offsets[:-1] + start for s, start in zip(sets, starts[:-1], strict=True)]
        _joined[key] = TokenSet(
            tokens=np.concatenate([s.tokens for s in sets]),
            targets=np.concatenate([s.targets for s in sets]),
            offsets=np.concatenate([*offsets, starts[-1:]]).astype(np.int64),
            prompts=np.concatenate([s.prompts for s in sets]),
            target_counts=np.concatenate([s.target_counts for s in sets]),
            answers=tuple(answer for s in sets for answer in s.answers),
            too_long=sum(s.too_long for s in sets),
            key=key,
        )
    return _joined[key]


_joined: dict[str, TokenSet] = {}
