"""The cluster over HTTP: its machines as the orchestrator last saw them, and who may see them."""

from __future__ import annotations

from tests.integration.api.conftest import Api
from winnow import service
from winnow.service import ClusterNode
from winnow.types import Quota

ALIVE = ClusterNode(
    name="gpu-1",
    address="10.0.0.5",
    state="alive",
    cpus=32.0,
    gpus=8.0,
    memory=1e12,
    held_cpus=16.0,
    held_gpus=4.0,
    groups=2,
)
DEAD = ALIVE.model_copy(update={"name": "gpu-2", "address": "10.0.0.6", "state": "dead"})


def test_its_machines_are_listed_as_last_reported(api_on_both: Api) -> None:
    api = api_on_both
    assert api.http.get("/v1/cluster").json()["nodes"] == []
    api.store.report_cluster({"CPU": 32.0, "GPU": 8.0}, [ALIVE, DEAD])
    found = service.Cluster.model_validate(api.http.get("/v1/cluster").json())
    assert found.nodes == [ALIVE, DEAD]
    assert (found.state, found.resources) == ("ok", {"CPU": 32.0, "GPU": 8.0})
    api.store.report_cluster({})
    assert api.http.get("/v1/cluster").json()["nodes"] == []


def test_machines_are_not_told_to_tokens_of_one_project(api_on_both: Api) -> None:
    api = api_on_both
    api.store.add_project("ours", Quota())
    api.store.report_cluster({"CPU": 32.0}, [ALIVE])
    token = api.store.access.create_token("x", ["admin"], project="ours").token
    answer = api.http.get("/v1/cluster", headers={"Authorization": f"Bearer {token}"})
    assert answer.json()["nodes"] == []
    assert answer.json()["resources"] == {"CPU": 32.0}
    assert "10.0.0.5" not in answer.text
