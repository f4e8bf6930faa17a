"""Run by every Python that a server under test starts (its PYTHONPATH leads here).

Once the store is imported, its commits go to a journal; once the trainer is, workers note when they
trained, and do what the learning rate of a trial asks for (see `misbehaviour.py`).
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def _store(_: ModuleType) -> None:
    from pathlib import Path

    from tests.faults.hooks import Hooks

    role = "-".join(a for a in sys.argv[:3] if a.isidentifier()) or Path(sys.argv[0]).parent.name
    name = f"{role}-{os.getpid()}"
    Hooks(name, Path(os.environ["WINNOW_FAULTS"]) / f"{name}.journal").install()


def _trainer(module: ModuleType) -> None:
    from tests.faults.misbehaviour import watch

    watch(module)


def _tune(module: ModuleType) -> None:
    """A worker hangs after half an hour; a test can't wait for that."""
    if seconds := os.environ.get("WINNOW_FAULTS_HANG"):
        module.run.__kwdefaults__["hang_seconds"] = float(seconds)


_THEN: dict[str, Callable[[ModuleType], None]] = {
    "orchestrator.store.store": _store,
    "trainer.loop": _trainer,
    "orchestrator.raytune.tune_run": _tune,
}


class _After(importlib.abc.MetaPathFinder):
    """Finds a module as ever, and calls a function when it has been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name not in _THEN:
            return None
        then = _THEN.pop(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if os.environ.get("WINNOW_FAULTS"):
    sys.meta_path.insert(0, _After())
