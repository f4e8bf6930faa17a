"""Learning curves as the dashboard asks for them: filtered, then thinned out."""

from __future__ import annotations

import random
import sqlite3

import numpy as np
import psycopg
import pytest
from sqlalchemy import select

from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store, Wanted
from orchestrator.store.database import Database
from orchestrator.store.schema import curve_pieces
from orchestrator.store.thinning import chosen
from tests.integration.store.reports import Running, checkpoint, step, steps
from trainer.metrics import Batch
from winnow.types import TrialState


def test_a_long_curve_is_thinned_but_keeps_its_extremes(running: Running):
    trial_id, attempt = running.started(0)
    losses = dict.fromkeys(range(1, 2001), 1.0) | {777: 50.0, 1234: 0.01}
    norms = dict.fromkeys(range(1, 2001), 2.0) | {42: 900.0, 1999: 0.5}
    points = tuple(step(n, loss=losses[n], grad_norm=norms[n]) for n in losses)
    running.store.record(running.lease, trial_id, attempt, Batch("running", steps=points))
    (curve,) = running.store.curves(running.sweep_id, max_points=60)
    assert len(curve.step) <= 60
    assert curve.total_points == 2000
    assert {1, 42, 777, 1234, 1999, 2000} <= set(curve.step)
    assert (max(curve.loss), min(curve.loss)) == (50.0, 0.01)  # type: ignore[type-var]
    assert curve.step == sorted(curve.step)
    assert curve.samples == [10 * n for n in curve.step]


def test_a_filter_comes_before_thinning(running: Running):
    trial_id, attempt = running.started(0)
    running.store.record(running.lease, trial_id, attempt, steps(1, 1000))
    (curve,) = running.store.curves(running.sweep_id, after_step=980, max_points=50)
    assert curve.step == list(range(981, 1001)), "few are left: all of them are shown"
    assert curve.total_points == 20


def test_a_reader_asks_each_trial_for_what_it_has_not_seen(running: Running):
    for number in (10, 2):
        trial_id, attempt = running.started(number)
        running.store.record(running.lease, trial_id, attempt, steps(1, 5))
    two, ten = f"{running.sweep_id}-2", f"{running.sweep_id}-10"
    curves = running.store.curves(running.sweep_id, after_step={two: 3})
    assert [(c.trial_id, c.step) for c in curves] == [(two, [4, 5]), (ten, [1, 2, 3, 4, 5])]
    assert running.store.curves(running.sweep_id, after_step={two: 5, ten: 5}) == []
    assert [c.trial_id for c in running.store.curves(running.sweep_id, [ten])] == [ten]
    assert len(running.store.curves(running.sweep_id, after_step={})) == 2


def test_a_curve_in_pieces_is_the_curve_of_its_points(running: Running, migrated_url: str):
    """A long trial fails, is computed again in part, grows, pauses and ends; what is shown of it,
    at any width, is what thinning makes of all its points. So for a reader who kept nothing."""
    draw = random.Random(0)
    trial_id, attempt = running.started(0)
    live: dict[int, tuple[float, float]] = {}

    def report(first: int, last: int) -> None:
        for start in range(first, last + 1, 90):
            numbers = range(start, min(start + 90, last + 1))
            for n in numbers:
                live[n] = (draw.gauss(2, 1), float("nan") if n % 411 == 0 else draw.gauss(1, 0.3))
            points = tuple(step(n, loss=live[n][0], grad_norm=live[n][1]) for n in numbers)
            running.store.record(running.lease, trial_id, attempt, Batch("running", steps=points))

    def check() -> None:
        fresh = Store(migrated_url)
        whole = sorted(live)
        columns = np.array([live[n] for n in whole]).T
        for most in (2, 8, 60, 256, 500, 4000):
            at = chosen(np.array(whole, dtype=float), list(columns), most)
            for store in (running.store, fresh):
                (curve,) = store.curves(running.sweep_id, max_points=most)
                assert curve.step == [whole[i] for i in at], most
                assert curve.loss == [live[n][0] for n in curve.step]
                assert curve.total_points == len(whole)
        for axis, low, high in (("time", 100.0, 130.0), ("tokens", 70_000, 75_000)):
            wanted = Wanted(axis=axis, low=low, high=high, max_points=30)  # type: ignore[arg-type]
            first, second = (
                store.metrics.read(running.sweep_id, None, wanted).curves[0].asdict()
                for store in (running.store, fresh)
            )
            assert first == second
            assert low <= first["x"][0] <= first["x"][-1] <= high
        fresh.close()

    report(1, 1300)
    check()
    saved = Batch("running", checkpoints=(checkpoint(777, "/ckpt/777"),))
    running.store.record(running.lease, trial_id, attempt, saved)
    running.store.end_attempt(
        running.lease, trial_id, attempt, TrialState.PENDING, "infrastructure"
    )
    attempt = running.store.start_attempt(running.lease, trial_id, "/ckpt/777")
    live = {n: point for n, point in live.items() if n <= 777}
    check()
    report(701, 1100)  # it went on from an older checkpoint than it was given
    saved = Batch("running", checkpoints=(checkpoint(1000, "/ckpt/1000"),))
    running.store.record(running.lease, trial_id, attempt, saved)
    check()
    running.store.end_attempt(running.lease, trial_id, attempt, TrialState.PAUSED, "asha")
    check()
    attempt = running.store.start_attempt(running.lease, trial_id, "/ckpt/1000")
    live = {n: point for n, point in live.items() if n <= 1000}
    report(1001, 2000)
    running.store.end_attempt(running.lease, trial_id, attempt, TrialState.COMPLETED)
    check()
    assert pieces_of(migrated_url, trial_id) == [(2000, 2000)], "one row holds it"


def test_a_gap_or_a_late_beginning_hides_no_point(running: Running):
    curves = {0: [*range(9000, 9400, 4), *range(9400, 9600)], 1: list(range(9001, 9601))}
    for number, numbers in curves.items():
        trial_id, attempt = running.started(number)
        batch = Batch("running", steps=tuple(step(n) for n in numbers))
        running.store.record(running.lease, trial_id, attempt, batch)
        running.store.end_attempt(running.lease, trial_id, attempt, TrialState.COMPLETED)
    for most in (100, 290, 310, 320, 700):
        for curve, numbers in zip(
            running.store.curves(running.sweep_id, max_points=most), curves.values(), strict=True
        ):
            losses, norms = 1 / np.array(numbers), np.full(len(numbers), 2.0)
            at = chosen(np.array(numbers, dtype=float), [losses, norms], most)
            assert curve.step == [numbers[i] for i in at]


def pieces_of(url: str, trial_id: str) -> list[tuple[int, int]]:
    database = Database(url)
    query = select(curve_pieces.c.last_step, curve_pieces.c.points)
    with database.read() as session:
        found = session.rows(query.where(curve_pieces.c.trial_id == trial_id))
    database.close()
    return [tuple(row) for row in found]


def test_a_connection_that_is_lost_while_a_curve_is_read_is_said_to_be(migrated_url: str):
    """Points are read below SQLAlchemy; a driver waits for this error, and no other."""
    database = Database(migrated_url)
    of = {"sqlite": sqlite3.OperationalError, "postgresql": psycopg.OperationalError}
    lost = of[database.engine.dialect.name]

    def read() -> None:
        with database.write() as session, session.cursor() as cursor:
            cursor.execute("SELECT 1")
            raise lost("gone")

    with pytest.raises(StoreUnavailable):
        read()
    database.close()
