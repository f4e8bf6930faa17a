"""Rows of a data set: a JSON Lines or Parquet file, a folder, or a data set of the hub.

Every source has an identity, which changes when its content does and is found without reading the
content again, and rows, which are read one after the other.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer import roots as confined
from trainer.config import Source
from trainer.data.cache import Cache
from trainer.data.messages import FORM
from trainer.errors import DataError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COLUMNS = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "text",
    "system",
    "tools",
    "chat_template_kwargs",
    "unmask",
)
"""Columns that are read of a table; see `messages.py`."""
_ROWS_AT_ONCE = 256
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row, and where it is: a line of a file, or else a row of a table, both from 1."""

    value: Any
    number: int


class Rows(Protocol):
    """Where rows come from. `table`: they have all columns, null where there is nothing."""

    table: bool

    def identity(self, cache: Cache) -> str:
        """Changes whenever the rows do."""
        ...

    def __iter__(self) -> Iterator[Row]: ...

    def error(self, message: str, row: int | None = None) -> DataError:
        """An error that says where, for `row` or the whole source."""
        ...


def open_source(source: Source, roots: Sequence[str] | None = None) -> Rows:
    """What `source` names.

    Args:
        source: a file, a folder, or a data set of the hub.
        roots: folders below which files and folders have to lie; None: anywhere.

    Raises:
        DataError: nothing that can be read.
        OutsideError: it lies outside of `roots`.
    """
    if roots is not None and _is_hub_id(source.path):
        return _Hub(source, None, confined=True)  # nothing is read from the working directory
    path = confined.resolved(source.path, roots)
    if path.is_dir():
        return _Hub(source, confined.folder(source.path, roots), confined=roots is not None)
    if not path.is_file():
        if _is_hub_id(source.path):
            return _Hub(source, None)
        if path.exists():
            raise DataError("is neither a file nor a folder", source.path)
        raise DataError("no such file; check the path", source.path)
    if source.subset is not None or source.split is not None:
        field = "subset" if source.subset is not None else "split"
        raise DataError(f"is a file, which has no {field}; leave {field} out", source.path)
    with confined.opened(path, roots) as stream:
        head = stream.read(4)
    if head == b"PAR1":
        return _Parquet(path, roots)
    if path.suffix == ".parquet":
        raise DataError("is not a Parquet file, or only a part of one; fetch it again", path)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(f"is compressed ({name}); unpack it", path)
    return _JsonLines(path, roots)


def _is_hub_id(path: str) -> bool:
    file_like = path.endswith((".jsonl", ".json", ".parquet", ".txt", ".csv", ".gz", ".zip"))
    return not file_like and ".." not in path and bool(_HUB_ID.fullmatch(path))


class _JsonLines:
    table = False

    def __init__(self, path: Path, roots: Sequence[str] | None) -> None:
        self._path = path
        self._roots = roots

    def identity(self, cache: Cache) -> str:
        return cache.file_hash(self._path)

    def __iter__(self) -> Iterator[Row]:
        with confined.opened(self._path, self._roots) as stream:
            for number, raw in enumerate(stream, start=1):
                if raw.strip():
                    yield Row(self._parse(raw, number), number)

    def _parse(self, raw: bytes, number: int) -> Any:
        try:
            return json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 text ({error}); save the file as UTF-8", number) from None
        except ValueError as error:
            if number == 1 and raw.lstrip()[:1] == b"[":
                raise self.error(
                    f"begins a list of many lines; write one JSON object a line: {FORM}", number
                ) from None
            raise self.error(f"not valid JSON ({error}); write one object a line", number) from None
        except RecursionError:
            raise self.error("is nested too deeply", number) from None

    def error(self, message: str, row: int | None = None) -> DataError:
        return DataError(message, self._path, row)


class _Table:
    """Rows of a table, named by their number."""

    table = True
    _name: str

    def error(self, message: str, row: int | None = None) -> DataError:
        return DataError(message, self._name if row is None else f"{self._name}, row {row}")

    def _columns(self, names: list[str]) -> list[str]:
        found = [name for name in _COLUMNS if name in names]
        whole = {"prompt", "completion"} <= set(found)
        if not whole and not {"messages", "conversations", "text"} & set(found):
            raise self.error(
                f"has the columns {', '.join(names) or '(none)'}; it needs messages, "
                "conversations, prompt and completion, or text: rename one"
            )
        return found


class _Parquet(_Table):
    def __init__(self, path: Path, roots: Sequence[str] | None) -> None:
        self._path = path
        self._roots = roots
        self._name = str(path)

    def identity(self, cache: Cache) -> str:
        return cache.file_hash(self._path)

    def __iter__(self) -> Iterator[Row]:
        import pyarrow
        from pyarrow import parquet

        try:
            with (
                confined.opened(self._path, self._roots) as stream,
                parquet.ParquetFile(stream) as file,
            ):
                columns = self._columns(list(file.schema_arrow.names))
                number = 0
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                    for value in batch.to_pylist():
                        number += 1
                        yield Row(value, number)
        except pyarrow.ArrowException as error:
            raise self.error(f"can't be read as Parquet ({error}); fetch it again") from error


