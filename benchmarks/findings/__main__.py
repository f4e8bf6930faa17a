"""What the recorded sweeps say about the claims of `declaration.md`.

python -m benchmarks.findings [--curves FOLDER] [--out PAGE] [--json FILE] [--images FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.findings.analysis import analyse
from benchmarks.findings.loading import load
from benchmarks.findings.page import SHA256, page
from benchmarks.findings.plots import draw
from benchmarks.recording.sources import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.findings", description=__doc__)
    parser.add_argument("--curves", type=Path, default=ROOT / "benchmarks" / "curves")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "findings.md")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks" / "results" / "findings.json"
    )
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    report(args.curves, args.out, args.json, args.images)
    print(f"{args.out}, {args.json} and plots in {args.images}")


def report(curves: Path, out: Path, results: Path, images: Path) -> None:
    """Analyse what `curves` holds and write the page, the results and the plots.

    Raises:
        SystemExit: there are no curves, or no sweep in them has all its runs.
    """
    loaded = load(curves)
    if not loaded.sweeps:
        raise SystemExit(f"no sweep in {curves} has all its runs: {loaded.incomplete}")
    analysis = analyse(loaded)
    for path in (out, results):
        path.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(_json({"declaration_sha256": SHA256, **analysis.as_json()}), "utf-8")
    draw(analysis, loaded.sweeps, images)
    seen_from_page = Path(os.path.relpath(images, out.parent)).as_posix()
    out.write_text(page(analysis, seen_from_page), "utf-8")


def _json(content: dict[str, Any]) -> str:
    """One line an entry, so that a change shows as the lines that changed."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    def block(value: Any) -> str:
        if isinstance(value, dict) and value:
            inner = [f"{line(k)}: {line(v)}" for k, v in value.items()]
            return "{\n  " + ",\n  ".join(inner) + "\n }"
        if isinstance(value, list) and value:
            return "[\n  " + ",\n  ".join(line(v) for v in value) + "\n ]"
        return line(value)

    return "{\n " + ",\n ".join(f"{line(k)}: {block(v)}" for k, v in content.items()) + "\n}\n"


if __name__ == "__main__":
    main()
