"""Tokenised samples on disk, and sets of them in memory.

A shard is a folder of flat arrays without headers, mapped into memory to be read, and `index.json`,
which holds their sizes: a shard that was cut short is noticed. Sample i of a shard is the slice
`offsets[i]:offsets[i + 1]` of `tokens` and `targets`, its answer the slice of `answers`.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from trainer.data.chat import Encoded

_INDEX = "index.json"
_ARRAYS: dict[str, npt.DTypeLike] = {
    "tokens": np.int32,
    "targets": np.bool_,
    "offsets": np.int64,
    "prompts": np.int32,
    "target_counts": np.int32,
    "answers": np.uint8,
    "answer_offsets": np.int64,
}


class Shard:
    """The samples of one source, as `open_shard` finds them.

    `offsets` and `answer_offsets` are (samples + 1,), `prompts` and `target_counts` (samples,).
    `facts` is what else is known of them.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.key = folder.name
        self.facts = facts
        arrays = {name: _map(folder / name, kind) for name, kind in _ARRAYS.items()}
        self.tokens: npt.NDArray[np.int32] = arrays["tokens"]
        self.targets: npt.NDArray[np.bool_] = arrays["targets"]
        self.offsets: npt.NDArray[np.int64] = arrays["offsets"]
        self.prompts: npt.NDArray[np.int32] = arrays["prompts"]
        self.target_counts: npt.NDArray[np.int32] = arrays["target_counts"]
        self._answers: npt.NDArray[np.uint8] = arrays["answers"]
        self._answer_offsets: npt.NDArray[np.int64] = arrays["answer_offsets"]

    def __len__(self) -> int:
        return len(self.prompts)

    def answer(self, index: int) -> str:
        begin, end = self._answer_offsets[index], self._answer_offsets[index + 1]
        return self._answers[begin:end].tobytes().decode()


class TokenSet:
    """The usable samples of one or more sources, one after the other. Nothing is copied.

    Attributes:
        lengths: tokens of each sample, (samples,).
        target_counts: target tokens of each sample, (samples,), at least 1.
        prompts: tokens before the last assistant turn, (samples,); 0 where there is none.
        answers: that turn's text, by sample; read from disk when asked for.
        sizes: samples of each source.
        tokens: of all samples together.
        too_long: samples that exceeded max_length and were left out.
        key: of the content: equal keys, equal samples in equal order.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = tuple(shards)
        self.sizes = tuple(len(shard) for shard in shards)
        self._starts = np.cumsum([0, *self.sizes]).tolist()
        self.lengths: npt.NDArray[np.int64] = _joined([np.diff(s.offsets) for s in shards])
        self.target_counts: npt.NDArray[np.int32] = _joined([s.target_counts for s in shards])
        self.prompts: npt.NDArray[np.int32] = _joined([s.prompts for s in shards])
        self.answers: Sequence[str] = _Answers(self)
        self.tokens = sum(len(shard.tokens) for shard in shards)
        self.too_long = sum(int(shard.facts["too_long"]) for shard in shards)
        self.key = ",".join(shard.key for shard in shards)

    def __len__(self) -> int:
        return self._starts[-1]

    def sample(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Token ids and target mask of one sample, both (tokens,)."""
        shard, index = self._at(index)
        part = slice(shard.offsets[index], shard.offsets[index + 1])
        return shard.tokens[part], shard.targets[part]

    def prompt(self, index: int) -> npt.NDArray[np.int32]:
        """Tokens that the model is given before the sample's last assistant turn."""
        shard, index = self._at(index)
        begin = shard.offsets[index]
        return shard.tokens[begin : begin + shard.prompts[index]]

    def answer(self, index: int) -> str:
        """Text of the sample's last assistant turn."""
        shard, index = self._at(index)
        return shard.answer(index)

    def _at(self, index: int) -> tuple[Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        return self._shards[number], index - self._starts[number]


class _Answers(Sequence[str]):
    """The answers of a set, read when asked for."""

    def __init__(self, samples: TokenSet) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._samples.answer(i) for i in range(*index.indices(len(self)))]
        return self._samples.answer(index + len(self) if index < 0 else index)

    def __iter__(self) -> Iterator[str]:
        return map(self._samples.answer, range(len(self)))


# --- on disk ----------------------------------------------------------------------------------


def open_shard(folder: Path) -> Shard | None:
    """The shard in `folder`; None if there is none, or not a whole one."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == index["bytes"][name] for name in _ARRAYS)
        return Shard(folder, index["facts"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class ShardWriter:
    """Writes a shard sample by sample, so that memory doesn't grow with the data.

    The shard is whole, and on the disk, when `close` has returned.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams = {name: (folder / name).open("wb") for name in _ARRAYS}
        self._tokens = 0
        self._characters = 0
        self.count = 0
        self._put("offsets", np.zeros(1, np.int64))
        self._put("answer_offsets", np.zeros(1, np.int64))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stream in self._streams.values():
            stream.close()

    def add(self, samples: Sequence[Encoded]) -> None:
        """Append samples."""
        if not samples:
            return
        answers = [sample.answer.encode() for sample in samples]
        ends = self._tokens + np.cumsum([len(sample.tokens) for sample in samples], dtype=np.int64)
        answer_ends = self._characters + np.cumsum([len(a) for a in answers], dtype=np.int64)
        self._put("tokens", np.concatenate([sample.tokens for sample in samples]))
        self._put("targets", np.concatenate([sample.targets for sample in samples]))
        self._put("offsets", ends)
        self._put("prompts", np.array([sample.prompt for sample in samples], np.int32))
        counts = [np.count_nonzero(sample.targets) for sample in samples]
        self._put("target_counts", np.array(counts, np.int32))
        self._streams["answers"].write(b"".join(answers))
        self._put("answer_offsets", answer_ends)
        self._tokens, self._characters = int(ends[-1]), int(answer_ends[-1])
        self.count += len(samples)

    def close(self, facts: dict[str, Any]) -> None:
        """Write the index, after everything else has reached the disk."""
        sizes: dict[str, int] = {}
        for name, stream in self._streams.items():
            stream.flush()
            os.fsync(stream.fileno())
            sizes[name] = stream.tell()
            stream.close()
        with (self._folder / _INDEX).open("w", encoding="utf-8") as stream:
            json.dump({"bytes": sizes, "facts": facts}, stream)
            stream.flush()
            os.fsync(stream.fileno())

    def _put(self, name: str, array: npt.NDArray[Any]) -> None:
        self._streams[name].write(array.data)


def _map(file: Path, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    if not file.stat().st_size:  # nothing can't be mapped
        return np.empty(0, dtype=kind)
    return np.asarray(np.memmap(file, dtype=kind, mode="r"))


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
