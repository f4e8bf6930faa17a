"""Whatever is sent, the answer is a problem: soon, short, and nothing of it is kept.

Requests are made below the client, which would repair many of them.
"""

# ruff: noqa: E501: the tables read best with one input a line
from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI

from orchestrator.preflight import Preflight
from tests.integration.api.conftest import Api, good_sweep, make_api
from winnow.spec import SweepSpec

SOON = 20.0
"""Seconds, on a machine that does much else. What takes forever takes longer."""
SHORT = 64 * 1024

JSON, YAML = "application/json", "application/yaml"


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    @property
    def problem(self) -> dict[str, Any]:
        return json.loads(self.body)


def ask(
    api: Api,
    method: str,
    target: str,
    body: bytes | Sequence[bytes] = b"",
    content_type: str | None = None,
    **headers: str | bytes,
) -> Answer:
    """One request, its address and headers exactly as given."""
    assert api.http.portal is not None
    path, _, query = target.partition("?")
    sent = [
        (
            name.replace("_", "-").lower().encode(),
            v if isinstance(v, bytes) else v.encode("latin-1"),
        )
        for name, v in (
            {"authorization": f"Bearer {api.token}", "host": "127.0.0.1"} | headers
        ).items()
    ]
    if content_type is not None:
        sent.append((b"content-type", content_type.encode("latin-1")))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": _decoded(path),
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": query.encode("utf-8", "surrogateescape"),
        "root_path": "",
        "headers": sent,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8642),
        "state": {},
    }
    return api.http.portal.call(
        _exchange, api.app, scope, [body] if isinstance(body, bytes) else body
    )


def _decoded(path: str) -> str:
    from urllib.parse import unquote

    return unquote(path, errors="replace")


async def _exchange(app: FastAPI, scope: dict[str, Any], body: Sequence[bytes]) -> Answer:
    answer, began = Answer(), time.monotonic()
    parts = list(body)

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                k.decode().lower(): v.decode("latin-1") for k, v in message["headers"]
            }
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    answer.seconds = time.monotonic() - began
    return answer


def _not_reached(spec: SweepSpec) -> Preflight:
    raise AssertionError("a bad sweep must be refused before its files are opened")


