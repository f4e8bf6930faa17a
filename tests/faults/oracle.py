"""What must be true after every case, whatever was done to winnow in it.

The oracle has three witnesses that know nothing of one another: the journals that processes kept of
what the store had told them, the notes that workers kept of when they trained, and the database. It
reads the last with plain SQL. What it finds wrong it returns as sentences, each under the name of
its rule.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from orchestrator.states import SWEEP_MOVES, TRIAL_MOVES
from tests.faults import journal
from tests.faults.tables import Row, Tables, opened
from winnow.types import SweepState, TrialState

ENDED = {"COMPLETED", "PRUNED", "FAILED", "CANCELED"}
_REVIVING = ("revive", "resume", "extend", "add")

RULES = (
    "acknowledged",
    "points",
    "overlap",
    "ends",
    "moves",
    "events",
    "fencing",
    "orphans",
    "integrity",
    "finished",
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was broken."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass
class Evidence:
    """What a case leaves behind."""

    database: str
    journals: Sequence[Path] = ()
    workers: Path | None = None
    """Notes of workers: trial, attempt, and the machine's monotonic clock before and after each
    report's work."""
    survivors: Sequence[str] = ()
    """Processes of the case that still run though they should not."""
    finished: bool = True
    """Whether all its sweeps should have ended."""
    expected_open: frozenset[str] = field(default_factory=frozenset)
    """Sweeps that need not have ended."""


def judge(evidence: Evidence) -> list[Violation]:
    """All promises that were broken; an empty list if none was."""
    # Before the database: what is told from here on need not be in what is read of it.
    told = [line for path in evidence.journals for line in journal.read(path)]
    notes = journal.read(evidence.workers) if evidence.workers else []
    found: list[Violation] = []
    with opened(evidence.database) as tables:
        problems = tables.problems()
        tables.freeze()
        case = _Case(tables, told)
        rules: dict[str, Iterable[str]] = {
            "integrity": problems,
            "acknowledged": case.acknowledged(),
            "points": case.points(),
            "overlap": case.overlap(notes),
            "ends": case.ends(),
            "moves": case.moves(),
            "events": case.events_in_order(),
            "fencing": case.fencing(),
            "orphans": [f"still runs: {who}" for who in evidence.survivors],
            "finished": case.unfinished(evidence.expected_open) if evidence.finished else (),
        }
        for rule, texts in rules.items():
            found += [Violation(rule, text) for text in texts]
    return found


