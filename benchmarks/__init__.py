"""Every number in the README comes from a script here.

Run from the repository's root, e.g. `python -m benchmarks.turnaround --out results.json`. Results
that were kept are in `benchmarks/results/`, in the format of `benchmarks/report.py`.
"""
