"""The command line of the recorder. See the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.recording.sources import ROOT, prepare, sources


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".winnow" / "recording")
    commands = parser.add_subparsers(dest="command", required=True)
    prepared = commands.add_parser("prepare", help="write data, pretrain base models")
    prepared.add_argument("--instructions", type=Path, required=True)
    prepared.add_argument("--gsm8k", type=Path, required=True)
    running = commands.add_parser("run", help="make the runs that are missing")
    running.add_argument("--sweep", nargs="+", default=None)
    running.add_argument("--threads", type=int, default=1)
    exporting = commands.add_parser("export", help="write runs, points and evaluations as Parquet")
    exporting.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "curves")
    exporting.add_argument("--partial", action="store_true", help="sweeps that lack runs too")
    args = parser.parse_args()

    if args.command == "prepare":
        prepare(args.folder, args.instructions, args.gsm8k)
    elif args.command == "run":
        # Here, because they import torch.
        from benchmarks.recording.grid import SWEEPS, plan
        from benchmarks.recording.runs import record

        named = {s.name: s for s in SWEEPS}
        unknown = [n for n in args.sweep or () if n not in named]
        if unknown:
            parser.error(f"no sweep is called {unknown[0]}; there are {', '.join(named)}")
        from_source = sources(args.folder)
        sweeps = [named[name] for name in args.sweep or named]
        runs = (run for sweep in sweeps for run in plan(sweep, from_source[sweep.source]))
        record(runs, args.folder, args.threads)
    else:
        from benchmarks.recording.export import export

        print(f"{args.out}: {', '.join(export(args.folder, args.out, partial=args.partial))}")


if __name__ == "__main__":
    main()
