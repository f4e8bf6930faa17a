"""Sweeps over HTTP, on SQLite and on PostgreSQL."""

from __future__ import annotations

import yaml

from tests.integration.api.conftest import Api, good_sweep
from tests.integration.store.reports import Running, evaluation, steps, stop
from trainer.metrics import Batch
from winnow.types import Metrics, Sweep, TrialState


def running(api: Api, **changes: object) -> Running:
    """A sweep that was sent to the API and taken by a driver."""
    sweep_id = api.post(good_sweep() | changes).json()["id"]
    lease = api.store.acquire_lease(sweep_id, "a driver", 60)
    assert lease is not None
    return Running(api.store, sweep_id, lease)


def test_a_good_sweep_is_queued_and_found_where_the_answer_says(api_on_both: Api) -> None:
    response = api_on_both.post(good_sweep())
    assert response.status_code == 201
    found = api_on_both.http.get(response.headers["location"])
    assert found.status_code == 200
    sweep = Sweep.model_validate(found.json())
    assert (sweep.name, sweep.state, sweep.summary.planned) == ("tiny", "QUEUED", 4)
    assert sweep.spec["space"]["learning_rate"] == {"log_uniform": [1e-5, 1e-3]}


def test_yaml_and_json_say_the_same(api: Api) -> None:
    as_yaml = yaml.safe_dump(good_sweep())
    sent = api.http.post(
        "/v1/sweeps", content=as_yaml, headers={"Content-Type": "application/yaml; charset=utf-8"}
    )
    assert sent.status_code == 201, sent.text
    assert sent.json()["spec"] == api.post(good_sweep()).json()["spec"]


def test_what_opening_the_files_told_is_kept_for_the_driver(api: Api) -> None:
    sweep_id = api.post(good_sweep()).json()["id"]
    assert api.store.sweep_rows(sweep_id).facts["train_samples"] == 100


def test_a_grid_plans_all_its_combinations(api: Api) -> None:
    sweep = good_sweep()
    sweep["search"] = {"sampler": "grid"}
    sweep["space"]["learning_rate"] = {"choice": [1e-5, 1e-4, 1e-3]}
    assert api.post(sweep).json()["summary"]["planned"] == 6


