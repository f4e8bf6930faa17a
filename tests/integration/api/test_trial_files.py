"""What a trial leaves behind, over the API: attempts, checkpoints, logs, exports."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.redaction import hide
from orchestrator.store import Lease
from tests.integration.api.conftest import Api, good_sweep
from trainer.metrics import Batch, CheckpointRecord, Evaluation, StepRecord
from winnow.types import TrialState


def step(number: int) -> StepRecord:
    return StepRecord(
        step=number,
        samples=8 * number,
        tokens=80 * number,
        loss=3.0 / number,
        grad_norm=1.0,
        learning_rate=1e-4,
        seconds=0.1,
        memory=1,
        batch_samples=8,
    )


class Ran:
    """A sweep of one trial that has run, with a state at step 2 and a model at step 3."""

    def __init__(self, api: Api, **params: Any) -> None:
        self.sweep = api.post(good_sweep()).json()["id"]
        self.folder = api.home.resolve() / "sweeps" / self.sweep / "trial-0" / "attempt-1"
        lease = api.store.acquire_lease(self.sweep, "test", 60)
        assert isinstance(lease, Lease)
        self.lease = lease
        params = {"learning_rate": 1e-4} | params
        self.trial = api.store.add_trial(lease, 0, "search", params, {}, 24)
        attempt = api.store.start_attempt(lease, self.trial)
        self.state = self.folder / "checkpoints" / "step-2"
        self.model = self.folder / "model"
        for folder, kind, at in ((self.state, "state", 2), (self.model, "export", 3)):
            (folder / "deep").mkdir(parents=True)
            (folder / "deep" / "weights.bin").write_bytes(bytes(range(256)) * 5000)
            (folder / "config.json").write_text(kind)
            record = CheckpointRecord(
                step=at,
                samples=8 * at,
                kind="state" if kind == "state" else "export",
                path=str(folder),
                bytes=1,
                seconds=0.1,
            )
            steps = (step(1), step(2)) if kind == "state" else (step(3),)
            batch = Batch(
                status="running",
                steps=steps,
                evaluations=(Evaluation(at, 8 * at, "eval", "gsm8k", 1.5, 10, 0.5, 4, 0.1),),
                checkpoints=(record,),
                total_steps=3,
                total_samples=24,
            )
            api.store.record(lease, self.trial, attempt, batch)
        api.store.end_attempt(lease, self.trial, attempt, TrialState.COMPLETED, value=1.5)


def test_attempts_and_checkpoints_of_a_trial_are_listed(api_on_both: Api) -> None:
    ran = Ran(api_on_both)
    (attempt,) = api_on_both.http.get(f"/v1/trials/{ran.trial}/attempts").json()["items"]
    assert (attempt["attempt"], attempt["state"]) == (1, "COMPLETED")
    url = f"/v1/trials/{ran.trial}/checkpoints?limit=1"
    first = api_on_both.http.get(url)
    second = api_on_both.http.get(first.links["next"]["url"])
    found = [(c["step"], c["kind"]) for page in (first, second) for c in page.json()["items"]]
    assert found == [(2, "state"), (3, "export")]
    assert "next" not in second.links


def test_a_checkpoint_arrives_as_the_files_it_has(api: Api) -> None:
    ran = Ran(api)
    answer = api.http.get(f"/v1/trials/{ran.trial}/checkpoints/2/archive")
    assert answer.headers["Content-Type"] == "application/x-tar"
    assert answer.headers["Content-Length"] == str(len(answer.content))
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        files = {m.name.partition("/")[2]: m for m in tar.getmembers()}
        assert set(files) == {"config.json", "deep/weights.bin"}
        weights = tar.extractfile(files["deep/weights.bin"])
        assert weights is not None
        assert weights.read() == (ran.state / "deep" / "weights.bin").read_bytes()
    model = api.http.get(f"/v1/trials/{ran.trial}:export")
    with tarfile.open(fileobj=io.BytesIO(model.content)) as tar:
        config = tar.extractfile(f"{ran.trial}-export-3/config.json")
        assert config is not None
        assert config.read() == b"export"


def test_an_archive_never_leaves_its_sweeps_folder(api: Api, tmp_path: Path) -> None:
    ran = Ran(api)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("private")
    (ran.state / "link").symlink_to(secret / "key")
    (ran.state / "folder").symlink_to(secret)
    answer = api.http.get(f"/v1/trials/{ran.trial}/checkpoints/2/archive")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert {m.name.partition("/")[2] for m in tar} == {"config.json", "deep/weights.bin"}
    # The whole folder is a link to elsewhere; then one that was told to be there.
    for file in (ran.model / "config.json", ran.model / "deep" / "weights.bin"):
        file.unlink()
    (ran.model / "deep").rmdir()
    ran.model.rmdir()
    ran.model.symlink_to(secret)
    refused = api.http.get(f"/v1/trials/{ran.trial}:export")
    assert refused.status_code == 404
    assert refused.json()["type"] == "urn:winnow:problem:checkpoint-elsewhere"


def test_a_deleted_checkpoint_is_gone_and_one_that_never_was_is_not_found(api: Api) -> None:
    ran = Ran(api)
    with api.store.guarded(ran.lease) as tx:
        tx.note_deleted(ran.trial, [str(ran.state)])
    url = f"/v1/trials/{ran.trial}/checkpoints"
    assert api.http.get(f"{url}/2/archive").status_code == 410
    assert api.http.get(f"{url}/7/archive").status_code == 404
    assert [c["available"] for c in api.http.get(url).json()["items"]] == [False, True]


def write_log(ran: Ran, text: bytes) -> Path:
    path = ran.folder / "logs" / "rank-0.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        log.write(text)
    return path


def texts(page: Any) -> list[str]:
    return [line["text"] for line in page.json()["items"]]


def test_a_log_is_read_by_its_end_by_position_and_by_text(api: Api) -> None:
    ran = Ran(api)
    url = f"/v1/trials/{ran.trial}/logs"
    assert texts(api.http.get(url)) == []
    write_log(ran, b"".join(b"line %d\n" % i for i in range(1000)) + b"half a li")
    last = api.http.get(url, params={"tail": 2})
    assert texts(last) == ["line 998", "line 999"]
    assert last.json()["truncated"] is True
    write_log(ran, b"ne\nmore\n")
    after = api.http.get(url, params={"since": last.json()["position"]})
    assert texts(after) == ["half a line", "more"]
    assert texts(api.http.get(url, params={"search": "LINE 77"})) == [
        "line 77",
        *(f"line {i}" for i in range(770, 780)),
    ]


def test_a_log_tells_no_secret_and_may_hold_anything(api: Api) -> None:
    ran = Ran(api)
    hide({"correct-horse-battery"})
    write_log(ran, b"token hf_abcdefghijklmnopqrstuv and correct-horse-battery\n")
    write_log(
        ran, b"\xff\xfe\x00binary\x1b[31mred\x1b[0m\n10%\r50%\r100%\n" + b"x" * 100_000 + b"\n"
    )
    found = texts(api.http.get(f"/v1/trials/{ran.trial}/logs"))
    assert found[0] == "token [secret] and [secret]"
    assert found[1].endswith("binaryred")
    assert found[2] == "100%"
    assert all(len(line) < 5000 for line in found)


def test_a_position_outlives_the_moving_of_old_lines_to_a_second_file(api: Api) -> None:
    ran = Ran(api)
    url = f"/v1/trials/{ran.trial}/logs"
    path = write_log(ran, b"one\ntwo\n")
    position = api.http.get(url, params={"tail": 1}).json()["position"]
    write_log(ran, b"three\n")
    path.rename(path.with_name("rank-0.log.1"))
    write_log(ran, b"four\n")
    assert texts(api.http.get(url, params={"since": position})) == ["three", "four"]


def test_a_log_can_be_followed_to_the_trials_end(api: Api) -> None:
    ran = Ran(api)
    write_log(ran, b"one\ntwo\nthree\n")
    with api.http.stream("GET", f"/v1/trials/{ran.trial}/logs:follow?tail=2") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert [d["text"] for d in data[:-1]] == ["two", "three"]
    assert text.rstrip().endswith("event: end\ndata: {}")
    ids = [line[4:] for line in text.splitlines() if line.startswith("id: ")]
    with api.http.stream(
        "GET", f"/v1/trials/{ran.trial}/logs:follow", headers={"Last-Event-ID": ids[0]}
    ) as answer:
        assert "three" in (again := "".join(answer.iter_text()))
    assert "two" not in again


@pytest.mark.parametrize("what", ["trials", "metrics", "evaluations", "decisions", "events"])
def test_every_table_is_exported_in_every_format(api_on_both: Api, what: str) -> None:
    ran = Ran(api_on_both)

    def export(form: str) -> bytes:
        answer = api_on_both.http.get(
            f"/v1/sweeps/{ran.sweep}/export", params={"what": what, "format": form}
        )
        assert answer.status_code == 200
        name = f'attachment; filename="{ran.sweep}-{what}.{form}"'
        assert answer.headers["Content-Disposition"] == name
        return answer.content

    rows = list(csv.DictReader(io.StringIO(export("csv").decode())))
    lines = [json.loads(line) for line in export("jsonl").splitlines()]
    table = pq.read_table(io.BytesIO(export("parquet")))
    assert json.loads(export("json")) == lines
    assert len(rows) == len(lines) == table.num_rows
    assert len(rows) == {"trials": 1, "metrics": 3, "evaluations": 2, "decisions": 0}.get(
        what, len(rows)
    )
    if what == "metrics":
        assert [float(r["loss"]) for r in rows] == [3.0, 1.5, 1.0]
        assert table["loss"].to_pylist() == [3.0, 1.5, 1.0]
        assert lines[0]["trial_id"] == ran.trial


def test_a_spreadsheet_finds_no_formula_in_an_export(api: Api) -> None:
    ran = Ran(api, optimizer='=cmd|"/c calc"!A1', shift=-1.5)
    answer = api.http.get(f"/v1/sweeps/{ran.sweep}/export")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row["params.optimizer"] == '\'=cmd|"/c calc"!A1'
    assert float(row["params.shift"]) == -1.5
    assert float(row["params.learning_rate"]) == 1e-4
