"""What the base model's loss on general text was, kept so that it is measured once.

Retention is the change of that loss through training. Every trial of a sweep starts from the same
base model, so its loss is kept beside the tokenised data, under a name that is the hash of all it
depends on: the model's files, the samples, and how the model is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

_WEIGHTS = ("*.safetensors", "*.bin", "*.json")


@dataclass(frozen=True, slots=True)
class BaseLoss:
    """Mean token loss in nats of the base model over `tokens` target tokens of one set."""

    loss: float
    tokens: int


class BaseLosses:
    """The kept losses of one base model.

    Args:
        folder: where they are kept; shared by concurrent runs. The data cache is a good place.
        base: identifies the model and how it is loaded, see `base_key`.
    """

    def __init__(self, folder: Path, base: str) -> None:
        self._folder = folder
        self._base = base

    def read(self, data_key: str) -> BaseLoss | None:
        """The loss on the samples `data_key` (`TokenSet.key`), or None if it isn't known."""
        try:
            kept = json.loads(self._file(data_key).read_text(encoding="utf-8"))
            return BaseLoss(float(kept["loss"]), int(kept["tokens"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, data_key: str, found: BaseLoss) -> None:
        """Keep a loss. Writers may meet: each file is whole, and all write the same."""
        self._folder.mkdir(parents=True, exist_ok=True)
        values = {"loss": found.loss, "tokens": found.tokens}
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=self._folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(values, stream)
            os.replace(temporary, self._file(data_key))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _file(self, data_key: str) -> Path:
        key = hashlib.sha256(f"{self._base}:{data_key}".encode()).hexdigest()[:40]
        return self._folder / f"base-loss-{key}.json"


def base_key(folder: Path, *settings: object) -> str:
    """Identifies the weights in a model folder, without reading them.

    Args:
        folder: the model's.
        settings: what else the loss depends on, such as precision or 4-bit loading.
    """
    files = sorted({file for pattern in _WEIGHTS for file in folder.glob(pattern)})
    facts = [str(folder.resolve()), *map(str, settings)]
    for file in files:
        stat = file.stat()
        facts.append(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
