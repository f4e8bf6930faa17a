"""Fine-tuning sweeps recorded whole: nothing is stopped, everything is kept.

    python -m benchmarks.recording prepare --instructions FOLDER --gsm8k FOLDER
    python -m benchmarks.recording run [--sweep NAME …]
    python -m benchmarks.recording export --out benchmarks/curves

`sources` makes the data and pretrains the base models, `grid` says which runs a sweep has, `runs`
makes them, and `export` writes them in the form that `benchmarks.early_termination` replays. Every
step can be interrupted and started again; runs that are done are not made twice, and several `run`
processes share the work.
"""
