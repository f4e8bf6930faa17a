"""A request that is sent twice with one Idempotency-Key takes effect once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.admission.preflight import Preflight
from orchestrator.errors import Conflict
from orchestrator.store import Answer, Once, Store, idempotency
from tests.integration.api.conftest import Api, good_sweep, make_api

KEY = {"Idempotency-Key": "the-first"}


def test_a_repeated_request_has_the_first_answer(api_on_both: Api) -> None:
    first = api_on_both.post(good_sweep(), headers=KEY)
    again = api_on_both.post(good_sweep(), headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(api_on_both.http.get("/v1/sweeps").json()["items"]) == 1


def test_the_order_of_fields_is_no_other_request(api: Api) -> None:
    first = api.post(good_sweep(), headers=KEY).json()
    turned = dict(reversed(good_sweep().items()))
    assert api.post(turned, headers=KEY).json()["id"] == first["id"]


def test_a_key_stands_for_one_body_and_one_address(api_on_both: Api) -> None:
    sweep = api_on_both.post(good_sweep(), headers=KEY).json()
    other = api_on_both.post(good_sweep() | {"name": "other"}, headers=KEY)
    elsewhere = api_on_both.http.post(f"/v1/sweeps/{sweep['id']}:pause", headers=KEY)
    for refused in (other, elsewhere):
        assert refused.status_code == 422
        assert refused.json()["type"] == "urn:winnow:problem:idempotency-mismatch"
    assert len(api_on_both.http.get("/v1/sweeps").json()["items"]) == 1


def test_a_key_stands_for_one_sweep_though_the_request_has_no_body(api: Api) -> None:
    first, other = (api.post(good_sweep() | {"name": name}).json()["id"] for name in "ab")
    assert api.http.post(f"/v1/sweeps/{first}:pause", headers=KEY).status_code == 202
    assert api.http.post(f"/v1/sweeps/{other}:pause", headers=KEY).status_code == 422


def test_two_callers_may_use_the_same_key(api: Api) -> None:
    first = api.post(good_sweep(), headers=KEY)
    other = api.store.access.create_token("other", ("submit",)).token
    second = api.post(good_sweep(), headers=KEY | {"Authorization": f"Bearer {other}"})
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]


def test_a_refused_request_leaves_its_key_free(api: Api) -> None:
    wrong = good_sweep() | {"search": {"sampler": "random", "trials": -1}}
    assert api.post(wrong, headers=KEY).status_code == 422
    assert api.post(good_sweep(), headers=KEY).status_code == 201


def test_while_the_first_is_worked_on_the_second_is_told_to_wait(
    sqlite_url: str, tmp_path: Path
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(spec: Any) -> Preflight:
        began.set()
        assert go_on.wait(120)
        return Preflight(facts={"train_samples": 100})

    answers: list[Any] = []

    def send(api: Api) -> None:
        answers.append(api.post(good_sweep(), headers=KEY))

    for api in make_api(sqlite_url, tmp_path / "home", slow):
        first = threading.Thread(target=send, args=(api,))
        first.start()
        assert began.wait(120)
        meanwhile = api.post(good_sweep(), headers=KEY)
        go_on.set()
        first.join(120)
        assert meanwhile.status_code == 409
        assert meanwhile.json()["type"] == "urn:winnow:problem:idempotency-in-flight"
        assert int(meanwhile.headers["Retry-After"]) >= 1
        assert answers[0].status_code == 201
        assert api.post(good_sweep(), headers=KEY).json() == answers[0].json()


def test_repeated_commands_are_asked_for_once(api_on_both: Api) -> None:
    sweep = api_on_both.post(good_sweep()).json()["id"]
    body = {"params": [{"learning_rate": 1e-4, "effective_batch_size": 8}] * 2}
    url = f"/v1/sweeps/{sweep}:add"
    first, again = (api_on_both.http.post(url, json=body, headers=KEY) for _ in range(2))
    assert first.status_code == 202
    assert again.json() == first.json()
    assert len(api_on_both.http.get(f"/v1/sweeps/{sweep}/commands").json()["items"]) == 2


_DIES_AFTER_ITS_EFFECT = """
import os, signal, sys
from fastapi.testclient import TestClient
from api.app import create_app
from orchestrator.admission.preflight import Preflight
from orchestrator.settings import Settings
from tests.integration.api.conftest import good_sweep

settings = Settings(home=sys.argv[1], database_url=sys.argv[2])
app = create_app(settings, check_files=lambda spec: Preflight(facts={"train_samples": 100}))
store = app.state.services.store
create = store.create_sweep
def create_and_die(*args, **kwargs):
    create(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
store.create_sweep = create_and_die
with TestClient(app, base_url="http://127.0.0.1:8642") as http:
    token = (settings.home / "token").read_text().strip()
    http.post("/v1/sweeps", json=good_sweep(),
              headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "the-first"})
"""


def test_a_server_that_dies_before_it_answers_does_not_double_the_effect(
    sqlite_url: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    died = subprocess.run(
        [sys.executable, "-c", _DIES_AFTER_ITS_EFFECT, str(home), sqlite_url],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    for api in make_api(sqlite_url, home, lambda spec: Preflight(facts={"train_samples": 100})):
        again = api.post(good_sweep(), headers=KEY)
        assert again.status_code == 201
        assert again.headers["Idempotency-Replayed"] == "true"
        listed = api.http.get("/v1/sweeps").json()["items"]
        assert [s["id"] for s in listed] == [again.json()["id"]]


def test_a_claim_whose_process_died_passes_on_and_its_holder_comes_too_late(
    migrated_url: str, tmp_path: Path
) -> None:
    store = Store(migrated_url)

    def answer(result: Any) -> Answer:
        return Answer(202, {}, result.model_dump_json())

    def claim(seconds: float) -> Any:
        return store._db.transact(
            lambda s: idempotency.claim(s, "token:1", "k", "f", answer, seconds)
        )

    sweep = store.create_sweep({"name": "x"}, 1, "x").id
    slow = claim(-1.0)  # its time is over already
    fast = claim(60.0)
    assert isinstance(slow, Once)
    assert isinstance(fast, Once)
    assert claim(60.0) == "in-flight"
    with pytest.raises(Conflict):
        store.requests.ask(sweep, None, "pause", "me", once=slow)
    assert store.commands(sweep) == []
    store.requests.release(slow)
    store.requests.ask(sweep, None, "pause", "me", once=fast)
    kept = claim(60.0)
    assert isinstance(kept, Answer)
    assert kept.status == 202
    assert len(store.commands(sweep)) == 1
    store.close()
