"""Importance over HTTP: of stored trials, at their end or early, and never of too few."""

from __future__ import annotations

import math
from typing import Any

from tests.integration.api.conftest import Api, good_sweep
from tests.integration.store.reports import Running, evaluation
from trainer.metrics import Batch
from winnow.types import TrialState


def test_importance_is_told_with_what_it_is_based_on(api_on_both: Api) -> None:
    sweep_id = api_on_both.post(good_sweep()).json()["id"]
    lease = api_on_both.store.acquire_lease(sweep_id, "a driver", 600)
    assert lease is not None
    run = Running(api_on_both.store, sweep_id, lease)

    def importance(**query: Any) -> dict[str, Any]:
        at = f"/v1/sweeps/{sweep_id}/importance"
        answer = api_on_both.http.get(at, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    nothing = importance()
    assert (nothing["trials"], nothing["parameters"]) == (0, [])
    assert "10 trials" in nothing["why"]

    def write(tx: Any) -> None:
        """Half of the trials are stopped after 20 samples, as their rate was seen to be poor."""
        for number in range(24):
            rate = 10 ** (-5 + number / 12)
            loss = 1 + abs(math.log10(rate) + 4)
            params = {"learning_rate": rate, "effective_batch_size": 8 + 8 * (number % 2)}
            trial = tx.add_trial(number, "search", params, {}, 100)
            attempt = tx.start_attempt(trial, None)
            tx.record(trial, attempt, Batch("running", evaluations=(evaluation(2, loss + 1),)))
            if number % 2:
                tx.end_attempt(trial, attempt, TrialState.PRUNED, "asha", "Poor.")
            else:
                tx.end_attempt(trial, attempt, TrialState.COMPLETED, value=loss)

    run.store.write(lease, write)
    end, early = importance(), importance(samples=25)
    assert (end["trials"], end["samples"], end["best"]) == (12, None, 5)
    assert (early["trials"], early["samples"]) == (24, 20), "stopped trials count early"
    for found in (end, early):
        assert found["method"] == "ped-anova"
        assert found["parameters"][0]["name"] == "learning_rate"
        assert math.isclose(sum(p["importance"] for p in found["parameters"]), 1)
    assert importance(samples=19)["trials"] == 0, "nothing was measured so early"

    trial = f"{sweep_id}-1"  # it is revived, and completes after all
    run.store.write(lease, lambda tx: tx.call_back(trial, "user", "Revived."))
    attempt = run.store.start_attempt(lease, trial)
    run.store.end_attempt(lease, trial, attempt, TrialState.COMPLETED, value=0.5)
    assert importance()["trials"] == 13, "the answer before is not served again"
