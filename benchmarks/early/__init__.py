"""How good are the rules that end trials early? Recorded sweeps replayed, and every rule measured.

    from benchmarks.early import Contender, evaluate, load_sweeps

    sweeps = load_sweeps("runs.parquet", "points.parquet")
    rows = evaluate(Contender.of("asha", eta=3), sweeps, draws=20, workers=4)

`loading` reads sweeps in the replay format, `synthetic` makes some whose truth is known; a `Sweep`
(`sweeps`) draws one seed a configuration. `evaluation` replays a draw and scores it, `statistics`
holds the formulas. `contest` says who takes part in which settings and spreads the replays over
processes, `frontier` compares regret at equal compute, `summary` puts all figures together,
`tables` and `plots` show them. `python -m benchmarks.early_termination` is the command.
"""

from benchmarks.early.evaluation import Contender, Row, evaluate
from benchmarks.early.loading import load_sweeps
from benchmarks.early.sweeps import Run, Sweep

__all__ = ["Contender", "Row", "Run", "Sweep", "evaluate", "load_sweeps"]
