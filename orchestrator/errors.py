"""Everything the server can refuse, as one tree. Each message is a sentence for its reader.

WinnowError
├── NotFound            no such sweep, trial, checkpoint, …
├── Conflict            the request no longer fits what is stored
│   └── InvalidTransition   a state can't be left for the one that was asked for
├── LeaseLost           this driver has been replaced and must stop
├── InvalidSweep        the sweep file is wrong; says where, and the way out
└── StoreUnavailable    the database can't be reached, or is too busy
"""

from __future__ import annotations

from collections.abc import Sequence


class WinnowError(Exception):
    """Base of all errors that winnow's server raises on purpose."""

    @property
    def message(self) -> str:
        return str(self)


class NotFound(WinnowError):
    """There is no such thing."""

    def __init__(self, kind: str, id: object) -> None:
        super().__init__(f"There is no {kind} {str(id)!r}.")
        self.kind = kind
        self.id = id


class Conflict(WinnowError):
    """The request contradicts what is stored by now; look again, then ask for something else."""


class InvalidTransition(Conflict):
    """A sweep or trial can't move from its state to the one that was asked for."""

    def __init__(self, what: str, current: str, target: str, why: str = "") -> None:
        ending = f": {why}" if why else ""
        super().__init__(f"{what} is {current} and can't become {target}{ending}.")
        self.what = what
        self.current = current
        self.target = target


class LeaseLost(WinnowError):
    """This driver has lost its sweep. It must end its workers and exit; nothing was written."""

    def __init__(self, sweep_id: str, epoch: int) -> None:
        super().__init__(
            f"The lease on sweep {sweep_id} with epoch {epoch} has expired or passed to another "
            "driver; this write was refused."
        )
        self.sweep_id = sweep_id
        self.epoch = epoch


class InvalidSweep(WinnowError):
    """The sweep can't run as written. `errors`: (JSON pointer into the sweep, what is wrong)."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{pointer or '/'}: {text}" for pointer, text in errors))
        self.errors: list[tuple[str, str]] = list(errors)


class StoreUnavailable(WinnowError):
    """The database can't be reached or didn't answer in time. Nothing was written; try again."""
