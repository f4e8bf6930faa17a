"""What the recorded sweeps say about early dynamics and the paper's other claims.

    python -m benchmarks.findings

`declaration.md` says what is tested and how, written before there was anything to look at; `claims`
are its primary tests, `secondary` and `rivals` the rest, `page` and `plots` what a reader gets.
"""
