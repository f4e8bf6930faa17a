"""winnow: hyperparameter sweeps for supervised fine-tuning that stop losing trials early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from winnow.client import Client
    from winnow.spec import SweepSpec

__version__ = "0.1.0"
__all__ = ["Client", "SweepSpec", "__version__"]

_HOMES = {"Client": "winnow.client", "SweepSpec": "winnow.spec"}


def __getattr__(name: str) -> Any:
    """Import the public classes on first use: `winnow --version` need not wait for them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'winnow' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
