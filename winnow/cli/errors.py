"""How the command line says what is wrong: one paragraph on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from winnow.errors import ApiError, DocumentError, WinnowError

err = Console(stderr=True)


def show_error(error: WinnowError) -> None:
    """What is wrong, then each field and its way out."""
    if isinstance(error, ApiError):
        problem = error.problem
        head = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
        fields = problem.errors
    elif isinstance(error, DocumentError):
        head, fields = str(error), [e for e in error.errors if e.pointer]
    else:
        head, fields = str(error), []
    text = Text(head, style="red")
    for field in fields:
        where = field.pointer.lstrip("/").replace("/", ".") or "sweep"
        text.append(f"\n  {where}", style="bold red")
        text.append(f": {field.message}", style="red")
    err.print(text, soft_wrap=True)
