"""`python -m tests.conformance`: schemathesis for each token, the walk, the bad inputs, a report.

--report         write docs/conformance.md
--only PART      only this one of: generated, walk, inputs
--examples N     random cases an operation
--quick          one of them, and no endless answers
--token NAME     schemathesis with this token only
--operation ID   schemathesis on this operation only
--phases NAMES   these phases of it only
--out FILE       write the figures as JSON
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.conformance.generated import LEFT_OUT, TOKENS, Size, generated, give_up
from tests.conformance.refused import refused
from tests.conformance.report import Findings, document, write
from tests.conformance.walked import walked


def main() -> int:
    options = _parse()
    signal.signal(signal.SIGTERM, _end)
    logging.disable(logging.WARNING)  # each refusal is noted
    size = Size(
        examples=1 if options.quick else options.examples,
        phases=options.phases,
        operation=options.operation,
        seed=options.seed,
        streams=not options.quick,
        verbose=options.verbose,
    )
    found = Findings(left_out=LEFT_OUT)
    if options.only in (None, "walk"):
        found.walk = walked()
        print(f"{found.walk.visits} visits of {found.walk.routes} routes", flush=True)
    if options.only in (None, "inputs"):
        found.refusals = refused()
        print(f"{len(found.refusals.answers)} bad inputs", flush=True)
    if options.only in (None, "generated"):
        for run in generated([t for t in TOKENS if options.token in (None, t)], size):
            found.runs.append(run)
            print(run.line(), flush=True)
    for fault in found.faults():
        print(f"  {fault}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(document(found), indent=1) + "\n")
    if options.report:
        write(found)
    return 1 if found.faults() else 0


def _end(number: int, frame: FrameType | None) -> None:
    """So that what was started is ended too."""
    give_up()
    sys.exit(128 + number)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--report", action="store_true", help="write docs/conformance.md")
    parser.add_argument("--only", choices=("generated", "walk", "inputs"))
    parser.add_argument("--examples", type=int, default=10, help="random cases an operation")
    parser.add_argument("--quick", action="store_true", help="few cases an operation")
    parser.add_argument("--token", choices=TOKENS, help="schemathesis with this token only")
    parser.add_argument("--operation", help="schemathesis on this operation only, by its id")
    parser.add_argument("--phases", default=Size.phases)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="what schemathesis printed")
    options = parser.parse_args()
    if options.report and (options.only or options.token or options.operation):
        parser.error("a report is of everything")
    return options


if __name__ == "__main__":
    sys.exit(main())
