"""The trainer from the command line: torchrun, python -m trainer, and check."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from trainer.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_tiny_model(folder / "model")
    write_jsonl(folder / "train.jsonl", sums(40))
    write_jsonl(folder / "eval.jsonl", sums(8, seed=1))
    return folder


def values(material: Path, output: Path, **fields: Any) -> dict[str, Any]:
    return {
        "model": str(material / "model"),
        "data": {
            "train": [{"path": str(material / "train.jsonl")}],
            "eval": [{"path": str(material / "eval.jsonl"), "name": "sums"}],
        },
        "output_dir": str(output),
        "learning_rate": 3e-3,
        "effective_batch_size": 8,
        "max_new_tokens": 4,
        **fields,
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def launch(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def check(
    capsys: pytest.CaptureFixture[str], folder: Path, content: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    status = main(["check", str(write(folder, content))])
    (line,) = capsys.readouterr().out.splitlines()
    return status, json.loads(line)


@pytest.mark.deepspeed
def test_torchrun_trains_and_a_second_call_resumes(material: Path, tmp_path: Path) -> None:
    config = write(tmp_path, values(material, tmp_path / "out", checkpoint_at=[20], epochs=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    first = launch(*launcher, "-m", "trainer", str(config))
    assert first.returncode == 0, first.stderr
    assert "train: 40 samples" in first.stdout
    assert "eval sums at step 5: loss" in first.stdout
    assert first.stdout.rstrip().endswith("completed")
    assert (tmp_path / "out" / "export" / "model.safetensors").is_file()
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds.count("step") == 5
    assert kinds.count("evaluation") == 1

    second = launch("-m", "trainer", str(config))
    assert second.returncode == 0, second.stderr
    assert "resumed at step 3" in second.stdout
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    again = [json.loads(line) for line in lines]
    steps = [r for r in again if r["kind"] == "step"]
    assert [r["step"] for r in steps] == [1, 2, 3, 4, 5, 4, 5]
    assert steps[5]["loss"] == pytest.approx(steps[3]["loss"], rel=1e-5)


def test_a_mistake_in_the_data_is_told_without_a_traceback(material: Path, tmp_path: Path) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", [*sums(2), "{"])
    content = values(material, tmp_path / "out", data={"train": [{"path": str(bad)}]})
    done = launch("-m", "trainer", str(write(tmp_path, content)))
    assert done.returncode == 2
    assert "bad.jsonl, line 3: not valid JSON" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.deepspeed
def test_a_diverging_run_exits_with_1_and_says_why(material: Path, tmp_path: Path) -> None:
    content = values(material, tmp_path / "out", learning_rate=1e3, epochs=200)
    done = launch("-m", "trainer", str(write(tmp_path, content)))
    assert done.returncode == 1
    assert "failed (diverged)" in done.stderr
    assert "lower the learning rate" in done.stderr


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"lerning_rate": 1}, "lerning_rate: Extra inputs are not permitted"),
        ({"learning_rate": "fast"}, "learning_rate: Input should be a valid number"),
        ({"recipe": "tulip"}, "unknown recipe 'tulip'"),
    ],
)
def test_a_mistake_in_the_configuration_names_the_field(
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, Any],
    complaint: str,
) -> None:
    status = main([str(write(tmp_path, values(material, tmp_path / "out", **fields)))])
    assert status == 2
    assert complaint in capsys.readouterr().err


def test_a_missing_configuration_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.yaml"]) == 2
    assert "nowhere.yaml can't be read" in capsys.readouterr().err


def test_check_counts_what_there_is(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = check(capsys, tmp_path, values(material, tmp_path / "out"))
    assert status == 0
    assert report["ok"] is True
    assert report["errors"] == []
    assert (report["train_samples"], report["eval_samples"]) == (40, {"sums": 8})
    assert report["train_tokens"] > 400
    assert report["parameters"] > 10_000
    assert any((tmp_path / "out" / "cache").iterdir())


def test_check_needs_neither_torch_nor_a_file(material: Path, tmp_path: Path) -> None:
    done = launch(
        "-X",
        "importtime",
        "-m",
        "trainer",
        "check",
        "-",
        stdin=yaml.safe_dump(values(material, tmp_path / "out")),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported
    assert not imported & {"torch", "deepspeed"}


def test_check_finds_every_bad_file_at_once(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", ["[]"])
    content = values(
        material,
        tmp_path / "out",
        data={
            "train": [{"path": str(material / "train.jsonl")}, {"path": "/nowhere.jsonl"}],
            "eval": [{"path": str(bad), "name": "bad"}],
        },
    )
    status, report = check(capsys, tmp_path, content)
    assert status == 3
    assert [e["pointer"] for e in report["errors"]] == ["/data/train/1/path", "/data/eval/0/path"]
    assert "/nowhere.jsonl: no such file" in report["errors"][0]["message"]
    assert "line 1: not a JSON object" in report["errors"][1]["message"]


@pytest.mark.parametrize(
    ("fields", "pointer", "complaint"),
    [
        ({"model": "/nowhere/model"}, "/model", "does not exist"),
        ({"effective_batch_size": 41}, "/effective_batch_size", "only 40 usable"),
        ({"max_tokens_per_microbatch": 4}, "/max_tokens_per_microbatch", "longest training sample"),
        ({"learning_rate": -1}, "/learning_rate", "greater than 0"),
    ],
)
def test_check_points_at_the_field(
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, Any],
    pointer: str,
    complaint: str,
) -> None:
    status, report = check(capsys, tmp_path, values(material, tmp_path / "out", **fields))
    assert status == 3
    assert report["ok"] is False
    assert report["errors"][0]["pointer"] == pointer
    assert complaint in report["errors"][0]["message"]


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no .safetensors weights"),
        ("tokenizer*", "has no tokenizer"),
        ("chat_template.jinja", "has no chat template; set data.chat_template"),
    ],
)
def test_check_says_what_a_model_folder_lacks(
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    missing: str,
    complaint: str,
) -> None:
    model = make_tiny_model(tmp_path / "model")
    for file in model.glob(missing):
        file.unlink()
    status, report = check(capsys, tmp_path, values(material, tmp_path, model=str(model)))
    assert status == 3
    assert report["errors"][0]["pointer"] == "/model"
    assert complaint in report["errors"][0]["message"]


def test_check_refuses_an_encoder_decoder(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    for change in ({"is_encoder_decoder": True}, {"architectures": ["BertModel"]}):
        (model / "config.json").write_text(json.dumps({**config, **change}))
        status, report = check(capsys, tmp_path, values(material, tmp_path, model=str(model)))
        assert status == 3
        assert "decoder-only" in report["errors"][0]["message"]


def test_a_hub_id_that_cannot_be_fetched_is_told(
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    content = values(material, tmp_path, model="nobody/no-such-model")
    status, report = check(capsys, tmp_path, content)
    assert status == 3
    assert "neither an existing folder nor a hub id" in report["errors"][0]["message"]


def test_a_recipe_fills_in_what_is_not_given(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = values(material, tmp_path / "out", recipe="lab")
    status, report = check(capsys, tmp_path, content)
    assert (status, report["ok"]) == (0, True)
    del content["effective_batch_size"]
    status, report = check(capsys, tmp_path, content)
    assert report["errors"][0]["pointer"] == "/effective_batch_size"
    assert "3,840" in report["errors"][0]["message"]
