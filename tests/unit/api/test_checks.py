"""What a sweep may not do is found at its submission: limits, quotas, the cluster's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.checks import CheckedSweep, check_sweep
from api.errors import ProblemError
from orchestrator.admission.confinement import NO_LIMITS, Limits
from orchestrator.admission.preflight import Preflight
from trainer import code
from trainer.config import Roots
from winnow.types import Project, Quota

NOTHING = Quota()


def check(
    limits: Limits = NO_LIMITS,
    cluster: dict[str, float] | None = None,
    quota: Quota = NOTHING,
    **changes: Any,
) -> CheckedSweep:
    document = {
        "name": "tiny",
        "model": "org/name",
        "data": {"train": [{"path": "org/train"}], "eval": [{"path": "org/eval"}]},
        "space": {"learning_rate": 1e-4, "effective_batch_size": 8},
        "search": {"trials": 1},
    }
    return check_sweep(
        document | changes,
        limits=limits,
        cluster=cluster,
        variables={"JUDGE_API_KEY"},
        projects={"default": Project(id="default", quota=quota, weight=1.0, used=NOTHING)},
        here=False,
        preflight=lambda spec: Preflight(facts={"train_samples": 100}),
    )


def refused(*args: Any, **kwargs: Any) -> list[str]:
    """Where something is wrong."""
    with pytest.raises(ProblemError) as found:
        check(*args, **kwargs)
    assert found.value.status == 422
    return [error.pointer for error in found.value.errors]


CONFINED = Limits(Roots(data=("/data",), models=("/models",), private_judges=False), stores=())


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"model": "/etc"}, "/model"),
        (
            {"data": {"train": [{"path": "/etc/x"}], "eval": [{"path": "o/e"}]}},
            "/data/train/0/path",
        ),
        ({"checkpoints": {"store": "s3://bucket/x"}}, "/checkpoints/store"),
        (
            {
                "evaluation": {
                    "judge": {
                        "base_url": "https://10.0.0.1/v1",
                        "model": "j",
                        "questions": "/data/q.jsonl",
                        "api_key_env": "JUDGE_API_KEY",
                    }
                }
            },
            "/evaluation/judge/base_url",
        ),
    ],
)
def test_a_confined_server_refuses_what_lies_outside(changes: dict[str, Any], pointer: str) -> None:
    assert refused(CONFINED, **changes) == [pointer]


def test_task_files_are_run_as_they_were_when_they_were_allowed(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\ndoc_to_text: '{{x}}'\n")
    digest = code.digest(tmp_path, code.TASK_CODE)
    evaluation = {"lm_eval": {"tasks": ["own"], "include_path": str(tmp_path)}}
    roots = Roots(data=(str(tmp_path),))
    allowed = Limits(roots, revisions=lambda _: frozenset({digest}))
    assert refused(Limits(roots), evaluation=evaluation) == ["/evaluation/lm_eval/include_path"]
    # The ranks look once more, and compare with this.
    assert check(allowed, evaluation=evaluation).facts["tasks_code"] == digest


def test_a_trial_may_take_all_of_a_quota_and_of_the_cluster_and_no_more() -> None:
    two: dict[str, Any] = {"resources": {"gpus_per_trial": 2}}
    assert check(quota=Quota(gpus=2), **two)
    assert refused(quota=Quota(gpus=1), **two) == ["/resources/gpus_per_trial"]
    assert check(cluster={"GPU": 2, "CPU": 16}, **two)
    assert refused(cluster={"GPU": 1, "CPU": 16}, **two) == ["/resources/gpus_per_trial"]
    threads: dict[str, Any] = {"resources": {"workers_per_trial": 2, "cpus_per_worker": 2}}
    assert check(cluster={"CPU": 4}, **threads)
    assert refused(cluster={"CPU": 3}, **threads) == ["/resources/cpus_per_worker"]


def test_a_kind_of_store_that_nobody_knows_is_refused() -> None:
    assert check(checkpoints={"store": "s3://bucket/x"})
    assert refused(checkpoints={"store": "s4://bucket/x"}) == ["/checkpoints/store"]
    assert refused(checkpoints={"store": "s3://"}) == ["/checkpoints/store"]
