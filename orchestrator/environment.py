"""What of the server's environment the workers get.

A cluster that was started earlier, elsewhere, knows nothing of the variables that winnow was
started with, so a driver hands them to each rank. They travel as an argument of a call, not as
Ray's `runtime_env`, which Ray writes into its logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from winnow.environment import KEY_SUFFIX, PASSED, is_secret, is_withheld


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables that a process which reads users' files may have: no database, no tokens, no keys,
    and nothing of winnow's own."""
    return {
        name: value
        for name, value in variables.items()
        if not (
            is_withheld(name)
            or is_secret(name)
            or name.upper().startswith(("WINNOW_", "PG"))
            or (name not in PASSED and _PASSWORD.search(value))
        )
    }


_PASSWORD = re.compile(r"://[^\s/@:]*:[^\s/@]+@")


class Environment(Mapping[str, str]):
    """Variables by name. Its text never shows their values."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = dict(variables or {})

    @classmethod
    def of(cls, variables: Mapping[str, str], also: Iterable[str] = ()) -> Environment:
        """What of `variables` may be passed on: hub and proxies, keys, and the names in `also`."""
        names = {*PASSED, *also}
        return cls(
            {
                name: value
                for name, value in variables.items()
                if value and (name in names or name.endswith(KEY_SUFFIX))
            }
        )

    def for_worker(self, key: str | None = None) -> Environment:
        """What one sweep's workers get: everything but keys; of these only `key`."""
        return Environment(
            {n: v for n, v in self._variables.items() if not n.endswith(KEY_SUFFIX) or n == key}
        )

    def secrets(self) -> set[str]:
        """Values that nobody may read: tokens, keys, and passwords in the addresses of proxies."""
        found: set[str] = set()
        for name, value in self._variables.items():
            if is_secret(name):
                found.add(value)
            elif name.lower().endswith("_proxy") or name == "HF_ENDPOINT":
                try:
                    found |= {p for p in (urlsplit(value).password,) if p}
                except ValueError:
                    found.add(value)
        return found

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return f"Environment({', '.join(sorted(self._variables))})"


NO_VARIABLES = Environment()
