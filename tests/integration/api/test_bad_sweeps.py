"""Whatever is wrong with a sweep is refused before it starts, with the field and a way out."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.preflight import Preflight
from tests.integration.api.conftest import Api, good_sweep, make_api
from winnow.spec import SweepSpec

DROP = object()


def _not_reached(spec: SweepSpec) -> Preflight:
    raise AssertionError("a sweep with faults must be refused before its files are opened")


@pytest.fixture(scope="module")
def strict_api(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Shared by all tests here: none of them may leave a sweep behind."""
    folder = tmp_path_factory.mktemp("strict")
    shutil.copy(sqlite_template, folder / "api.db")
    yield from make_api(f"sqlite:///{folder / 'api.db'}", folder / "home", _not_reached)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good sweep with one thing changed: changed("search.trials", 0)."""
    sweep = copy.deepcopy(good_sweep())
    *parents, last = path.split(".")
    at: Any = sweep
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
    if value is DROP:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return sweep


RATE, BATCH = "space.learning_rate", "space.effective_batch_size"

JUDGE = {"base_url": "https://judge.example/v1", "model": "j", "questions": "/q.jsonl"}

BAD = [
    # id, where it is changed, to what, the pointer that is named, words of the message
    ("unknown key", "spcae", {}, "/spcae", "did you mean 'space'?"),
    ("unknown parameter", "space.lernrate", 1e-3, "/space/lernrate", "mean 'learning_rate'?"),
    ("unknown key in a list", "data.eval.0.naem", "x", "/data/eval/0/naem", "mean 'name'?"),
    ("unknown key of a parameter", f"{RATE}.step", 1, "/space/learning_rate/step", "log_uniform"),
    ("no name", "name", DROP, "/name", "give the sweep a name"),
    ("empty name", "name", "", "/name", "give the sweep a name"),
    ("line break in name", "name", "a\nb", "/name", "one line"),
    ("endless name", "name", "x" * 200, "/name", "120 characters"),
    ("no model", "model", DROP, "/model", "hub id"),
    ("model is a number", "model", 7, "/model", "give text, got 7"),
    ("relative model", "model", "./base", "/model", "absolute path"),
    ("no data", "data", DROP, "/data", "say what to train"),
    ("nothing to train on", "data.train", [], "/data/train", "at least one file"),
    ("nothing to judge on", "data.eval", DROP, "/data/eval", "choose the winner on"),
    ("files as text", "data.train", "train.jsonl", "/data/train", "give a list"),
    ("relative data", "data.train.0.path", "t.jsonl", "/data/train/0/path", "absolute path"),
    ("relative template", "data.chat_template", "t.jinja", "/data/chat_template", "absolute path"),
    (
        "two eval sets of one name",
        "data.eval",
        [{"path": "/a/x.jsonl"}, {"path": "/b/x.jsonl"}],
        "/data/eval",
        "give each a `name`",
    ),
    ("inverted range", RATE, {"uniform": [1e-3, 1e-5]}, "/space/learning_rate/uniform", "smaller"),
    ("empty range", RATE, {"uniform": [1, 1]}, "/space/learning_rate/uniform", "is empty"),
    (
        "log from 0",
        RATE,
        {"log_uniform": [0, 1e-3]},
        "/space/learning_rate/log_uniform",
        "starts above 0",
    ),
    ("one bound", RATE, {"uniform": [1e-3]}, "/space/learning_rate/uniform/1", "[low, high]"),
    ("three bounds", RATE, {"uniform": [1, 2, 3]}, "/space/learning_rate/uniform", "[low, high]"),
    ("bound as text", RATE, {"uniform": ["1e-5", 1]}, "/space/learning_rate/uniform/0", "a number"),
    ("no such kind", RATE, {"loguniform": [1, 2]}, "/space/learning_rate", "exactly one of"),
    ("two kinds", RATE, {"choice": [1], "fixed": 1}, "/space/learning_rate", "exactly one of"),
    ("empty choice", RATE, {"choice": []}, "/space/learning_rate/choice", "at least one value"),
    ("choice twice", RATE, {"choice": [1, 1]}, "/space/learning_rate/choice", "repeat"),
    ("a list as choice", RATE, {"choice": [[1]]}, "/space/learning_rate/choice/0", "give a number"),
    ("text as rate", RATE, {"choice": [1e-4, "big"]}, "/space/learning_rate/choice/1", "number"),
    ("negative rate", RATE, -1, "/space/learning_rate", "greater than 0"),
    ("true as rate", RATE, True, "/space/learning_rate", "true"),
    ("half a sample", BATCH, 1.5, "/space/effective_batch_size", "integer"),
    ("half bounds", "space.seed", {"int_uniform": [1.5, 8]}, "/space/seed/int_uniform/0", "whole"),
    ("batch of none", BATCH, {"choice": [8, 0]}, "/space/effective_batch_size/choice/1", "greater"),
    ("unknown schedule", "space.schedule", "step", "/space/schedule", "constant"),
    ("no rate at all", "space", {"effective_batch_size": 8}, "/space/learning_rate", "recipe"),
    ("trials as text", "search.trials", "4", "/search/trials", "whole number, got the text '4'"),
    ("trials as truth", "search.trials", True, "/search/trials", "whole number, got true"),
    ("no trials", "search.trials", 0, "/search/trials", "above 0"),
    ("how many trials?", "search.trials", DROP, "/search/trials", "say how many"),
    ("unknown sampler", "search.sampler", "gird", "/search/sampler", "did you mean 'grid'?"),
    ("endless grid", "search", {"sampler": "grid"}, "/space", "countable"),
    ("falling rungs", "scheduler.rungs", [0.5, 0.1], "/scheduler/rungs", "rising"),
    ("wrong direction", "objective.mode", "max", "/objective/mode", "leave mode out"),
    ("no epochs", "training.epochs", 0, "/training/epochs", "above 0"),
    ("unknown recipe", "recipe", "tulu+", "/recipe", "did you mean"),
    ("resources as a list", "resources", [1], "/resources", "mapping"),
]  # fmt: skip

BAD += [
    ("ZeRO 4", "training.zero_stage", 4, "/training/zero_stage", "0, 1, 2 or 3"),
    (
        "no token cap",
        "training.max_tokens_per_microbatch",
        0,
        "/training/max_tokens_per_microbatch",
        "above 0, or auto",
    ),
    (
        "half a token",
        "training.max_tokens_per_microbatch",
        1.5,
        "/training/max_tokens_per_microbatch",
        "above 0, or auto",
    ),
    (
        "an odd optimizer",
        "training.optimizer",
        "adamv",
        "/training/optimizer",
        "did you mean 'adam",
    ),
    ("one beta", "training.adam_betas", [0.9], "/training/adam_betas/1", "two numbers"),
    ("adapters of nothing", "training.lora_rank", 8, "/training/lora_rank", "method: lora"),
    (
        "ranks of nothing",
        "space.lora_rank",
        {"choice": [8, 16]},
        "/space/lora_rank",
        "method: lora",
    ),
    ("offload without ZeRO 3", "training.offload", "all", "/training", "zero_stage: 3"),
    (
        "bad beta in space",
        "space.adam_beta2",
        {"choice": [0.9, 1.5]},
        "/space/adam_beta2/choice/1",
        "less than or equal to 1",
    ),
    (
        "unknown strategy in space",
        "space.strategy",
        {"choice": ["stacked", "sorted"]},
        "/space/strategy/choice/1",
        "'stacked', 'phased' or 'difficulty'",
    ),
    ("phased without phases", "data.strategy", "phased", "/data/strategy", "at least two phases"),
    (
        "phased in space without phases",
        "space.strategy",
        {"choice": ["stacked", "phased"]},
        "/space/strategy",
        "at least two phases",
    ),
    ("an order of nothing", "data.phase_order", [0], "/data/phase_order", "strategy: phased"),
    ("replay of nothing", "data.replay", 0.1, "/data/replay", "phased or difficulty"),
    (
        "replay of nothing in space",
        "space.replay",
        {"choice": [0.1, 0.2]},
        "/space/replay",
        "strategy: stacked",
    ),
    (
        "negative weight",
        "data.train",
        [{"path": "/t.jsonl", "weight": -1}],
        "/data/train/0/weight",
        "above 0",
    ),
    (
        "paper batches of curricula",
        "training.batching",
        "papers",
        "/training/batching",
        "did you mean 'paper'",
    ),
    (
        "a slash in a name",
        "data.eval",
        [{"path": "/e.jsonl", "name": "a/b"}],
        "/data/eval/0/name",
        "slash",
    ),
    (
        "pattern without regex",
        "data.eval",
        [{"path": "/e.jsonl", "extract": {"pattern": "x"}}],
        "/data/eval/0/extract/pattern",
        "kind: regex",
    ),
    (
        "broken pattern",
        "data.eval",
        [{"path": "/e.jsonl", "extract": {"kind": "regex", "pattern": "("}}],
        "/data/eval/0/extract/pattern",
        "regular expression",
    ),
    (
        "relative questions",
        "evaluation.judge",
        JUDGE | {"questions": "q.jsonl"},
        "/evaluation/judge/questions",
        "absolute path",
    ),
    (
        "relative tasks",
        "evaluation.lm_eval",
        {"tasks": ["x"], "include_path": "tasks"},
        "/evaluation/lm_eval/include_path",
        "absolute path",
    ),
    ("no task", "evaluation.lm_eval", {"tasks": []}, "/evaluation/lm_eval/tasks", "is empty"),
    (
        "a password in an address",
        "evaluation.judge",
        JUDGE | {"base_url": "https://u:p@judge.example/v1"},
        "/evaluation/judge/base_url",
        "api_key_env",
    ),
    (
        "no address",
        "evaluation.judge",
        JUDGE | {"base_url": "judge.example"},
        "/evaluation/judge/base_url",
        "http",
    ),
    (
        "a metric of no form",
        "objective.metric",
        "loss",
        "/objective/metric",
        "give one of eval/loss",
    ),
    ("a metric on test", "objective.metric", "test/loss", "/objective/metric", "chosen on eval"),
    (
        "a metric of an unknown set",
        "objective.metric",
        "eval/gsm8k/loss",
        "/objective/metric",
        "there is eval",
    ),
    (
        "retention of nothing",
        "objective.metric",
        "general/loss",
        "/objective/metric",
        "data.general",
    ),
    (
        "a benchmark that nobody runs",
        "objective.metric",
        "lm_eval/mmlu/acc",
        "/objective/metric",
        "tasks: [mmlu]",
    ),
    (
        "a judge that is not there",
        "objective.metric",
        "judge/score",
        "/objective/metric",
        "evaluation: {judge:",
    ),
    (
        "a metric of either direction",
        "objective.metric",
        "lm_eval/mmlu/shots",
        "/objective/mode",
        "mode: max",
    ),
    (
        "a further metric of no form",
        "objective.also",
        ["eval/exact_match", "speed"],
        "/objective/also/1",
        "give one of eval/loss",
    ),
    (
        "a further metric that nothing measures",
        "objective.also",
        ["general/loss"],
        "/objective/also",
        "data.general",
    ),
    ("the metric again", "objective.also", ["eval/loss"], "/objective/also", "named twice"),
    (
        "a further metric of either direction",
        "objective.also",
        [{"metric": "lm_eval/mmlu/shots"}],
        "/objective/also/0/mode",
        "mode: max",
    ),
    (
        "more metrics than a front can have",
        "objective.also",
        [f"eval/{name}/loss" for name in "abcde"],
        "/objective/also",
        "at most 4",
    ),
    ("a further metric as text", "objective.also", "general/loss", "/objective/also", "a list"),
    (
        "a typing error in a further metric",
        "objective.also",
        [{"metrik": "general/loss", "metric": "eval/exact_match"}],
        "/objective/also/0/metrik",
        "did you mean 'metric'?",
    ),
    (
        "a relative general set",
        "data.general",
        [{"path": "g.jsonl"}],
        "/data/general/0/path",
        "absolute path",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "pointer", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_a_fault_is_named_with_its_field_and_a_way_out(
    strict_api: Api, path: str, value: Any, pointer: str, words: str
) -> None:
    response = strict_api.post(changed(path, value))

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    found = {e["pointer"]: e["message"] for e in problem["errors"]}
    assert pointer in found, found
    assert words in found[pointer]
    assert strict_api.store.list_sweeps().items == []


def test_a_grid_of_a_thousand_million_is_counted_and_refused_at_once(strict_api: Api) -> None:
    sweep = changed("search", {"sampler": "grid"})
    sweep["space"] = {
        "learning_rate": {"choice": [1e-5 * n for n in range(1, 101)]},
        "effective_batch_size": {"int_uniform": [1, 10_000_000]},
    }
    problem = strict_api.post(sweep).json()
    assert [e["pointer"] for e in problem["errors"]] == ["/space"]
    assert "1,000,000,000 configurations" in problem["errors"][0]["message"]


def test_all_faults_come_in_one_answer(strict_api: Api) -> None:
    sweep = changed("search.trials", -1)
    sweep["typo"] = 1
    sweep["data"]["eval"][0]["path"] = ""
    pointers = {e["pointer"] for e in strict_api.post(sweep).json()["errors"]}
    assert pointers == {"/search/trials", "/typo", "/data/eval/0/path"}


def test_more_gpus_than_the_cluster_has_are_refused(strict_api: Api) -> None:
    strict_api.store.report_cluster({"CPU": 8.0, "GPU": 2.0})
    problem = strict_api.post(changed("resources.gpus_per_trial", 4)).json()
    assert problem["errors"] == [
        {
            "pointer": "/resources/gpus_per_trial",
            "message": "a trial asks for 4 GPUs, the cluster has 2; use 2 or fewer, "
            "or add nodes with GPUs",
        }
    ]


def test_more_cpus_than_the_cluster_has_are_refused(strict_api: Api) -> None:
    strict_api.store.report_cluster({"CPU": 2.0})
    problem = strict_api.post(changed("resources.workers_per_trial", 3)).json()
    assert problem["errors"][0]["pointer"] == "/resources/workers_per_trial"
    assert "the cluster has 2" in problem["errors"][0]["message"]


UNREADABLE = [
    ("broken JSON", "application/json", b'{"name": ', 400, "line 1"),
    ("nothing", "application/json", b"", 400, "empty"),
    ("NaN in JSON", "application/json", b'{"name": NaN}', 422, "finite"),
    ("infinity in JSON", "application/json", b'{"name": 1e999}', 422, "finite"),
    ("key twice in JSON", "application/json", b'{"a": 1, "a": 2}', 400, "twice"),
    ("deep JSON", "application/json", b"[" * 3000, 400, "deeper"),
    ("a number of 5000 digits", "application/json", b"1" * 5000, 400, "digits"),
    ("NUL in JSON", "application/json", b'{"name": "\\u0000"}', 422, "NUL"),
    ("half a character", "application/json", b'{"name": "\\ud800"}', 422, "surrogate"),
    ("not UTF-8", "application/json", b"\xff\xfe", 400, "UTF-8"),
    ("broken YAML", "application/yaml", b"a: b: c", 400, "line 1"),
    ("NaN in YAML", "application/yaml", b"name: .nan", 422, "finite"),
    ("key twice in YAML", "application/yaml", b"a: 1\na: 2", 400, "twice"),
    ("objects in YAML", "application/yaml", b"a: !!python/object:os.system x", 400, "tag"),
    ("an alias of itself", "application/yaml", b"a: &a [*a]", 400, "itself"),
    ("deep YAML", "application/yaml", b"[" * 3000, 400, "deeper"),
    ("two documents", "application/yaml", b"a: 1\n---\nb: 2", 400, "another document"),
    ("a form", "application/x-www-form-urlencoded", b"name: x", 415, "application/yaml"),
    ("no type", "", b"name: x", 415, "application/json"),
]


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"), [u[1:] for u in UNREADABLE], ids=[u[0] for u in UNREADABLE]
)
def test_a_body_that_cannot_be_read_is_refused(
    strict_api: Api, kind: str, body: bytes, status: int, words: str
) -> None:
    response = strict_api.http.post("/v1/sweeps", content=body, headers={"Content-Type": kind})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.text


def test_a_yaml_bomb_is_refused_without_being_expanded(strict_api: Api) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    response = strict_api.http.post(
        "/v1/sweeps", content="\n".join(lines), headers={"Content-Type": "application/yaml"}
    )
    assert response.status_code == 400
    assert "aliases" in response.json()["detail"]


def test_a_body_of_more_than_a_megabyte_is_refused_also_if_its_size_is_not_declared(
    strict_api: Api,
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    headers = {"Content-Type": "application/json"}
    declared = strict_api.http.post("/v1/sweeps", content=b" " * 2_000_000, headers=headers)
    streamed = strict_api.http.post("/v1/sweeps", content=chunks(), headers=headers)
    assert [declared.status_code, streamed.status_code] == [413, 413]
    assert "1024 kB" in streamed.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/sweeps/nope", 404),
        ("POST", "/v1/sweeps/nope:cancel", 404),
        ("GET", "/v1/sweeps/nope/trials", 404),
        ("GET", "/v1/sweeps/nope/metrics", 404),
        ("GET", "/v1/sweeps/nope/decisions", 404),
        ("GET", "/v1/sweeps/nope/events", 404),
        ("GET", "/v1/sweeps/nope/stream", 404),
        ("GET", "/v1/trials/nope", 404),
        ("POST", "/v1/trials/nope:stop", 404),
        ("GET", "/v1/sweeps/%00", 404),
        ("GET", "/v1/sweeps?limit=0", 422),
        ("GET", "/v1/sweeps?limit=x", 422),
        ("GET", "/v1/sweeps?cursor=zz", 404),
        ("DELETE", "/v1/sweeps", 405),
    ],
)
def test_every_other_mistake_is_a_problem_too(
    strict_api: Api, method: str, path: str, status: int
) -> None:
    response = strict_api.http.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_wrong_method_is_answered_with_the_right_ones(strict_api: Api) -> None:
    assert strict_api.http.delete("/v1/sweeps").headers["allow"] == "GET, HEAD, OPTIONS, POST"
