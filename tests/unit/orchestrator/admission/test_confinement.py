"""What a sweep may open, keep and reach, on a server that confines it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.admission.confinement import Limits, forbidden, pinned
from orchestrator.settings import Settings
from orchestrator.webhooks.addresses import Policy, as_address, refusal
from trainer import code
from trainer.config import Roots
from trainer.errors import ConfigError
from trainer.evaluate.outbound import is_public, public_client
from winnow.spec import SweepSpec


def spec_of(**changes: Any) -> SweepSpec:
    values: dict[str, Any] = {
        "name": "x",
        "model": "org/name",
        "data": {"train": [{"path": "org/train"}], "eval": [{"path": "org/eval"}]},
        "space": {"learning_rate": 1e-5, "effective_batch_size": 8},
        "search": {"trials": 1},
    }
    return SweepSpec.model_validate(values | changes)


def judged_at(base_url: str) -> SweepSpec:
    judge = {"base_url": base_url, "model": "j", "questions": "/data/q.jsonl"}
    return spec_of(evaluation={"judge": judge})


NOWHERE = Limits(Roots(data=(), models=(), private_judges=False), stores=())
SOMEWHERE = Limits(
    Roots(data=("/data",), models=("/models",), private_judges=False),
    stores=("/mnt/checkpoints", "s3://team/winnow"),
)


def test_only_the_hubs_models_and_data_are_left_where_no_root_is_given() -> None:
    assert forbidden(spec_of(), NOWHERE) == []
    data = {"train": [{"path": "/data/x.jsonl"}], "eval": [{"path": "org/eval"}]}
    [(at, message)] = forbidden(spec_of(data=data), NOWHERE)
    assert at == "/data/train/0/path"
    assert "only the hub's" in message


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"model": "/data/model"}, "/model"),
        ({"model": "/models-of-others/x"}, "/model"),
        ({"checkpoints": {"store": "/mnt/checkpoints-of-others"}}, "/checkpoints/store"),
        ({"checkpoints": {"store": "s3://team/winnow-of-others"}}, "/checkpoints/store"),
        ({"checkpoints": {"store": "s3://other/winnow"}}, "/checkpoints/store"),
        ({"checkpoints": {"store": "s3://team/winnow/../x"}}, "/checkpoints/store"),
        ({"checkpoints": {"store": "sftp://u:p@h/x"}}, "/checkpoints/store"),
    ],
)
def test_what_lies_outside_is_refused_by_its_field(changes: dict[str, Any], pointer: str) -> None:
    assert [at for at, _ in forbidden(spec_of(**changes), SOMEWHERE)] == [pointer]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "/models/x"},
        {"checkpoints": {"store": "/mnt/checkpoints/a"}},
        {"checkpoints": {"store": "s3://team/winnow"}},
        {"checkpoints": {"store": "s3://team/winnow/a"}},
    ],
)
def test_what_lies_inside_is_not(changes: dict[str, Any]) -> None:
    assert forbidden(spec_of(**changes), SOMEWHERE) == []


def test_a_link_out_of_a_root_is_followed(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "etc").symlink_to("/etc")
    limits = Limits(Roots(data=(str(tmp_path / "root"),)))
    data = {"train": [{"path": f"{tmp_path}/root/etc/passwd"}], "eval": [{"path": "org/e"}]}
    assert [at for at, _ in forbidden(spec_of(data=data), limits)] == ["/data/train/0/path"]


INSIDE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.88.99.1"),
    *("::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "2001::1", "::7f00:1", "3fff::1"),
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1"]


def test_judges_and_webhooks_have_the_same_idea_of_the_public_internet() -> None:
    for address in (*INSIDE, *PUBLIC):
        literal = as_address(address)
        assert literal is not None
        assert is_public(address) == (refusal(literal, Policy()) is None), address
    assert [a for a in (*INSIDE, *PUBLIC) if is_public(a)] == PUBLIC


@pytest.mark.parametrize(
    "url",
    [
        *(f"https://{f'[{a}]' if ':' in a else a}/v1" for a in INSIDE),
        *("https://2130706433/v1", "https://0x7f.1/v1", "https://127.1/v1", "https://0/v1"),
        *("https://localhost/v1", "https://x.localhost/v1", "https://metadata.google.internal/v1"),
        "http://judge.example/v1",
    ],
)
def test_a_judge_inside_the_network_is_refused_at_submission(url: str) -> None:
    found = forbidden(judged_at(url), SOMEWHERE)
    assert [at for at, _ in found] == ["/evaluation/judge/base_url"]


def test_a_judge_anywhere_is_allowed_where_the_server_is_private() -> None:
    assert forbidden(judged_at("http://127.0.0.1:8000/v1"), Limits()) == []


def test_a_name_that_leads_inside_is_refused_when_the_connection_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when it led elsewhere a moment ago: what is connected to is what was judged."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("trainer.evaluate.outbound.socket.getaddrinfo", getaddrinfo)
    with public_client("https://judge.example/v1", 5.0) as client:
        with pytest.raises(ConfigError, match=r"judge\.example is 127\.0\.0\.1"):
            client.get("https://judge.example/v1/models")
        assert client.follow_redirects is False
    assert asked == ["judge.example"]


def test_task_files_are_code_on_a_server_that_confines(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\ndoc_to_text: '{{x}}'\n")
    spec = spec_of(evaluation={"lm_eval": {"tasks": ["own"], "include_path": str(tmp_path)}})
    assert pinned(spec, Limits())[1] == []  # one user's own machine

    digest = code.digest(tmp_path, code.TASK_CODE)
    roots = Roots(data=(str(tmp_path),))
    [(at, message)] = pinned(spec, Limits(roots))[1]
    assert at == "/evaluation/lm_eval/include_path"
    assert f"--revision {digest}" in message
    assert pinned(spec, Limits(roots, revisions=lambda _: frozenset({digest})))[1] == []


def test_a_server_of_one_user_is_open_and_any_other_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Settings(home=tmp_path, host="127.0.0.1")
    assert (here.roots.data, here.stores, here.roots.private_judges) == (None, None, True)
    beyond = Settings(home=tmp_path, host="0.0.0.0")
    assert (beyond.roots.data, beyond.roots.models, beyond.stores) == ((), (), ())
    assert beyond.roots.private_judges is False
    given = Settings(home=tmp_path, host="0.0.0.0", data_roots="/data, /more")
    assert given.roots.data == ("/data", "/more")
    with pytest.raises(ValueError, match="WINNOW_DATA_ROOTS"):
        Settings(home=tmp_path, data_roots="data")
