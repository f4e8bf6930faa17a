"""How processes log: a line of text for people, or a JSON object a line for machines.

Both say what the line is about (`context.py`), and neither holds a secret (`redaction.py`). In text
a line is a line: characters that would make two of it, or colour it, are written out, but in
tracebacks, which stand indented under theirs.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from orchestrator.observe.context import current
from orchestrator.redaction import clean, clean_values

Format = Literal["auto", "text", "json"]

LONGEST = 20_000
"""Characters of one message; a traceback may have as many again."""
_QUIET = {"alembic": logging.WARNING, "httpcore2": logging.WARNING, "httpx2": logging.WARNING}
"""Libraries that tell too much."""
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


def log_to_stderr(format: Format = "auto", level: int = logging.INFO) -> None:
    """Log to stderr, uncaught errors too. Called once, at a process's entry.

    `auto`: text where stderr is a terminal.
    """
    as_text = format == "text" or (format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(Text() if as_text else Json())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


class Json(logging.Formatter):
    """`time`, `level`, `logger`, `message`, what it is about, `error` (a traceback), and what the
    caller gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **current(),
            **{name: _plain(value) for name, value in _extras(record).items()},
        }
        if trace := _traceback(self, record):
            line["error"] = trace
        return json.dumps(clean_values(line), ensure_ascii=False, default=str)


class Text(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO orchestrator.study.study: message [sweep=…]`. What callers give
    as `extra` is left out: a message says all that people need."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        told = " ".join(f"{name}={value}" for name, value in current().items())
        message = _one_line(_message(record)) + (f" [{_one_line(told)}]" if told else "")
        head = f"{clock}.{int(record.msecs):03d} {record.levelname} {record.name}: "
        trace = _traceback(self, record)
        below = "" if not trace else "\n" + "\n".join(f"  {line}" for line in trace.split("\n"))
        return clean(head + message + below)


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)[-LONGEST:]


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave, without what libraries note for themselves (Ray: `_ray_…`)."""
    return {
        name: value
        for name, value in record.__dict__.items()
        if name not in _STANDARD and not name.startswith("_")
    }


def _plain(value: Any) -> Any:
    finite = not isinstance(value, float) or value - value == 0
    return value if isinstance(value, str | int | float | bool | None) and finite else str(value)


def _one_line(text: str) -> str:
    """Line breaks as ⏎: our own messages have some, and the text of others may bring them along."""
    if text.isprintable():
        return text
    text = " ⏎ ".join(part for part in text.splitlines() if part.strip())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("winnow").critical("ended by an error", exc_info=(kind, error, traceback))
