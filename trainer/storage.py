"""Folders in a store: a bucket or another file system behind fsspec, or a folder mounted elsewhere.

    s3://bucket/sweeps/one      needs s3fs; gs://, abfs://, hdfs://, … likewise
    memory://one                for tests
    /mnt/share/one              a plain folder

Credentials and endpoints come from the environment, as each file system reads them; they never
stand in an address. What is written here is a *parcel*: a folder whose manifest holds the SHA-256
of its files and is written last, and removed first. Without a whole manifest there is no parcel.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from trainer.errors import DiskError

T = TypeVar("T")
Location = Path | str

MANIFEST = "manifest.json"
TRIES = 5
"""How often something is tried that a network may have spoilt."""
_FIRST_WAIT = 0.5
_THREADS = 4

_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"})
"""Object stores, where making a folder would make a bucket."""

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")


class StoreError(DiskError):
    """The store can't be reached, or refuses. What is in it may be whole all the same."""


def address(location: Location) -> str:
    """`location` as it is written: a Path takes a slash from s3://. file:// is a plain path."""
    text = re.sub(r"^(file|local):/*", "/", str(location))
    return _SCHEME.sub(r"\1://", text).rstrip("/")


def is_remote(location: Location) -> bool:
    """Whether it is an address rather than a path of this machine."""
    return bool(_SCHEME.match(address(location)))


def join(location: Location, *names: str) -> str:
    return "/".join([address(location), *names])


# --- one file or folder -----------------------------------------------------------------------


def upload(file: Path, location: Location) -> None:
    """Write one file, replacing what is there. Raises StoreError."""
    where = address(location)

    def put() -> None:
        system, path = _open(where)
        if where.partition("://")[0] not in _WITHOUT_FOLDERS:
            system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        system.put_file(str(file), path)
        system.invalidate_cache()
        arrived, sent = int(system.info(path)["size"]), file.stat().st_size
        if arrived != sent:
            raise OSError(f"{arrived:,} of {sent:,} bytes arrived")
        if not is_remote(where):
            _flush(Path(path))
            _flush(Path(path).parent)

    _persist(put, f"{where} can't be written")


def names(location: Location) -> list[str]:
    """What is directly in a folder; nothing if there is none. Raises StoreError."""
    where = address(location)

    def found() -> list[str]:
        system, path = _open(where)
        system.invalidate_cache()
        try:
            listed: list[str] = system.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        ends = (name.rstrip("/").rsplit("/", 1)[-1] for name in listed)
        return sorted(end for end in ends if end and end != path.rsplit("/", 1)[-1])

    return _persist(found, f"{where} can't be listed")


def read_text(location: Location) -> str | None:
    """A small file's text; None if there is none. Raises StoreError."""
    where = address(location)

    def found() -> str | None:
        system, path = _open(where)
        system.invalidate_cache()
        try:
            return bytes(system.cat_file(path)).decode(errors="replace")
        except FileNotFoundError:
            return None

    return _persist(found, f"{where} can't be read")


def remove(location: Location) -> None:
    """Delete a folder and everything in it, its manifest first. None there is no error.

    Raises:
        StoreError: it couldn't be deleted.
    """
    where = address(location)
    if where.count("/") < 3 and is_remote(where):
        raise StoreError(f"{where} is a whole bucket; that isn't deleted")

    def delete() -> None:
        system, path = _open(where)
        system.invalidate_cache()
        for target, recursive in ((f"{path}/{MANIFEST}", False), (path, True)):
            try:
                system.rm(target, recursive=recursive)
            except (FileNotFoundError, NotADirectoryError):
                continue
        system.invalidate_cache()

    _persist(delete, f"{where} can't be deleted")


# --- parcels ----------------------------------------------------------------------------------


def send(folder: Path, location: Location, files: Mapping[str, str], **more: Any) -> None:
    """Write files of `folder` as a parcel, or those of a parcel that aren't there yet.

    Args:
        folder: where they are on this machine.
        location: the parcel. One of that name that is there ends to exist at once.
        files: name in the folder → SHA-256, in hexadecimal.
        more: further values of the manifest.
    """
    unseal(location)
    send_files(folder, location, files)
    seal(location, files, **more)


