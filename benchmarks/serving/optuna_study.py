"""Run with the peer's python: a study as our sweep is, in Optuna's own SQLite storage.

    python optuna_study.py study.db TRIALS STEPS

Optuna takes 73 ms to store a trial. So one is stored by Optuna, and the others are copies of its
rows with values of their own.
"""

import random
import sqlite3
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
path, trials, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
study = optuna.create_study(study_name="large", storage=f"sqlite:///{path}")
space = {
    "learning_rate": optuna.distributions.FloatDistribution(1e-6, 1e-3, log=True),
    "effective_batch_size": optuna.distributions.CategoricalDistribution([16, 32, 64, 128]),
    "warmup_steps": optuna.distributions.CategoricalDistribution([0, 25, 100]),
    "schedule": optuna.distributions.CategoricalDistribution(["constant", "linear", "cosine"]),
}
first = {"learning_rate": 1e-5, "effective_batch_size": 16, "warmup_steps": 0, "schedule": "linear"}
study.add_trial(
    optuna.trial.create_trial(
        params=first,
        distributions=space,
        value=1.0,
        intermediate_values={step: 1.0 + 1 / step for step in range(1, steps + 1)},
    )
)

draw = random.Random(0)
choices = {"effective_batch_size": 4, "warmup_steps": 3, "schedule": 3}
db = sqlite3.connect(path)
db.row_factory = sqlite3.Row


def copies(table: str, key: str, change) -> None:
    rows = [dict(row) for row in db.execute(f"SELECT * FROM {table}")]
    highest = db.execute(f"SELECT max({key}) FROM {table}").fetchone()[0]
    names = list(rows[0])
    marks = ", ".join("?" * len(names))

    def made():
        at = highest
        for number in range(1, trials):
            for row in rows:
                at += 1
                copy = {**row, key: at, "trial_id": number + 1}
                change(copy, number)
                yield tuple(copy[name] for name in names)

    db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", made())


def param(row: dict, number: int) -> None:
    name = row["param_name"]
    many = choices.get(name)
    row["param_value"] = 10 ** draw.uniform(-6, -3) if many is None else draw.randrange(many)


copies("trials", "trial_id", lambda row, number: row.update(number=number))
copies("trial_params", "param_id", param)
copies("trial_values", "trial_value_id", lambda row, n: row.update(value=draw.gauss(1.5, 0.3)))
copies(
    "trial_intermediate_values",
    "trial_intermediate_value_id",
    lambda row, n: row.update(intermediate_value=draw.gauss(1.5, 0.3)),
)
db.commit()
