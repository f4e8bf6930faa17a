"""What can go wrong for someone who uses winnow from Python or the command line.

WinnowError
├── DocumentError   a sweep file that cannot be read as YAML or JSON
├── ServerNotFound  no server answers
└── ApiError        the server refused a request, and says why (`problem`)
"""

from __future__ import annotations

from winnow.types import FieldError, Problem


class WinnowError(Exception):
    """Anything that winnow has to tell its user."""


class DocumentError(WinnowError):
    """A sweep file cannot be read. `errors` say where, by line or by JSON pointer."""

    def __init__(self, message: str, errors: list[FieldError] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or [FieldError(pointer="", message=message)]


class ServerNotFound(WinnowError):
    """No winnow server answers at the address that was given or found."""


class ApiError(WinnowError):
    """The server refused a request. `problem.errors` name the fields."""

    def __init__(self, problem: Problem) -> None:
        lines = [problem.title if not problem.detail else f"{problem.title}: {problem.detail}"]
        lines += [f"  {e.pointer or '(the whole sweep)'}: {e.message}" for e in problem.errors]
        super().__init__("\n".join(lines))
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status
