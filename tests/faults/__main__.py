"""`python -m tests.faults`: the whole set, or a part; see `--help`."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.faults import report
from tests.faults.context import Context, Family
from tests.faults.families import FAMILIES
from tests.faults.isolate import Result
from tests.faults.servers import Databases, Postgres

BOTH = ("sqlite", "postgres")


def main() -> int:
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up
    logging.disable(logging.WARNING)
    if options.report_from:
        return _report_from(options.report_from, options.seed)
    chosen = [f for f in FAMILIES if options.only in (None, f.name)]
    if options.quick:
        chosen = [f for f in chosen if not f.ray or options.only]
    if not chosen:
        names = ", ".join(repr(f.name) for f in FAMILIES)
        sys.exit(f"there is no family {options.only!r}; there are: {names}")
    home: Path = options.resume or _new_home()
    home.mkdir(parents=True, exist_ok=True)
    kept = home / "results.jsonl"
    before = report.read(kept)
    print(f"seed {options.seed}, folder {home}; go on with --resume {home}", flush=True)
    began = time.monotonic()
    databases = tuple(d for d in BOTH if options.database in (None, d))
    postgres = Postgres() if "postgres" in databases else None
    bad = 0
    try:
        stores = Databases(home, postgres)
        with kept.open("a") as file:
            for family in chosen:
                context = Context(
                    home=home,
                    stores=stores,
                    databases=databases,
                    seed=options.seed,
                    quick=options.quick,
                    done=frozenset(r.id for r in before if not r.violations),
                )
                for result in _timed(family, context):
                    file.write(json.dumps(result.as_json()) + "\n")
                    file.flush()
                    bad += bool(result.violations)
    finally:
        if postgres is not None:
            postgres.close()
    results = report.read(kept)
    took = time.monotonic() - began
    print(f"{len(results)} cases, {bad} with violations, {took:.0f} s", flush=True)
    if options.report:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        report.write(results, FAMILIES, report.Run(options.seed, when, took))
    if not bad and not options.keep and options.resume is None:
        shutil.rmtree(home, ignore_errors=True)
    return 1 if bad else 0


def _report_from(folders: list[Path], seed: int) -> int:
    """Write the page from what several runs have left."""
    found = {r.id: r for folder in folders for r in report.read(folder / "results.jsonl")}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    took = sum(r.seconds for r in found.values())
    report.write(list(found.values()), FAMILIES, report.Run(seed, when, took, len(folders)))
    return 0


def _timed(family: Family, context: Context) -> Iterator[Result]:
    """The family's results, with a line of progress each few seconds and one a violation."""
    began = last = time.monotonic()
    count = bad = 0
    for result in family.results(context):
        count += 1
        bad += bool(result.violations)
        for text in result.violations:
            print(f"  {result.id}: {text}", flush=True)
        if time.monotonic() - last > 15:
            last = time.monotonic()
            print(f"  {family.name}: {count} cases, {bad} bad", flush=True)
        yield result
    print(f"{family.name}: {count} cases, {bad} bad, {time.monotonic() - began:.1f} s", flush=True)


def _new_home() -> Path:
    """In memory where there is room: a killed process loses nothing that it has written."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    return Path(tempfile.mkdtemp(prefix="winnow-faults-", dir=memory if roomy else None))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="where chance starts")
    parser.add_argument("--only", metavar="NAME", help="one family")
    parser.add_argument("--database", choices=BOTH, help="one database")
    parser.add_argument("--quick", action="store_true", help="the part that `make test` runs")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on where a run ended")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--report", action="store_true", help="write docs/reliability.md")
    parser.add_argument(
        "--report-from", type=Path, nargs="+", metavar="FOLDER", help="only write it, from these"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