class _Hub(_Table):
    """A data set of the hub, or a folder with the files of one, through the `datasets` library.

    HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and proxies are in force, as always with it.
    """

    def __init__(self, source: Source, folder: Path | None, *, confined: bool = False) -> None:
        self._source = source
        self._folder = folder
        self._confined = confined
        parts = (source.path, source.subset, source.split)
        self._name = ":".join(part for part in parts if part is not None)
        self._revision: str | None = None

    def identity(self, cache: Cache) -> str:
        what = f"{self._source.subset}:{self._source.split}"
        if self._folder is None:
            self._revision = self._commit()
            return f"hub:{self._source.path}:{self._revision}:{what}"
        files = sorted(file for file in self._folder.rglob("*") if file.is_file())
        visible = [f for f in files if not any(p.startswith(".") for p in _below(f, self._folder))]
        if not visible:
            raise self.error("is an empty folder")
        hashes = [f"{'/'.join(_below(f, self._folder))}:{cache.file_hash(f)}" for f in visible]
        return "\n".join([f"folder:{what}", *hashes])

    def _commit(self) -> str:
        """The hub's newest commit; the one that was fetched last if it can't be asked."""
        from huggingface_hub import HfApi, constants

        if not constants.HF_HUB_OFFLINE:
            try:
                return str(HfApi().dataset_info(self._source.path, timeout=20).sha)
            except Exception as error:
                name = type(error).__name__
                if name in ("RepositoryNotFoundError", "GatedRepoError"):
                    raise self._unreachable(error) from error
                reason: Exception | None = error
        else:
            reason = None
        name = "datasets--" + self._source.path.replace("/", "--")
        kept = list((Path(constants.HF_HUB_CACHE) / name / "snapshots").glob("*"))
        if not kept:
            raise self._unreachable(reason) from reason
        return max(kept, key=lambda folder: folder.stat().st_mtime_ns).name

    def __iter__(self) -> Iterator[Row]:
        data = self._load()
        columns = self._columns(list(data.column_names))
        number = 0
        for batch in data.select_columns(columns).with_format("arrow").iter(_ROWS_AT_ONCE):
            for value in batch.to_pylist():
                number += 1
                yield Row(value, number)

    def _load(self) -> Any:
        import datasets
        from datasets.utils import logging

        logging.disable_progress_bar()
        path = self._source.path if self._folder is None else str(self._folder)
        split = self._source.split or "train"
        try:
            if self._folder is not None and _saved_by_datasets(self._folder):
                found: Any = datasets.load_from_disk(path)
                if isinstance(found, datasets.DatasetDict):
                    if split not in found:
                        raise self.error(
                            f"has no split {split!r}; it has {', '.join(map(str, found))}"
                        )
                    found = found[split]
                return found
            if self._confined:
                self._check_files(path)
            return datasets.load_dataset(
                path, self._source.subset, split=split, revision=self._revision
            )
        except DataError:
            raise
        except Exception as error:
            if self._folder is None and not isinstance(error, ValueError):
                raise self._unreachable(error) from error
            text = " ".join(str(error).split())
            raise self.error(f"can't be loaded: {text}; check path, subset and split") from error

    def _check_files(self, path: str) -> None:
        """The card of a data set may name any file, also of this machine. Raises DataError."""
        import datasets

        builder: Any = datasets.load_dataset_builder(
            path, self._source.subset, revision=self._revision
        )
        # A folder's builder can't be asked to fetch: its files are its own.
        inside = f"{path}/" if self._folder is not None else f"hf://datasets/{path}@"
        files = builder.config.data_files or {}
        for listed in files.values():
            for file in listed:
                if not str(file).startswith(inside) or "/../" in str(file):
                    raise self.error(f"its card names a file that is not its own: {file}")

    def _unreachable(self, error: Exception | None) -> DataError:
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return self.error(
                "is not a file, nor a data set of the hub that was fetched before, and "
                "HF_HUB_OFFLINE is set; check the path, or fetch it where the hub can be reached"
            )
        token = "" if os.environ.get("HF_TOKEN") else "; set HF_TOKEN if it isn't public"
        text = " ".join(str(error).split())[:300]
        return self.error(
            "is neither a file nor a data set of the hub that could be fetched "
            f"({type(error).__name__}: {text}); check the name, or download it and give its "
            f"path{token}"
        )


def _saved_by_datasets(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _below(file: Path, folder: Path) -> tuple[str, ...]:
    return file.relative_to(folder).parts
