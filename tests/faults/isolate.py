"""One process tree a case, forked from a parent that has imported everything already.

A case runs in a process of its own, which adopts whatever its descendants leave behind: what is
still there when a case is over has outlived those who should have ended it.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tests.faults.oracle import Evidence, Violation, judge
from tests.faults.servers import Databases

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Case:
    """One thing that is done to winnow. `run` raises or returns what is to be judged."""

    family: str
    name: str
    database: str
    run: Callable[[Scene], None]
    seconds: float = 60.0
    """A case that takes longer has failed."""
    alone: bool = False
    """Not beside other cases: it times something, or uses what there is once."""

    @property
    def id(self) -> str:
        return f"{self.family}/{self.name}/{self.database}"


@dataclass
class Scene:
    """What a case works with: a folder, a database, a random source of its own, and children."""

    folder: Path
    url: str
    random: random.Random
    databases: Databases
    children: dict[int, str] = field(default_factory=dict)
    found: list[Violation] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """What is worth keeping of a case, for the report."""

    def expect(self, holds: bool, text: str) -> None:
        """Note a violation unless `holds`: what the case itself has to see, beyond the oracle."""
        if not holds:
            self.found.append(Violation("case", text))

    def fork(self, work: Callable[[], int | None], name: str) -> int:
        """Run `work` in a child; its id. A child that raises ends with code 70."""
        pid = os.fork()
        if pid == 0:
            _run_and_exit(work)
        self.children[pid] = name
        return pid

    def wait(self, pid: int, seconds: float = 30.0) -> int:
        """The exit code of a child, or minus the signal that ended it."""
        deadline = time.monotonic() + seconds
        pause = 0.001
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                name = self.children.pop(pid, "")
                code = os.waitstatus_to_exitcode(status)
                if code == 70:
                    self.expect(False, f"{name} ended in an error; see {self.folder / 'log'}")
                return code
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        raise TimeoutError(f"{self.children.get(pid, pid)} did not end within {seconds:g} s")

    def judge(self, **evidence: Any) -> None:
        """Ask the oracle, with every journal in the folder."""
        self.found += judge(
            Evidence(
                self.url,
                journals=sorted(self.folder.glob("*.journal")),
                workers=self.folder / "workers.jsonl",
                survivors=_survivors(),
                **evidence,
            )
        )


@dataclass(frozen=True)
class Result:
    """How a case went."""

    id: str
    violations: tuple[str, ...]
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "violations": list(self.violations),
            "seconds": round(self.seconds, 3),
            **({"facts": self.facts} if self.facts else {}),
        }


def run(
    cases: Iterable[Case], databases: Databases, home: Path, seed: int, at_once: int = 2
) -> Iterator[Result]:
    """Run cases, `at_once` side by side, and give each result as it comes."""
    waiting = list(cases)
    live: dict[int, tuple[Case, Path, float]] = {}
    try:
        while waiting or live:
            alone = any(case.alone for case, _, _ in live.values())
            while waiting and len(live) < at_once and not alone:
                if waiting[0].alone and live:
                    break
                case = waiting.pop(0)
                folder = home / case.id.replace("/", "-").replace(" ", "-")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                pid = os.fork()
                if pid == 0:
                    _child(case, databases, folder, seed)
                live[pid] = (case, folder, time.monotonic())
                alone = case.alone
            for pid in list(live):
                case, folder, began = live[pid]
                took = time.monotonic() - began
                done, _ = os.waitpid(pid, os.WNOHANG)
                if not done and took < case.seconds + 10:
                    continue
                if not done:
                    _end(pid)
                del live[pid]
                yield _result(case, folder, took)
            time.sleep(0.005)
    finally:
        for pid in live:
            _end(pid)


def descendants() -> list[int]:
    """Live processes below this one, orphans that it has adopted among them."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            parents[int(entry.name)] = int(fields[1])
    below = {os.getpid()}
    found: list[int] = []
    grown = True
    while grown:
        grown = False
        for pid, parent in parents.items():
            if parent in below and pid not in below:
                below.add(pid)
                found.append(pid)
                grown = True
    return found


def _survivors(seconds: float = 5.0) -> list[str]:
    """Processes that are still there when those who end by themselves have had time to."""
    deadline = time.monotonic() + seconds
    while True:
        found = [
            f"{pid} {command}"
            for pid in descendants()
            if "postgres" not in (command := _command(pid))  # a server of the case's own
        ]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _child(case: Case, databases: Databases, folder: Path, seed: int) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    violations: list[str] = []
    facts: dict[str, Any] = {}
    began = time.monotonic()
    code = 0
    try:
        url = databases.make(case.database, folder)
        scene = Scene(folder, url, random.Random(f"{seed}/{case.id}"), databases)
        signal.signal(signal.SIGALRM, _too_late)
        signal.alarm(int(case.seconds))
        try:
            case.run(scene)
        finally:
            signal.alarm(0)
            violations += [str(v) for v in scene.found]
            facts = scene.facts
            if case.database == "postgres" and databases.postgres is not None and not violations:
                databases.postgres.drop(url)
    except BaseException as error:
        traceback.print_exc()
        violations.append(f"case: {type(error).__name__}: {error}")
    try:
        for pid in descendants():
            os.kill(pid, signal.SIGKILL)
        result = Result(case.id, tuple(violations), time.monotonic() - began, facts)
        draft = folder / "result.new"
        draft.write_text(json.dumps(result.as_json()))
        draft.rename(folder / "result.json")
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_and_exit(work: Callable[[], int | None]) -> NoReturn:
    code = 70
    try:
        for number in (signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _result(case: Case, folder: Path, took: float) -> Result:
    path = folder / "result.json"
    if not path.exists():
        return Result(case.id, (f"case: it did not end within {case.seconds:g} s",), took)
    read = json.loads(path.read_text())
    result = Result(case.id, tuple(read["violations"]), read["seconds"], read.get("facts", {}))
    if not result.violations:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _end(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _too_late(*_: object) -> None:
    raise TimeoutError("the case took too long")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    except OSError:
        return ""