@pytest.fixture(scope="module")
def strict(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Shared by all requests of this file: none of them may leave anything behind."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "api.db").write_bytes(sqlite_template.read_bytes())
    yield from make_api(f"sqlite:///{folder / 'api.db'}", folder / "home", _not_reached)


def kept(api: Api) -> tuple[int, ...]:
    """How much there is of everything that a request can make."""
    pages = ("sweeps", "projects", "webhooks", "tokens", "allowed-code")
    return tuple(len(api.http.get(f"/v1/{name}").json()["items"]) for name in pages)


def refused(answer: Answer, *, at: str | None = None) -> dict[str, Any]:
    """The problem that a bad input was answered with."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.body) < SHORT
    assert answer.seconds < SOON
    problem = answer.problem
    assert problem["status"] == answer.status
    assert problem["detail"]
    assert "Traceback" not in answer.body.decode()
    if at is not None:
        assert at in {e["pointer"] for e in problem["errors"]}, problem
    return problem


# --- documents that can't be read --------------------------------------------------------------

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)
)
DOCUMENTS: dict[str, tuple[str, bytes | str]] = {
    # YAML
    "aliases that multiply": (YAML, BOMB),
    "an alias of itself": (YAML, "a: &a [*a]"),
    "an alias of its own mapping": (YAML, "a: &a {b: *a}"),
    "an alias of nothing": (YAML, "name: *nothing"),
    "an endless name of an alias": (YAML, "name: *" + "x" * 60_000),
    "a merge key": (YAML, "base: &b {name: x}\n<<: *b\nname: y"),
    "merge keys that multiply": (
        YAML,
        "a: &a {x: 1}\n" + "\n".join(f"b{i}: &b{i} {{<<: [*a, *a]}}" for i in range(50)),
    ),
    "ten thousand anchors": (YAML, "".join(f"- &a{i} x\n" for i in range(10_001))),
    "a tag that runs a command": (YAML, "name: !!python/object/apply:os.system ['true']"),
    "a tag that imports": (YAML, "name: !!python/name:os.system"),
    "a tag of its own": (YAML, "name: !mine x"),
    "a binary tag": (YAML, "name: !!binary aGVsbG8="),
    "a set": (YAML, "name: !!set {a, b}"),
    "two documents": (YAML, "name: x\n---\nname: y"),
    "a key twice": (YAML, "name: x\nname: y"),
    "a mapping as key": (YAML, "{a: 1}: x"),
    "a list as key": (YAML, "? [a]\n: x"),
    "depth by brackets": (YAML, "[" * 50_000),
    "depth by braces": (YAML, "{a: " * 60_000),
    "depth by dashes": (YAML, "- " * 100_000),
    "depth by question marks": (YAML, "? " * 100_000),
    "too many values": (YAML, "- 1\n" * 20_000),
    "tabs as indentation": (YAML, "a:\n\tb: 1"),
    "an open quote": (YAML, 'name: "x'),
    "an endless quote": (YAML, '"' + "\\n" * 20_000),
    "a directive of many digits": (YAML, "%YAML " + "1" * 100_000 + "\n---\na"),
    "a number of many digits in YAML": (YAML, "a: " + "9" * 60_000),
    "a hexadecimal number of many digits": (YAML, "name: 0x" + "f" * 60_000),
    "an infinity in YAML": (YAML, "name: .inf"),
    "no number in YAML": (YAML, "name: .nan"),
    "1e400 in YAML": (YAML, "name: 1e400"),
    "NUL in YAML": (YAML, b"name: a\0b"),
    "an escaped NUL in YAML": (YAML, 'name: "a\\0b"'),
    "an escape in YAML": (YAML, b"name: \x1b[31m"),
    "UTF-16 in YAML": (YAML, "name: x".encode("utf-16")),
    "UTF-32 in YAML": (YAML, "name: x".encode("utf-32")),
    "half of a surrogate pair in YAML": (YAML, 'name: "\\ud800"'),
    "a comment alone": (YAML, "# " + "x" * 1000),
    "a word": (YAML, "sweep"),
    "a list of sweeps": (YAML, "- name: x"),
    "nothing in YAML": (YAML, ""),
    "half a megabyte of YAML": (YAML, "#" * 500_000),
    # JSON
    "depth in JSON": (JSON, "[" * 100_000),
    "depth in JSON, closed": (JSON, "[" * 50_000 + "]" * 50_000),
    "depth by objects": (JSON, '{"a":' * 40_000),
    "depth within bounds of the parser": (JSON, '{"name":' * 30 + "1" + "}" * 30),
    "broken off": (JSON, '{"name": "x"'),
    "broken off in a text": (JSON, '{"name": "x'),
    "broken off in a character": (JSON, b'{"name": "\xe2\x82'),
    "two values": (JSON, "{} {}"),
    "a comma too many": (JSON, '{"name": "x",}'),
    "a comment in JSON": (JSON, '{"name": "x"} // sweep'),
    "quotes of Python": (JSON, "{'name': 'x'}"),
    "no number": (JSON, '{"name": NaN}'),
    "an infinity": (JSON, '{"name": Infinity}'),
    "an infinity below": (JSON, '{"name": -Infinity}'),
    "1e400": (JSON, '{"name": 1e400}'),
    "a number of 5,000 digits": (JSON, '{"name": ' + "9" * 5000 + "}"),
    "a number of 400 digits": (JSON, '{"name": ' + "9" * 400 + "}"),
    "2^63": (JSON, '{"name": 9223372036854775808}'),
    "a key twice in JSON": (JSON, '{"name": "x", "name": "y"}'),
    "an endless key twice": (JSON, '{"' + "k" * 90_000 + '": 1, "' + "k" * 90_000 + '": 2}'),
    "NUL": (JSON, '{"name": "a\\u0000b"}'),
    "NUL in a key": (JSON, '{"a\\u0000b": 1}'),
    "half of a surrogate pair": (JSON, '{"name": "\\udfff"}'),
    "an overlong UTF-8 slash": (JSON, b'{"name": "\xc0\xaf"}'),
    "UTF-16": (JSON, '{"name": "x"}'.encode("utf-16-le")),
    "UTF-16 with its mark": (JSON, '{"name": "x"}'.encode("utf-16")),
    "Latin-1": (JSON, '{"name": "é"}'.encode("latin-1")),
    "bytes of nothing": (JSON, bytes(range(256))),
    "a null": (JSON, "null"),
    "a text": (JSON, '"sweep"'),
    "a truth": (JSON, "true"),
    "nothing": (JSON, ""),
    "blanks": (JSON, " \n\t "),
    "more than a megabyte": (JSON, " " * 1_100_000),
    "compressed without saying so": (JSON, b"\x1f\x8b\x08\x00\x00\x00\x00\x00"),
    "20,000 unknown keys": (JSON, json.dumps({f"k{i}": 1 for i in range(20_000)})),
    "an endless unknown key": (JSON, json.dumps({"k" * 200_000: 1})),
    "keys of prototypes": (JSON, '{"__proto__": {"admin": true}, "constructor": {"prototype": 1}}'),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_cannot_be_used_is_refused(strict: Api, name: str) -> None:
    content_type, body = DOCUMENTS[name]
    refused(ask(strict, "POST", "/v1/sweeps", _bytes(body), content_type))


def _bytes(body: bytes | str) -> bytes:
    return body if isinstance(body, bytes) else body.encode()


# --- sweeps with odd values --------------------------------------------------------------------

RATE = "space.learning_rate"
JUDGE = {"base_url": "https://judge.example/v1", "model": "j", "questions": "/q.jsonl"}
TOWER = "**".join(["9"] * 40)
VALUES: dict[str, tuple[str, Any, str | None]] = {
    # where it is changed, to what, the pointer that is named
    "a script in the name": ("name", "<script>alert(1)</script>", "/name"),
    "an image in the name": ("name", "<img src=x onerror=alert(1)>", "/name"),
    "text turned around in the name": ("name", "sweep \u202egnp.exe", "/name"),
    "text isolated in the name": ("name", "a\u2066b\u2069", "/name"),
    "a line separator in the name": ("name", "a\u2028b", "/name"),
    "an escape in the name": ("name", "a\x1b[2Jb", "/name"),
    "a delete in the name": ("name", "a\x7fb", "/name"),
    "a C1 control in the name": ("name", "a\x9bb", "/name"),
    "a byte-order mark in the name": ("name", "a\ufeffb", "/name"),
    "a header in the name": ("name", "a\r\nSet-Cookie: b=c", "/name"),
    "a name of 10,000 letters": ("name", "x" * 10_000, "/name"),
    "a name of a list": ("name", ["x"], "/name"),
    "a script in the name of a set": (
        "data.eval", [{"path": "/e.jsonl", "name": "<b>x</b>"}], "/data/eval/0/name",
    ),
    "a project of another tree": ("project", "../other", "/project"),
    "SQL as a project": ("project", "default'; DROP TABLE sweeps; --", "/project"),
    "a project of 10,000 letters": ("project", "x" * 10_000, "/project"),
    "a grid of 10^9": (
        "",
        {
            "search": {"sampler": "grid"},
            "space": {
                "learning_rate": {"choice": [1e-6 * n for n in range(1, 101)]},
                "effective_batch_size": {"int_uniform": [1, 10_000_000]},
            },
        },
        "/space",
    ),
    "a million million trials": ("search.trials", 10**12, "/search/trials"),
    "trials of 2^63": ("search.trials", 2**63, "/search/trials"),
    "no number of trials": ("search.trials", -0.0, "/search/trials"),
    "a negative seed": ("search.seed", -1, "/search/seed"),
    "a seed of 2^31": ("search.seed", 2**31, "/search/seed"),
    "a rate of negative zero": (RATE, -0.0, "/space/learning_rate"),
    "a rate of 1e308": (RATE, 1e308, "/space/learning_rate"),
    "a range of negative zero": (RATE, {"log_uniform": [-0.0, 1e-3]}, "/space/learning_rate/log_uniform"),
    "a range up to 1e308": (RATE, {"log_uniform": [1e-300, 1e308]}, None),
    "a step of 1e-300": (RATE, {"uniform": [1e-5, 1e-3], "step": 1e-300}, None),
    "a grid of 10^18 under constraints": (
        "",
        {
            "search": {"sampler": "grid"},
            "constraints": ["learning_rate * effective_batch_size < 1"],
            "space": {
                "learning_rate": {"choice": [1e-6 * n for n in range(1, 1001)]},
                "effective_batch_size": {"int_uniform": [1, 10**15]},
            },
        },
        "/space",
    ),
    "nested choices": (RATE, {"choice": [[[[[1]]]]]}, None),
    "20,000 wrong choices": (RATE, {"choice": [[]] * 20_000}, None),
    "a choice of an object": (RATE, {"choice": [{"__proto__": 1}]}, None),
    "a parameter of Python": ("space.__class__", 1, None),
    "an extra field of Python": ("__init__", 1, "/__init__"),
    "an expression that asks for a class": ("constraints", ["().__class__ == 1"], None),
    "an expression that imports": ("constraints", ["__import__('os').system('true') == 0"], None),
    "an expression with a lambda": ("constraints", ["(lambda: 1)() == 1"], None),
    "an expression with a walrus": ("constraints", ["(x := 1) == 1"], None),
    "an expression with an f-string": ("constraints", ["f'{learning_rate}' == 'x'"], None),
    "an expression with a format": ("constraints", ["'{0.__class__}'.format(1) == 'x'"], None),
    "an expression with a loop": ("constraints", ["[x for x in (1,)] == 1"], None),
    "an expression that awaits": ("constraints", ["(await x) == 1"], None),
    "an expression that yields": ("constraints", ["(yield) == 1"], None),
    "an expression with stars": ("constraints", ["max(*[1, 2]) == 1"], None),
    "a tower of powers": ("constraints", [f"learning_rate < {TOWER}"], None),
    "a large power": ("constraints", ["learning_rate < 10**10**10"], None),
    "a power of an integer": ("constraints", ["effective_batch_size ** 99999 < 1"], None),
    "parentheses 240 deep": ("constraints", ["(" * 240 + "1" + ")" * 240 + " < learning_rate"], None),
    "a thousand minus signs": ("constraints", ["-" * 480 + "1 < learning_rate"], None),
    "nots 100 deep": ("constraints", ["not " * 100 + "learning_rate < 1"], None),
    "an endless expression": ("constraints", ["learning_rate < 1 and " * 10_000 + "True"], None),
    "a thousand expressions": ("constraints", ["learning_rate < 1"] * 1000, "/constraints"),
    "an expression of many digits": ("constraints", ["learning_rate < " + "9" * 450], None),
    "an expression with NUL": ("constraints", ["learning_rate < 1\0"], None),
    "a comment as an expression": ("constraints", ["# nothing"], None),
    "a division by zero": ("constraints", ["learning_rate / 0 < 1"], None),
    "bytes in an expression": ("constraints", ["b'x' == strategy"], None),
    "an expression in two lines": ("constraints", ["learning_rate < 1\nimport os"], None),
    "a condition that runs": (f"{RATE}.when", "exec('x')", None),
    "a condition of itself": (f"{RATE}.when", "learning_rate < 1", None),
    "a broken regular expression": (
        "data.eval", [{"path": "/e.jsonl", "extract": {"kind": "regex", "pattern": "(" * 200}}], None,
    ),
    "a regular expression of many repetitions": (
        "data.eval",
        [{"path": "/e.jsonl", "extract": {"kind": "regex", "pattern": "a{99999999999999999999}"}}],
        None,
    ),
    "an endless regular expression": (
        "data.eval",
        [{"path": "/e.jsonl", "extract": {"kind": "regex", "pattern": "a" * 5000}}],
        None,
    ),
    "a path up": ("data.train.0.path", "/data/../etc/passwd", "/data/train/0/path"),
    "a path up at its end": ("data.train.0.path", "/data/..", "/data/train/0/path"),
    "a path of home": ("data.train.0.path", "~/secret.jsonl", "/data/train/0/path"),
    "a path of another's home": ("data.train.0.path", "~root/secret.jsonl", "/data/train/0/path"),
    "a path as an address": ("data.train.0.path", "file:///etc/passwd", "/data/train/0/path"),
    "a path on the web": ("data.train.0.path", "http://169.254.169.254/x.jsonl", "/data/train/0/path"),
    "a path on a store": ("data.train.0.path", "s3://bucket/x.jsonl", "/data/train/0/path"),
    "a path with NUL": ("data.train.0.path", "/data/x\0.jsonl", "/data/train/0/path"),
    "a path of 100,000 letters": ("data.train.0.path", "/" + "x" * 100_000, "/data/train/0/path"),
    "a path with a name of 300": ("data.train.0.path", "/" + "x" * 300, "/data/train/0/path"),
    "a path turned around": ("data.train.0.path", "/data/\u202elnosj", "/data/train/0/path"),
    "a path with an escape": ("data.train.0.path", "/data/\x1b]0;x", "/data/train/0/path"),
    "a path from nowhere": ("data.train.0.path", "../../etc/passwd", "/data/train/0/path"),
    "a path of Windows": ("data.train.0.path", "C:\\data\\x.jsonl", "/data/train/0/path"),
    "a hub id with a step up": ("data.train.0.path", "org/..", "/data/train/0/path"),
    "a template up": ("data.chat_template", "/t/../../etc/passwd", "/data/chat_template"),
    "a template as an address": ("data.chat_template", "file:///t.jinja", "/data/chat_template"),
    "a model up": ("model", "/models/../etc", "/model"),
    "a model of home": ("model", "~/model", "/model"),
    "a model as an address": ("model", "file:///models/x", "/model"),
    "a model on the web": ("model", "https://evil.example/model", "/model"),
    "a model with a fragment": ("model", "org/name#main", "/model"),
    "a model with a query": ("model", "org/name?x=1", "/model"),
    "a model with an escape": ("model", "org/%2e%2e", "/model"),
    "a model of three parts": ("model", "a/b/c", "/model"),
    "a model with a step up": ("model", "../org/name", "/model"),
    "a model of 5,000 letters": ("model", "/" + "x/" * 2500, "/model"),
    "a revision that steps up": ("model_revision", "../../x", "/model_revision"),
    "a revision of 100 letters": ("model_revision", "a" * 100, "/model_revision"),
    "a revision that is a command": ("model_revision", "main; true", "/model_revision"),
    "a revision of a folder": ("model_revision", "main", "/model_revision"),
    "code as a text": ("trust_remote_code", "true", "/trust_remote_code"),
    "code of a folder that isn't there": ("trust_remote_code", True, "/trust_remote_code"),
    "tasks up": (
        "evaluation.lm_eval", {"tasks": ["x"], "include_path": "/t/../x"},
        "/evaluation/lm_eval/include_path",
    ),
    "questions up": (
        "evaluation.judge", JUDGE | {"questions": "/q/../x"}, "/evaluation/judge/questions",
    ),
    "a judge of another protocol": (
        "evaluation.judge", JUDGE | {"base_url": "gopher://x/"}, "/evaluation/judge/base_url",
    ),
    "a judge in a file": (
        "evaluation.judge", JUDGE | {"base_url": "file:///etc/passwd"}, "/evaluation/judge/base_url",
    ),
    "a judge with a password": (
        "evaluation.judge", JUDGE | {"base_url": "https://a:b@x/v1"}, "/evaluation/judge/base_url",
    ),
    "a judge without a host": (
        "evaluation.judge", JUDGE | {"base_url": "https:///v1"}, "/evaluation/judge/base_url",
    ),
    "a judge with a port of 99999": (
        "evaluation.judge", JUDGE | {"base_url": "https://x:99999/"}, "/evaluation/judge/base_url",
    ),
    "a judge with a backslash": (
        "evaluation.judge", JUDGE | {"base_url": "https://x\\@y/"}, "/evaluation/judge/base_url",
    ),
    "a judge with a line break": (
        "evaluation.judge", JUDGE | {"base_url": "https://x/\r\nHost: y"}, "/evaluation/judge/base_url",
    ),
    "a judge with a fragment": (
        "evaluation.judge", JUDGE | {"base_url": "https://x/#@y"}, "/evaluation/judge/base_url",
    ),
    "a key of a command": (
        "evaluation.judge", JUDGE | {"api_key_env": "$(id)"}, "/evaluation/judge/api_key_env",
    ),
    "a key of the server": (
        "evaluation.judge", JUDGE | {"api_key_env": "WINNOW_DATABASE_URL"},
        "/evaluation/judge/api_key_env",
    ),
    "a store in a file": ("checkpoints.store", "file:///tmp/x", "/checkpoints/store"),
    "a store in a chain": ("checkpoints.store", "s3://b/x::file:///etc", "/checkpoints/store"),
    "a store in a cache": ("checkpoints.store", "simplecache::s3://b/x", "/checkpoints/store"),
    "a store up": ("checkpoints.store", "s3://b/../c", "/checkpoints/store"),
    "a store in memory": ("checkpoints.store", "memory://x", "/checkpoints/store"),
    "a store on the web": ("checkpoints.store", "http://169.254.169.254/", "/checkpoints/store"),
    "a store with a password": ("checkpoints.store", "sftp://u:p@h/x", "/checkpoints/store"),
    "a store with a query": ("checkpoints.store", "s3://b/x?endpoint=y", "/checkpoints/store"),
    "a store from nowhere": ("checkpoints.store", "../x", "/checkpoints/store"),
    "a budget of nothing": ("budget.hours", 0, "/budget/hours"),
    "a budget below nothing": ("budget.hours", -1e300, "/budget/hours"),
    "priority of 10^15": ("sharing.priority", 10**15, "/sharing/priority"),
    "workers of 10^6": ("resources.workers_per_trial", 10**6, "/resources/workers_per_trial"),
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    sweep = copy.deepcopy(good_sweep())
    if not path:
        return sweep | value
    *parents, last = path.split(".")
    at: Any = sweep
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
    at[last] = value
    return sweep


@pytest.mark.parametrize("name", VALUES)
def test_a_sweep_with_an_odd_value_is_refused_before_its_files_are_opened(
    strict: Api, name: str
) -> None:
    path, value, pointer = VALUES[name]
    body = json.dumps(changed(path, value)).encode()
    where = "/v1/sweeps:validate" if len(name) % 2 else "/v1/sweeps"  # one check serves both
    refused(ask(strict, "POST", where, body, JSON), at=pointer)


# --- addresses, headers and bodies of other routes ------------------------------------------------

REQUESTS: dict[str, tuple[Any, ...]] = {
    # method, target, then body and content type, or headers
    "a step up": ("GET", "/v1/sweeps/../../etc/passwd"),
    "an encoded step up": ("GET", "/v1/sweeps/%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    "a step up, encoded twice": ("GET", "/v1/sweeps/%252e%252e"),
    "an encoded slash": ("GET", "/v1/sweeps/a%2fb"),
    "an encoded NUL": ("GET", "/v1/sweeps/a%00b"),
    "an encoded line break": ("GET", "/v1/sweeps/a%0d%0aSet-Cookie:%20x"),
    "an encoded fragment": ("GET", "/v1/sweeps/a%23b"),
    "an encoded question mark": ("GET", "/v1/sweeps/a%3fb"),
    "bytes that are no UTF-8": ("GET", "/v1/sweeps/%ff%fe"),
    "a backslash": ("GET", "/v1/sweeps/..%5c..%5cetc"),
    "an id of 10,000 letters": ("GET", "/v1/sweeps/" + "a" * 10_000),
    "SQL as an id": ("GET", "/v1/sweeps/" + quote("' OR 1=1 --")),
    "a script as an id": ("GET", "/v1/sweeps/" + quote("<script>")),
    "an id turned around": ("GET", "/v1/sweeps/" + quote("a\u202eb")),
    "a trial of another tree": ("GET", "/v1/trials/..%2f..%2fx/logs"),
    "SQL as a trial": ("GET", "/v1/trials/" + quote("x' UNION SELECT * FROM tokens --")),
    "a recipe of another tree": ("GET", "/v1/recipes/..%2f..%2fetc%2fpasswd"),
    "a scheduler that isn't": ("GET", "/v1/schedulers/__class__"),
    "a project of another tree": ("GET", "/v1/projects/..%2fx"),
    "a token of no number": ("GET", "/v1/tokens/1e400"),
    "a token of many digits": ("GET", "/v1/tokens/" + "9" * 400),
    "a webhook of SQL": ("GET", "/v1/webhooks/" + quote("' OR 1=1")),
    "a checkpoint of another tree": ("GET", "/v1/trials/x/checkpoints/..%2f1/archive"),
    "an action that isn't": ("POST", "/v1/sweeps/abc:explode"),
    "an action of Python": ("POST", "/v1/sweeps/abc:__class__"),
    "a limit of nothing": ("GET", "/v1/sweeps?limit=0"),
    "a limit of a word": ("GET", "/v1/sweeps?limit=all"),
    "a limit of NaN": ("GET", "/v1/sweeps?limit=NaN"),
    "a limit of 1e400": ("GET", "/v1/sweeps?limit=1e400"),
    "a limit of many digits": ("GET", "/v1/sweeps?limit=" + "9" * 5000),
    "a limit of SQL": ("GET", "/v1/sweeps?limit=1;DROP%20TABLE%20sweeps"),
    "a cursor of SQL": ("GET", "/v1/sweeps?cursor=" + quote("' OR 1=1 --")),
    "a cursor of 10,000 letters": ("GET", "/v1/sweeps?cursor=" + "a" * 10_000),
    "a cursor of NUL": ("GET", "/v1/sweeps?cursor=%00"),
    "a cursor of bytes": ("GET", "/v1/sweeps?cursor=%ff"),
    "events after nothing": ("GET", "/v1/events?after=-1"),
    "events after 2^63": ("GET", "/v1/events?after=9223372036854775808"),
    "events after 10^400": ("GET", "/v1/events?after=1" + "0" * 400),
    "audit of SQL": ("GET", "/v1/audit?cursor=" + quote("1 OR 1=1")),
    "audit of no time": ("GET", "/v1/audit?since=yesterday"),
    "an address of 100,000 letters": ("GET", "/v1/sweeps?x=" + "a" * 100_000),
    "a method of nothing": ("BREW", "/v1/sweeps"),
    "a method of another route": ("DELETE", "/v1/sweeps"),
    "a method for a list": ("PATCH", "/v1/projects"),
    "a TRACE": ("TRACE", "/v1/sweeps"),
    "a CONNECT": ("CONNECT", "/v1/sweeps"),
    "no content type": ("POST", "/v1/sweeps", b"{}", None),
    "a form": ("POST", "/v1/sweeps", b"name=x", "application/x-www-form-urlencoded"),
    "a form of parts": ("POST", "/v1/sweeps", b"--x--", "multipart/form-data; boundary=x"),
    "plain text": ("POST", "/v1/sweeps", b"{}", "text/plain"),
    "XML with an entity": (
        "POST", "/v1/sweeps", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
        "application/xml",
    ),
    "a pickle": ("POST", "/v1/sweeps", b"cos\nsystem\n(S'true'\ntR.", "application/octet-stream"),
    "a content type of 5,000 letters": ("POST", "/v1/sweeps", b"{}", "a/" + "b" * 5000),
    "an unnamed project": ("POST", "/v1/projects", b'{"id": ""}', JSON),
    "a project that steps up": ("POST", "/v1/projects", b'{"id": "../x"}', JSON),
    "a project with a quota of NaN": ("POST", "/v1/projects", b'{"id": "x", "quota": {"gpus": NaN}}', JSON),
    "a project with a weight of 1e400": ("POST", "/v1/projects", b'{"id": "x", "weight": 1e400}', JSON),
    "a token of all scopes and more": ("POST", "/v1/tokens", b'{"name": "x", "scopes": ["root"]}', JSON),
    "a token with a script": ("POST", "/v1/tokens", b'{"name": "a\\u202eb"}', JSON),
    "a token that has ended": ("POST", "/v1/tokens", b'{"name": "x", "expires_in": -1}', JSON),
    "a webhook on loopback": ("POST", "/v1/webhooks", b'{"url": "https://127.0.0.1/x"}', JSON),
    "a webhook on loopback, as a number": ("POST", "/v1/webhooks", b'{"url": "https://[::ffff:7f00:1]/"}', JSON),
    "a webhook on the metadata service": ("POST", "/v1/webhooks", b'{"url": "http://169.254.169.254/"}', JSON),
    "a webhook of a file": ("POST", "/v1/webhooks", b'{"url": "file:///etc/passwd"}', JSON),
    "a webhook with a password": ("POST", "/v1/webhooks", b'{"url": "https://a:b@x.example/"}', JSON),
    "a webhook with a line break": ("POST", "/v1/webhooks", b'{"url": "https://x.example/\\r\\nX: y"}', JSON),
    "code of a branch": ("PUT", "/v1/allowed-code", b'{"model": "org/x", "revision": "main"}', JSON),
    "code of nothing": ("PUT", "/v1/allowed-code", b'{"model": "/nowhere"}', JSON),
    "code of a step up": ("PUT", "/v1/allowed-code", b'{"model": "/x/../y"}', JSON),
    "code of an address": ("PUT", "/v1/allowed-code", b'{"model": "https://x.example"}', JSON),
    "code that isn't allowed": ("DELETE", "/v1/allowed-code?model=org%2Fx&revision=" + "a" * 40),
    "a change of a sweep that isn't": ("POST", "/v1/sweeps/nope:set", b'{"priority": 1}', JSON),
    "configurations of a sweep that isn't": ("POST", "/v1/sweeps/nope:add", b'{"params": {}}', JSON),
    "metrics of 60,000 trials": ("GET", "/v1/sweeps/nope/metrics?trials=" + "a," * 7000),
}  # fmt: skip

HEADERS: dict[str, dict[str, str | bytes]] = {
    "a gzip bomb": {"content_encoding": "gzip"},
    "two encodings": {"content_encoding": "gzip, br"},
    "a header of 100,000 letters": {"x_long": "a" * 100_000},
    "an endless key": {"idempotency_key": "k" * 10_000},
    "a key of control characters": {"idempotency_key": b"\x01\x02"},
    "another host": {"host": "evil.example"},
    "a host with a path": {"host": "127.0.0.1/../x"},
    "no token": {"authorization": ""},
    "a token of another scheme": {"authorization": "Basic dTpw"},
    "a token with a line break": {"authorization": b"Bearer a\x0bb"},
    "a token of 10,000 letters": {"authorization": "Bearer " + "a" * 10_000},
    "SQL as a token": {"authorization": "Bearer ' OR 1=1 --"},
    "bytes as a token": {"authorization": b"Bearer \xff\xfe"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_an_odd_request_is_refused(strict: Api, name: str) -> None:
    refused(ask(strict, *REQUESTS[name]))


@pytest.mark.parametrize("name", HEADERS)
def test_an_odd_header_is_refused(strict: Api, name: str) -> None:
    body = json.dumps({"name": "x"}).encode()
    refused(ask(strict, "POST", "/v1/sweeps", body, JSON, **HEADERS[name]))


def test_after_all_that_the_server_answers_and_nothing_was_kept(strict: Api) -> None:
    before = kept(strict)
    for content_type, body in DOCUMENTS.values():
        if len(body) < 1000:
            ask(strict, "POST", "/v1/sweeps", _bytes(body), content_type)
    for request in REQUESTS.values():
        ask(strict, *request)
    assert kept(strict) == before
    assert before[0] == 0
    assert strict.http.get("/v1/health").status_code == 200


def test_there_are_more_than_150_of_them() -> None:
    assert len(DOCUMENTS) + len(VALUES) + len(REQUESTS) + len(HEADERS) >= 150
