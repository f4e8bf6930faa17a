"""A cluster that knows nothing of the server's environment: its ranks get what they need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.environment import Environment
from orchestrator.raytune.assignment import Assignment, GroupShape
from orchestrator.raytune.workers import WorkerGroup
from tests.fixtures.hub_proxy import HUB_TOKEN, JUDGE_KEY, HubProxy
from trainer.config import DataConfig, TrainConfig, TrainSet

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]


SERVERS_OWN = {
    "WINNOW_DATABASE_URL": "postgresql://winnow:madeup-database-password@db/winnow",
    "WINNOW_TOKEN": "wnw_madeupmadeupmadeup",
    "WINNOW_WEBHOOK_PROXY": "http://ann:madeup-webhook-password@proxy.example",
    "PGPASSWORD": "madeup-postgres-password",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=madeup-collector-key",
    "OTHER_API_KEY": "madeup-other-key",
}
"""What `winnow up` may be started with, and no trial has any use for."""


def test_a_rank_reaches_the_hub_through_the_proxy_with_the_token_of_the_server(
    ray_cluster: None, hub_proxy: HubProxy, tmp_path: Path
) -> None:
    """Ray was started without any of it, and its dashboard and logs never see it."""
    assert "HF_ENDPOINT" not in os.environ
    passed = Environment.of(hub_proxy.environment() | SERVERS_OWN).for_worker()
    shape = GroupShape(ranks=1, cpus_per_rank=1, gpus_per_rank=0)
    config = TrainConfig(
        model="org/model",
        data=DataConfig(train=(TrainSet(path="/data/none.jsonl"),)),
        output_dir=str(tmp_path),
        learning_rate=1e-3,
        effective_batch_size=1,
    )
    group = WorkerGroup(shape, None, "environment", passed)
    try:
        text = config.model_dump_json()
        failure = group.start(Assignment("s-1-a1", "s-1", 1, text, None))
        (there,) = group._all([r.__ray_call__.remote(_environment) for r in group._ranks])
    finally:
        group.close()
    assert failure is not None
    addresses = [address for address, _ in hub_proxy.requests]
    assert addresses
    assert all(address.startswith("http://hub.example/") for address in addresses)
    headers = {k.lower(): v for _, sent in hub_proxy.requests for k, v in sent.items()}
    assert headers["authorization"] == f"Bearer {HUB_TOKEN}"
    assert headers["proxy-authorization"].startswith("Basic ")
    # It has that, and of the server's own secrets none, under whatever name.
    assert there["HF_TOKEN"] == HUB_TOKEN
    assert not set(there) & {*SERVERS_OWN, "JUDGE_API_KEY"}
    told = "\n".join(there.values())
    assert not [secret for secret in (*SERVERS_OWN.values(), JUDGE_KEY) if secret in told]


def _environment(rank: object) -> dict[str, str]:
    """Run by the rank itself: what its process has."""
    return dict(os.environ)