def test_pages_hold_every_sweep_once_newest_first(api_on_both: Api) -> None:
    sent = [api_on_both.post(good_sweep() | {"name": f"s{i}"}).json()["id"] for i in range(5)]
    found: list[str] = []
    cursor = None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = api_on_both.http.get("/v1/sweeps", params=query).json()
        found += [s["id"] for s in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == sent[::-1]


def test_a_queued_sweep_is_canceled_at_once_and_only_once(api_on_both: Api) -> None:
    sweep_id = api_on_both.post(good_sweep()).json()["id"]
    first = api_on_both.http.post(f"/v1/sweeps/{sweep_id}:cancel")
    assert (first.status_code, first.json()["result"]) == (202, "canceled before it began")
    assert api_on_both.store.get_sweep(sweep_id).state == "CANCELED"
    again = api_on_both.http.post(f"/v1/sweeps/{sweep_id}:cancel")
    assert again.status_code == 409
    assert "has ended" in again.json()["detail"]


def test_a_running_sweep_is_canceled_by_its_driver(api_on_both: Api) -> None:
    run = running(api_on_both)
    assert api_on_both.http.post(f"/v1/sweeps/{run.sweep_id}:cancel").status_code == 202
    commands = api_on_both.store.pending_commands(run.sweep_id)
    assert [(c.kind, c.trial_id, c.issued_by) for c in commands] == [("cancel", None, "owner")]


def test_one_trial_is_stopped_while_the_sweep_goes_on(api_on_both: Api) -> None:
    run = running(api_on_both)
    trial_id = run.trial()
    assert api_on_both.http.post(f"/v1/trials/{trial_id}:stop").status_code == 202
    assert [c.trial_id for c in api_on_both.store.pending_commands(run.sweep_id)] == [trial_id]

    run.store.end_trial(run.lease, trial_id, TrialState.CANCELED, "user", "Stopped by a user.")
    assert api_on_both.http.post(f"/v1/trials/{trial_id}:stop").status_code == 409


def test_trials_curves_evaluations_decisions_and_events_are_shown(api_on_both: Api) -> None:
    run = running(api_on_both)
    trial_id, attempt = run.started()
    run.store.record(run.lease, trial_id, attempt, steps(1, 30))
    run.store.record(
        run.lease, trial_id, attempt, Batch("running", evaluations=(evaluation(30, 1.5),))
    )
    run.store.decide(run.lease, stop(trial_id), acted=True)
    at = f"/v1/sweeps/{run.sweep_id}"

    def get(path: str) -> dict:
        response = api_on_both.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    (trial,) = get(f"{at}/trials")["items"]
    assert (trial["id"], trial["step"], trial["eval_loss"]) == (trial_id, 30, 1.5)
    assert get(f"/v1/trials/{trial_id}") == trial

    metrics = Metrics.model_validate(get(f"{at}/metrics"))
    assert metrics.curves[0].step == list(range(1, 31))
    assert metrics.evaluations[0].loss == 1.5
    later = Metrics.model_validate(get(f"{at}/metrics?after_step=28&trials={trial_id}"))
    assert later.curves[0].step == [29, 30]
    thin = Metrics.model_validate(get(f"{at}/metrics?max_points=10"))
    assert len(thin.curves[0].step) <= 10
    assert thin.curves[0].total_points == 30

    (decision,) = get(f"{at}/decisions")["items"]
    assert (decision["action"], decision["code"]) == ("stop", "asha")
    assert decision["evidence"] == {"rank": 7, "peers": 8}
    assert get(f"{at}/decisions?after={decision['id']}")["items"] == []

    first = get(f"{at}/events?limit=1")
    assert first["items"][0]["type"] == "sweep.created"
    rest = get(f"{at}/events?cursor={first['next']}")
    assert [e["type"] for e in rest["items"]][-1] == "decision"


def test_health_needs_no_token_and_tells_of_a_silent_orchestrator(api_on_both: Api) -> None:
    del api_on_both.http.headers["Authorization"]
    before = api_on_both.http.get("/v1/health").json()
    assert (before["status"], before["orchestrator"]) == ("degraded", "silent")
    api_on_both.store.report_cluster({"CPU": 2.0})
    after = api_on_both.http.get("/v1/health").json()
    assert (after["status"], after["cluster"]) == ("ok", {"CPU": 2.0})


def test_openapi_describes_the_sweep_file(api: Api) -> None:
    schema = api.http.get("/v1/openapi.json").json()
    body = schema["paths"]["/v1/sweeps"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/yaml"}
    text = str(schema)
    for name in {p.split("'")[0] for p in text.split("#/components/schemas/")[1:]}:
        assert name in schema["components"]["schemas"], name


def test_a_database_that_is_away_is_a_503_and_not_a_stack_trace(api: Api) -> None:
    api.app.state.services.store.close()
    database = str(api.app.state.services.settings.database_url).removeprefix("sqlite:///")
    with open(database, "wb") as file:
        file.write(b"this is no database" * 1000)
    response = api.http.get("/v1/sweeps")
    assert response.status_code in (500, 503)
    assert response.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in response.text


def test_a_time_without_its_zone_or_in_numbers_is_not_guessed_at(api: Api) -> None:
    for given in ("0", "1700000000", "2026-01-31T12:00:00", "yesterday"):
        response = api.http.get("/v1/sweeps", params={"created_after": given})
        assert response.status_code == 422, given
        assert response.json()["errors"][0]["pointer"] == "/created_after"
    api.post(good_sweep())
    found = api.http.get("/v1/sweeps", params={"created_after": "2020-01-31T12:00:00+01:00"})
    assert len(found.json()["items"]) == 1