def send_files(folder: Path, location: Location, files: Iterable[str]) -> None:
    """Write files of a parcel that is sealed later. Raises StoreError."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: upload(folder / name, join(location, name)), files))


def seal(location: Location, files: Mapping[str, str], **more: Any) -> None:
    """Make a parcel exist: write its manifest. Raises StoreError."""
    with tempfile.TemporaryDirectory(prefix="winnow-") as folder:
        manifest = Path(folder) / MANIFEST
        manifest.write_text(json.dumps({**more, "files": dict(files)}), encoding="utf-8")
        upload(manifest, join(location, MANIFEST))


def unseal(location: Location) -> None:
    """Make a parcel end to exist, if there is one. Raises StoreError."""
    where = join(location, MANIFEST)

    def delete() -> None:
        system, path = _open(where)
        try:
            system.rm_file(path)
        except FileNotFoundError:
            return

    _persist(delete, f"{where} can't be deleted")


def is_sealed(location: Location) -> bool:
    """Whether there is a parcel; what is in it isn't looked at. Raises StoreError."""
    return _manifest(read_text(join(location, MANIFEST))) is not None


def fetch(location: Location, into: Path) -> Path | None:
    """A parcel's copy in the folder `into`, each file checked by its hash; None if there is no
    parcel, or a damaged one.

    Processes of one machine that ask for the same one share a copy.

    Raises:
        StoreError: the store can't be reached.
    """
    where = address(location)
    text = read_text(join(where, MANIFEST))
    files = _manifest(text)
    if text is None or files is None:
        return None
    into.mkdir(parents=True, exist_ok=True)
    name = f"{hashlib.sha256(where.encode()).hexdigest()[:16]}-{where.rsplit('/', 1)[-1]}"
    copy = into / name
    with FileLock(into / f".{name}.lock"):
        if (copy / MANIFEST).is_file() and (copy / MANIFEST).read_text(encoding="utf-8") == text:
            return copy
        draft = into / f".tmp-{name}"
        for left in (copy, draft):
            shutil.rmtree(left, ignore_errors=True)
        try:
            for _ in range(2):  # what was spoilt on the way is whole at the second time
                if _download(where, draft, files):
                    (draft / MANIFEST).write_text(text, encoding="utf-8")
                    os.rename(draft, copy)
                    return copy
            return None
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def hashes(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """SHA-256 of each file, in hexadecimal."""
    with ThreadPoolExecutor(_THREADS) as pool:  # hashing leaves the interpreter's lock
        return dict(zip(files, pool.map(lambda name: _hash(folder / name), files), strict=True))


def _download(where: str, folder: Path, files: Mapping[str, str]) -> bool:
    """Whether every file arrived with its hash."""

    def get(name: str) -> bool:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)

        def attempt() -> bool:
            system, path = _open(join(where, name))
            system.invalidate_cache()
            try:
                system.get_file(path, str(target))
            except FileNotFoundError:
                return False
            return True

        there = _persist(attempt, f"{join(where, name)} can't be read")
        return there and _hash(target) == files[name]

    with ThreadPoolExecutor(_THREADS) as pool:
        return all(pool.map(get, files))


def _manifest(text: str | None) -> dict[str, str] | None:
    """The files of a manifest; None if it isn't one."""
    try:
        files: Any = json.loads(text or "")["files"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(files, dict):
        return None
    named: dict[str, str] = {str(name): str(digest) for name, digest in files.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    safe = all(not name.startswith("/") and ".." not in Path(name).parts for name in named)
    return named if named and safe else None


# --- fsspec -----------------------------------------------------------------------------------


def _open(where: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(where)
    except ImportError as error:
        scheme = where.partition("://")[0]
        package = {"s3": "winnow-sft[s3]", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}
        raise StoreError(
            f"{where} needs a package that isn't installed: "
            f"`pip install '{package.get(scheme, scheme)}'` on every machine that trains "
            f"({error})"
        ) from error
    except ValueError as error:
        raise StoreError(f"{where} is no address of a store ({error})") from error
    return system, str(path).rstrip("/")


def _persist(action: Callable[[], T], problem: str) -> T:
    """Do something that may fail on the way, up to `TRIES` times. Raises StoreError."""
    wait = _FIRST_WAIT
    for number in range(1, TRIES + 1):
        try:
            return action()
        except StoreError:
            raise
        except Exception as error:
            # File systems raise what their libraries do, each of its own kind.
            if number == TRIES or _is_final(error):
                kind = type(error).__name__
                text = " ".join(str(error).split())[:300]
                raise StoreError(
                    f"{problem} ({kind}: {text}); check the address, that its bucket exists, and "
                    "the credentials in the environment"
                ) from error
        time.sleep(wait)
        wait *= 2
    raise AssertionError


def _is_final(error: Exception) -> bool:
    """Whether trying again is no use: there is no such bucket, or no right to it."""
    if isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError):
        return True
    return type(error).__name__ in ("NoCredentialsError", "ParamValidationError")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
