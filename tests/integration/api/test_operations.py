"""What the server tells of itself: metrics, readiness, status, and a line for each request."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from api.exposition import FleetCollector
from api.routers import health
from orchestrator.observe import catalogue, traces
from orchestrator.observe.catalogue import METRICS
from orchestrator.observe.logs import Json
from orchestrator.settings import Settings
from orchestrator.store import Store
from tests.fixtures.studies import Studies
from tests.integration.api.conftest import Api, LiveServer, good_sweep, make_api

Samples = dict[tuple[str, ...], float]


def samples(api: Api, name: str) -> Samples:
    """A metric's values by its labels' values."""
    text = api.http.get("/v1/prometheus").text
    wanted = catalogue.BY_NAME[name]
    return {
        tuple(sample.labels[label] for label in wanted.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.exposition.FRESH_SECONDS", 0.0)


@pytest.fixture
def studies(api_on_both: Api, tmp_path: Path) -> Studies:
    return Studies(api_on_both.store, tmp_path / "home")


def test_metrics_tell_of_sweeps_trials_and_what_they_used(
    api_on_both: Api, studies: Studies
) -> None:
    studies.ended(
        budget={"cost_per_gpu_hour": 2.0},
        resources={"gpus_per_trial": 1},
        scheduler={"name": "asha", "rungs": [0.25, 0.5]},
    )
    studies.queued()
    api = api_on_both
    assert samples(api, catalogue.SWEEPS) == {
        ("default", "COMPLETED"): 1,
        ("default", "QUEUED"): 1,
    }
    trials = samples(api, catalogue.TRIALS)
    ends = samples(api, catalogue.TRIAL_ENDS)
    stops = samples(api, catalogue.STOPS)
    assert trials["default", "PRUNED"] == ends["PRUNED", "asha"] > 0
    assert sum(stops.values()) >= trials["default", "PRUNED"]
    assert samples(api, catalogue.QUEUE) == {(): 1}
    assert samples(api, catalogue.QUEUE_OLDEST)[()] >= 0
    hours = samples(api, catalogue.GPU_HOURS)[("default",)]
    assert hours > 0
    assert samples(api, catalogue.COST)[("default",)] == pytest.approx(2 * hours, rel=1e-3)
    assert samples(api, catalogue.WORKER_HOURS)[("default",)] == pytest.approx(hours, rel=1e-3)
    assert samples(api, catalogue.EVENTS)[()] == api.store.last_event_id()


def test_what_drivers_count_is_added_up_over_all_of_them(api_on_both: Api) -> None:
    for _ in range(2):
        counts = [2] + [0] * (len(catalogue.FAST) - 1) + [1, 40.0]  # two at once, one of 40 seconds
        api_on_both.store.fleet.add(
            "driver",
            {
                catalogue.REPORTS: {"": 3},
                catalogue.RENEWALS: {"failed": 1},
                catalogue.COMMIT_SECONDS: {"": counts},
            },
        )
    assert samples(api_on_both, catalogue.REPORTS) == {(): 6}
    assert samples(api_on_both, catalogue.RENEWALS) == {("failed",): 2}
    text = api_on_both.http.get("/v1/prometheus").text
    assert f'{catalogue.COMMIT_SECONDS}_bucket{{le="30.0"}} 4.0' in text
    assert f'{catalogue.COMMIT_SECONDS}_bucket{{le="+Inf"}} 6.0' in text
    assert f"{catalogue.COMMIT_SECONDS}_sum 80.0" in text


def test_requests_are_counted_by_route_never_by_id(api: Api) -> None:
    for number in range(30):
        assert api.http.get(f"/v1/sweeps/nosuch{number}").status_code == 404
        api.http.get(f"/nowhere/{number}")
        api.http.request(f"ODD{number}", "/v1/sweeps")
    without = {"Authorization": "Bearer wnw_wrong"}
    assert api.http.get("/v1/sweeps", headers=without).status_code == 401
    counted = samples(api, catalogue.HTTP_REQUESTS)
    assert counted["GET", "/v1/sweeps/{sweep_id}", "404"] == 30
    assert len(counted) < 8
    assert counted["GET", "refused", "401"] == 1
    assert samples(api, catalogue.HTTP_REFUSED)[("unauthorized",)] == 1
    assert samples(api, catalogue.HTTP_IN_FLIGHT) == {(): 1}  # this one


def test_what_is_refused_is_counted_by_why(sqlite_url: str, tmp_path: Path) -> None:
    limit = {"reads_per_minute": 1}
    for api in make_api(sqlite_url, tmp_path / "home", None, settings=limit):
        seen = [api.http.get("/v1/sweeps").status_code for _ in range(3)]
        assert seen == [200, 429, 429]
        assert api.http.post("/v1/sweeps", content=b"x" * (1024 * 1024 + 1)).status_code == 413
        low = api.store.access.create_token("low", ("read",)).token
        asked = api.http.post("/v1/projects", headers={"Authorization": f"Bearer {low}"})
        assert asked.status_code == 403
        watching = api.store.access.create_token("watching", ("read",)).token
        api.http.headers["Authorization"] = f"Bearer {watching}"
        assert samples(api, catalogue.HTTP_REFUSED) == {
            ("rate-limited",): 2,
            ("too-large",): 1,
            ("forbidden",): 1,
        }
        api.http.headers["Authorization"] = (
            f"Bearer {api.store.access.create_token('again', ('read',)).token}"
        )
        assert samples(api, catalogue.HTTP_REQUESTS)["GET", "refused", "429"] == 2


def test_projects_by_the_hundred_make_no_hundreds_of_series(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.store.fleet.MOST_VALUES", 3)
    quota = api.store.projects()[0].quota
    for number in range(6):
        api.store.add_project(f"p{number}", quota)
        api.store.create_sweep({"project": f"p{number}"}, 1, "x")
    sweeps = samples(api, catalogue.SWEEPS)
    assert len(sweeps) == 4
    assert sweeps["other", "QUEUED"] == 3


def test_every_metric_of_the_catalogue_is_given(api: Api) -> None:
    text = api.http.get("/v1/prometheus").text
    given = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE winnow_")}
    assert given == {m.name for m in METRICS}
    other = api.http.get("/v1/prometheus", headers={"Accept": "application/openmetrics-text"})
    assert other.headers["content-type"].startswith("application/openmetrics-text")
    assert other.text.endswith("# EOF\n")


def test_metrics_are_for_tokens_of_all_projects(api: Api) -> None:
    api.store.add_project("lab", api.store.projects()[0].quota)
    text = api.store.access.create_token("theirs", ("read",), project="lab").token
    theirs = {"Authorization": f"Bearer {text}"}
    assert api.http.get("/v1/prometheus", headers=theirs).status_code == 403
    assert api.http.get("/v1/status", headers=theirs).status_code == 200
    nobody = httpx2.Headers({"Authorization": ""})
    assert api.http.get("/v1/prometheus", headers=nobody).status_code == 401


def test_metrics_have_a_port_of_their_own_if_asked(sqlite_url: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings(home=tmp_path, database_url=sqlite_url, metrics_port=port)
    with TestClient(create_app(settings)):
        text = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert "winnow_database_up 1.0" in text
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)


def test_a_database_that_is_away_is_told_not_hidden(tmp_path: Path) -> None:
    store = Store("postgresql://nobody@127.0.0.1:1/none")
    (up,) = list(FleetCollector(store).collect())
    assert [sample.value for sample in up.samples] == [0.0]
    store.close()


def test_several_who_scrape_are_one_look_at_the_database(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.exposition.FRESH_SECONDS", 3600.0)
    looks: list[int] = []
    look = api.store.fleet.look
    monkeypatch.setattr(api.store.fleet, "look", lambda: looks.append(1) or look())
    collector = FleetCollector(api.store)
    for _ in range(3):
        assert len(list(collector.collect())) > 1
    assert looks == [1]


def test_it_is_ready_once_an_orchestrator_reports_and_the_disk_has_room(
    api_on_both: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = {"Authorization": ""}
    answer = api_on_both.http.get("/v1/ready", headers=nobody)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert [e["pointer"] for e in answer.json()["errors"]] == ["/orchestrator"]
    assert int(answer.headers["retry-after"]) > 0
    assert api_on_both.http.get("/v1/health", headers=nobody).status_code == 200
    api_on_both.store.report_cluster({"CPU": 2})
    assert api_on_both.http.get("/v1/ready", headers=nobody).json()["status"] == "ready"
    status = api_on_both.http.get("/v1/status").json()
    assert (status["ready"], status["problems"]) == (True, [])
    assert status["database"]["schema_version"] == status["database"]["schema_wanted"]
    assert status["cluster"] == {"CPU": 2}
    monkeypatch.setattr(health, "LEAST_FREE", 2**62)
    full = api_on_both.http.get("/v1/ready", headers=nobody).json()
    assert [e["pointer"] for e in full["errors"]] == ["/disk"]
    assert str(api_on_both.home) not in json.dumps(full)


def test_it_is_not_ready_while_the_database_is_away_or_the_orchestrator_is_silent(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Store("postgresql://nobody@127.0.0.1:1/none")
    assert [fault.pointer for fault in health.not_ready(away, tmp_path)] == ["/database"]
    told = health.get_health(away)
    assert (told.status, told.database, told.orchestrator) == ("degraded", "unreachable", "silent")
    away.close()
    api.store.report_cluster({"CPU": 2})
    monkeypatch.setattr(health, "SILENT_AFTER", 0.0)
    (fault,) = api.http.get("/v1/ready").json()["errors"]
    assert fault == {"pointer": "/orchestrator", "message": "it is silent"}
    told = api.http.get("/v1/health").json()
    assert (told["status"], told["database"], told["orchestrator"]) == ("degraded", "ok", "silent")


def test_it_is_not_ready_on_a_schema_of_another_version(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.store.report_cluster({"CPU": 2})
    monkeypatch.setattr("orchestrator.store.migrations.newest_version", lambda: "9999")
    (fault,) = api.http.get("/v1/ready").json()["errors"]
    assert fault["pointer"] == "/database"
    assert "9999" in fault["message"]


def test_status_lists_drivers_and_a_project_sees_its_own_only(
    api_on_both: Api, studies: Studies
) -> None:
    quota = api_on_both.store.projects()[0].quota
    api_on_both.store.add_project("lab", quota)
    sweep_id = studies.queued()
    studies.take(sweep_id)
    (driver,) = api_on_both.http.get("/v1/status").json()["drivers"]
    assert driver["sweep_id"] == sweep_id
    assert driver["lease_seconds_left"] > 0
    text = api_on_both.store.access.create_token("theirs", ("read",), project="lab").token
    theirs = {"Authorization": f"Bearer {text}"}
    assert api_on_both.http.get("/v1/status", headers=theirs).json()["drivers"] == []


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    """What is logged, as the JSON that a collector of logs gets."""
    found: list[dict[str, object]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(Json().format(record)))

    handler, logger = Keep(), logging.getLogger("winnow.access")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_each_request_is_one_line_with_its_id_and_who_asked(
    api: Api, lines: list[dict[str, object]]
) -> None:
    answer = api.http.get("/v1/sweeps/nosuch%0Aforged?token=in-the-query")
    api.http.get("/v1/health")
    (line,) = lines
    assert line["request"] == answer.headers["x-request-id"]
    assert str(line["principal"]).startswith("token:")
    assert (line["method"], line["status"]) == ("GET", 404)
    assert isinstance(line["milliseconds"], float)
    assert "nosuch%0Aforged" in str(line["message"])
    assert "in-the-query" not in json.dumps(line)
    assert api.token not in json.dumps(line)


def test_a_live_stream_is_counted_while_it_is_open(live: LiveServer, live_store: Store) -> None:
    sweep = live_store.create_sweep(good_sweep(), 4, "tiny")
    headers = {"Authorization": f"Bearer {live.token}"}
    with httpx2.Client(base_url=live.url, headers=headers, trust_env=False) as http:

        def streams() -> str:
            text = http.get("/v1/prometheus").text
            return next(s for s in text.splitlines() if s.startswith(catalogue.HTTP_STREAMS))

        with http.stream("GET", f"/v1/sweeps/{sweep.id}/stream") as response:
            assert response.status_code == 200, response.read()
            chunks = response.iter_bytes()
            next(chunks)
            assert streams().endswith(" 1.0")
            assert f"\n{catalogue.HTTP_IN_FLIGHT} 1.0\n" in http.get("/v1/prometheus").text
        deadline = time.monotonic() + 30
        while not streams().endswith(" 0.0"):
            assert time.monotonic() < deadline, "the stream is counted after its end"
            time.sleep(0.05)
        text = http.get("/v1/prometheus").text
    of_streams = 'method="GET",route="/v1/sweeps/{sweep_id}/stream"'
    assert f"{catalogue.HTTP_SECONDS}_count{{{of_streams}}} 1.0" in text


def test_a_request_that_makes_a_sweep_links_to_the_sweeps_trace(api: Api) -> None:
    exporter = InMemorySpanExporter()
    traces.set_up("api", None, exporter)
    try:
        made = api.post(good_sweep())
        assert made.status_code == 201, made.text
        traces.of_sweep(made.json()["id"])
        with traces.span("of the driver"):
            pass
    finally:
        traces.tear_down()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    request, of_driver = spans["POST /v1/sweeps"], spans["of the driver"]
    assert request.attributes is not None
    assert request.context is not None
    assert of_driver.context is not None
    assert request.attributes["http.response.status_code"] == 201
    assert request.attributes["winnow.request"] == made.headers["x-request-id"]
    assert [link.context.trace_id for link in request.links] == [of_driver.context.trace_id]
    trace = request.context.trace_id
    of_request = {n for n, s in spans.items() if s.context and s.context.trace_id == trace}
    assert "db.write" in of_request