class _Case:
    def __init__(self, tables: Tables, told: list[dict[str, Any]]) -> None:
        self._tables = tables
        self._told = told
        self.sweeps = {r["id"]: r for r in tables.rows("SELECT * FROM sweeps")}
        self.trials = {r["id"]: r for r in tables.rows("SELECT * FROM trials")}
        self.attempts: dict[str, list[Row]] = defaultdict(list)
        for row in tables.rows("SELECT * FROM attempts ORDER BY trial_id, attempt"):
            self.attempts[row["trial_id"]].append(row)
        self.events = tables.rows("SELECT * FROM events ORDER BY id")

    # --- what was acknowledged is stored -------------------------------------------------------

    def acknowledged(self) -> Iterator[str]:
        points = {
            (r["trial_id"], r["attempt"], r["step"]): (r["samples"], r["loss"], r["grad_norm"])
            for r in self._tables.rows("SELECT * FROM metrics")
        }
        measured = {
            (r["trial_id"], r["attempt"], r["step"], r["split"], r["dataset"])
            for r in self._tables.rows("SELECT * FROM evaluations")
        }
        saved = {
            (r["trial_id"], r["attempt"], r["path"])
            for r in self._tables.rows("SELECT * FROM checkpoints")
        }
        decided = {r["id"] for r in self._tables.rows("SELECT id FROM decisions")}
        commands = {r["id"]: r for r in self._tables.rows("SELECT * FROM commands")}
        attempts = {(r["trial_id"], r["attempt"]): r for rs in self.attempts.values() for r in rs}
        for line in self._told:
            for op in line["ops"]:
                name, where = op["op"], (op.get("trial_id"), op.get("attempt"))
                if name == "record":
                    batch = op["batch"]
                    for s in batch["steps"]:
                        stored = points.get((*where, s["step"]))
                        if stored is None:
                            yield f"step {s['step']} of {where} was acknowledged and is not stored"
                        elif not _same(stored, (s["samples"], s["loss"], s["grad_norm"])):
                            yield f"step {s['step']} of {where} is stored with other values"
                    for e in batch["evaluations"]:
                        if (*where, e["step"], e["split"], e["dataset"]) not in measured:
                            yield f"an evaluation of {where} at step {e['step']} is lost"
                    for c in batch["checkpoints"]:
                        if (*where, c["path"]) not in saved:
                            yield f"checkpoint {c['path']} of {where} is lost"
                elif name == "start_attempt":
                    if (op["trial_id"], op["result"]) not in attempts:
                        yield f"attempt {op['result']} of {op['trial_id']} is lost"
                elif name == "end_attempt":
                    row = attempts.get(where)  # type: ignore[arg-type]
                    if row is None or row["ended_at"] is None or row["state"] != op["state"]:
                        yield f"{where} was acknowledged as {op['state']} and is stored as {row}"
                elif name == "add_trial" and op["result"] not in self.trials:
                    yield f"trial {op['result']} was acknowledged and is not stored"
                elif name == "decide" and op["result"] not in decided:
                    yield f"decision {op['result']} was acknowledged and is not stored"
                elif name == "create" and op["sweep_id"] not in self.sweeps:
                    yield f"sweep {op['sweep_id']} was acknowledged and is not stored"
                elif name == "command_add" and op["result"]["id"] not in commands:
                    yield f"command {op['result']['id']} was acknowledged and is not stored"
                elif name in ("command_finish", "finish_command"):
                    row = commands.get(op["command_id"])
                    if row is None or row["finished_at"] is None:
                        yield f"command {op['command_id']} was finished and is open again"

    # --- a point counts once -------------------------------------------------------------------

    def points(self) -> Iterator[str]:
        for table, key in (
            ("metrics", "trial_id, step"),
            ("evaluations", "trial_id, step, split, dataset"),
        ):
            for row in self._tables.rows(
                f"SELECT {key}, count(*) AS n FROM {table} WHERE NOT superseded "
                f"GROUP BY {key} HAVING count(*) > 1"
            ):
                yield f"{row['n']} rows of {table} count for {row}"
        live = defaultdict(dict[int, int])
        for row in self._tables.rows(
            "SELECT trial_id, step, attempt FROM metrics WHERE NOT superseded ORDER BY step"
        ):
            live[row["trial_id"]][row["step"]] = row["attempt"]
        for trial_id, trial in self.trials.items():
            steps = live[trial_id]
            if sorted(steps) != list(range(1, trial["step"] + 1)):
                yield (
                    f"trial {trial_id} is at step {trial['step']}, but the steps that count are "
                    f"{_ranges(sorted(steps))}"
                )
            for step, attempt in steps.items():
                again = [
                    a["attempt"]
                    for a in self.attempts[trial_id]
                    if a["attempt"] > attempt and a["first_step"] <= step
                ]
                if again:
                    yield (
                        f"step {step} of {trial_id} counts from attempt {attempt}, though attempt "
                        f"{again[0]} began before it"
                    )

    # --- one life at a time --------------------------------------------------------------------

    def overlap(self, notes: list[dict[str, Any]]) -> Iterator[str]:
        for trial_id, rows in self.attempts.items():
            numbers = [r["attempt"] for r in rows]
            if numbers != list(range(1, len(rows) + 1)):
                yield f"trial {trial_id} has the attempts {numbers}"
            for one, other in pairwise(rows):
                if one["ended_at"] is None:
                    yield f"attempt {one['id']} is open though {other['id']} began"
                elif other["started_at"] < one["ended_at"]:
                    yield f"attempt {other['id']} began before {one['id']} ended"
            state = self.trials[trial_id]["state"]
            if rows and (rows[-1]["ended_at"] is None) != (state == "RUNNING"):
                yield f"trial {trial_id} is {state}, its attempt {rows[-1]['id']} {rows[-1]}"
        worked: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
        for note in notes:
            begin, end = worked[note["trial"]].get(note["attempt"], (note["began"], note["ended"]))
            worked[note["trial"]][note["attempt"]] = (
                min(begin, note["began"]),
                max(end, note["ended"]),
            )
        for trial_id, spans in worked.items():
            ordered = sorted(spans.items())
            for (one, (_, ended)), (other, (began, _)) in pairwise(ordered):
                if began < ended:
                    yield (
                        f"workers trained attempt {other} of {trial_id} for {ended - began:.3f} s "
                        f"while attempt {one} still trained"
                    )

    # --- states --------------------------------------------------------------------------------

    def ends(self) -> Iterator[str]:
        ended, reopened = Counter[str](), Counter[str]()
        wishes = Counter[str]()
        for event in self.events:
            who = event["trial_id"] or event["sweep_id"]
            data = event["data"]
            if event["type"] in ("trial.state", "sweep.state"):
                ended[who] += data["to"] in ENDED and data["from"] not in ENDED
                reopened[who] += data["from"] in ENDED and data["to"] not in ENDED
                if data["from"] in ENDED and data["to"] in ENDED:
                    yield f"{who} went from {data['from']} to {data['to']}"
            elif event["type"] == "command" and data["kind"] in _REVIVING:
                wishes[event["sweep_id"]] += "result" not in data
                if event["trial_id"]:
                    wishes[event["trial_id"]] += "result" not in data
        for row in (*self.trials.values(), *self.sweeps.values()):
            lives = ended[row["id"]] - reopened[row["id"]]
            if lives != (row["state"] in ENDED):
                yield f"{row['id']} is {row['state']} after {ended[row['id']]} ends in its events"
            if reopened[row["id"]] > wishes[row["id"]]:
                yield f"{row['id']} was reopened {reopened[row['id']]} times without being asked"

    def moves(self) -> Iterator[str]:
        state: dict[str, str] = {}
        begun: Counter[str] = Counter()
        for event in self.events:
            data, who = event["data"], event["trial_id"] or event["sweep_id"]
            if event["type"] == "sweep.created":
                state[who] = "QUEUED"
            elif event["type"] == "trial.created":
                state[who] = "PENDING"
            elif event["type"] == "attempt.started":
                begun[who] += 1
            elif event["type"] in ("trial.state", "sweep.state"):
                if state.get(who) != data["from"]:
                    yield f"{who} left {data['from']}, but it was {state.get(who)}"
                if not _legal(event["type"], data["from"], data["to"]):
                    yield f"{who} went from {data['from']} to {data['to']}"
                state[who] = data["to"]
        for row in (*self.sweeps.values(), *self.trials.values()):
            if state.get(row["id"]) != row["state"]:
                yield (
                    f"{row['id']} is {row['state']}, and {state.get(row['id'])} by its events: "
                    "a move without its event"
                )
        for trial_id, rows in self.attempts.items():
            trained = sum(r["reason"] != "reused" for r in rows)
            if begun[trial_id] != trained:
                yield f"{trial_id} has {trained} attempts and {begun[trial_id]} events of them"

    # --- events and fencing --------------------------------------------------------------------

    def events_in_order(self) -> Iterator[str]:
        ids = [event["id"] for event in self.events]
        if ids != list(range(1, len(ids) + 1)):
            yield f"the ids of events have gaps: {_ranges(ids)}"
        stored = {event["id"]: event for event in self.events}
        commits = [line for line in self._told if line["events"]]
        for line in commits:
            for event in line["events"]:
                row = stored.get(event["id"])
                if row is None or row["type"] != event["type"] or row["data"] != event["data"]:
                    yield f"event {event['id']} was told as {event} and is stored as {row}"
        returned = sorted((line["returned"], line["events"][-1]["id"]) for line in commits)
        highest = list(accumulate((id for _, id in returned), max))
        for line in commits:
            # Everything that had returned before this one began must have lower ids.
            before = bisect_left(returned, (line["began"], 0))
            if before and line["events"][0]["id"] <= highest[before - 1]:
                yield (
                    f"event {line['events'][0]['id']} was begun after event "
                    f"{highest[before - 1]} had been committed"
                )

    def fencing(self) -> Iterator[str]:
        """A driver's commits come before all of its successor's."""
        taken: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for line in self._told:
            if (lease := line["lease"]) is not None:
                taken[lease["sweep"]].append((lease["revision"], lease["epoch"], line["kind"]))
        for sweep_id, writes in taken.items():
            writes.sort()
            epoch = 0
            seen: dict[int, str] = {}
            for revision, by, kind in writes:
                if by < epoch:
                    yield (
                        f"driver {by} of {sweep_id} wrote {kind} (revision {revision}) after "
                        f"driver {epoch} had written"
                    )
                if revision in seen:
                    yield f"revision {revision} of {sweep_id}: {seen[revision]} and {kind}"
                seen[revision] = kind
                epoch = max(epoch, by)
            stored = self.sweeps.get(sweep_id)
            if stored is not None and stored["revision"] < writes[-1][0]:
                yield f"{sweep_id} is at revision {stored['revision']}, below {writes[-1][0]}"

        yield from self._stale_renewals()

    def _stale_renewals(self) -> Iterator[str]:
        """Nobody renews a lease after it has passed on."""
        passed: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for line in self._told:
            for op in line["ops"]:
                if op["op"] == "acquire" and op["result"] is not None:
                    got = op["result"]
                    passed[got["sweep_id"]].append((line["returned"], got["epoch"]))
        for line in self._told:
            for op in line["ops"]:
                if op["op"] != "renew" or not op["result"]:
                    continue
                lease = op["lease"]
                for at, epoch in passed[lease["sweep_id"]]:
                    if epoch > lease["epoch"] and at < line["began"]:
                        yield f"driver {lease['epoch']} renewed after driver {epoch} had begun"

    def unfinished(self, open_sweeps: frozenset[str]) -> Iterator[str]:
        for row in self.sweeps.values():
            if row["id"] in open_sweeps:
                continue
            if row["state"] not in ENDED:
                yield f"sweep {row['id']} is still {row['state']}"
            if row["holder"] is not None:
                yield f"sweep {row['id']} has ended, and {row['holder']} still holds its lease"
        for row in self.trials.values():
            if row["state"] not in ENDED and row["sweep_id"] not in open_sweeps:
                yield f"trial {row['id']} is still {row['state']}"
            if row["state"] == "COMPLETED" and row["checkpoint"]:
                path = Path(row["checkpoint"])
                if path.is_absolute() and not path.exists():
                    yield f"the model of {row['id']}, {path}, is not there"
        for row in self._tables.rows("SELECT * FROM commands WHERE finished_at IS NULL"):
            if row["sweep_id"] not in open_sweeps:
                yield f"command {row['id']} ({row['kind']}) was never answered"


def _legal(type: str, before: str, after: str) -> bool:
    if type == "trial.state":
        return TrialState(after) in TRIAL_MOVES[TrialState(before)]
    return SweepState(after) in SWEEP_MOVES[SweepState(before)]


def _same(stored: Sequence[Any], told: Sequence[Any]) -> bool:
    """Equal numbers; one that wasn't finite is stored as NULL."""
    for one, other in zip(stored, told, strict=True):
        finite = isinstance(other, int | float) and abs(other) != float("inf") and other == other
        if (one is None) != (not finite) or (finite and one != other):
            return False
    return True


def _ranges(numbers: Sequence[int]) -> str:
    """1–5, 7: short for a long list."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    texts = [str(a) if a == b else f"{a}–{b}" for a, b in runs[:20]]
    return ", ".join(texts) or "none"
