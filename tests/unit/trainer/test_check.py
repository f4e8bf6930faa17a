"""What a user gets wrong is found before a run, all at once, with field, file, line and way out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_model import sums, write_jsonl
from trainer.check import Report, check, size_problems
from trainer.config import TrainConfig

LONG = {
    "messages": [
        {"role": "user", "content": "What is 1?" * 100},
        {"role": "assistant", "content": "1"},
    ]
}


def make_config(model: Path | str, folder: Path, data: dict[str, Any], **run: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": str(model),
            "data": {"cache_dir": str(folder / "cache"), "max_length": 128, **data},
            "output_dir": str(folder / "out"),
            "learning_rate": 1e-3,
            "effective_batch_size": 4,
            **run,
        }
    )


def look(model: Path | str, folder: Path, data: dict[str, Any], **run: Any) -> Report:
    return check(make_config(model, folder, data, **run))


def complaints(report: Report) -> dict[str, str]:
    assert report.ok == (not report.errors)
    return {error.pointer: error.message for error in report.errors}


@pytest.fixture
def good(tmp_path: Path) -> str:
    return str(write_jsonl(tmp_path / "good.jsonl", sums(20)))


def test_a_sound_run_is_counted(tiny_model: Path, tmp_path: Path, good: str) -> None:
    more = str(write_jsonl(tmp_path / "more.jsonl", [*sums(10, seed=1), LONG, LONG]))
    held = str(write_jsonl(tmp_path / "held.jsonl", sums(5, seed=2)))
    text = str(write_jsonl(tmp_path / "text.jsonl", [{"text": "Once upon a time. " * 50}]))
    report = look(
        tiny_model,
        tmp_path,
        {
            "train": [{"path": good}, {"path": more}],
            "eval": [{"path": held, "name": "held"}],
            "test": [{"path": held, "name": "final"}],
            "general": [{"path": text, "name": "tales"}],
        },
    )
    assert complaints(report) == {}
    assert report.train_samples == 30
    assert report.too_long == {more: 2}
    assert (report.eval_samples, report.test_samples) == ({"held": 5}, {"final": 5})
    assert report.general_samples["tales"] > 1  # cut, not left out
    assert 0 < report.train_targets < report.train_tokens
    assert report.mean_length == round(report.train_tokens / 30, 1) < report.longest <= 128
    assert report.parameters > 1000
    assert json.loads(json.dumps(report.asdict()))["train_targets"] == report.train_targets


def test_all_mistakes_are_told_at_once(tiny_model: Path, tmp_path: Path, good: str) -> None:
    broken = str(write_jsonl(tmp_path / "broken.jsonl", [sums(1)[0], "{"]))
    empty = str(write_jsonl(tmp_path / "empty.jsonl", []))
    silent = str(write_jsonl(tmp_path / "silent.jsonl", [{"messages": LONG["messages"][:1]}]))
    report = look(
        tiny_model,
        tmp_path,
        {
            "train": [{"path": good}, {"path": broken}, {"path": "nowhere.jsonl"}],
            "eval": [{"path": empty, "name": "a"}, {"path": silent, "name": "b"}],
            "general": [{"path": good, "split": "x", "name": "c"}],
        },
        lm_eval={"tasks": ["arc_chalenge"]},
    )
    found = complaints(report)
    assert f"{broken}, line 2: not valid JSON" in found["/data/train/1/path"]
    assert "nowhere.jsonl: no such file; check the path" in found["/data/train/2/path"]
    assert f"{empty}: is empty" in found["/data/eval/0/path"]
    assert f"{silent}, line 1: has no assistant turn" in found["/data/eval/1/path"]
    assert "is a file, which has no split" in found["/data/general/0/path"]
    assert "arc_chalenge" in found["/lm_eval/tasks/0"]
    assert len(found) == 6


def test_a_set_without_anything_that_fits_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "long.jsonl", [LONG] * 3))
    found = complaints(look(tiny_model, tmp_path, {"train": [{"path": path}]}))
    assert "all 3 samples are longer than max_length = 128 tokens" in found["/data/train/0/path"]


def test_a_held_out_set_needs_answers_to_compare(
    tiny_model: Path, tmp_path: Path, good: str
) -> None:
    text = str(write_jsonl(tmp_path / "text.jsonl", [{"text": "Once upon a time."}]))
    data = {"train": [{"path": good}], "eval": [{"path": text, "name": "tales"}]}
    message = complaints(look(tiny_model, tmp_path, data))["/data/eval/0/path"]
    assert "1 of 1 samples have no question and answer" in message
    assert "list the set under data.general, or set exact_match: false" in message
    assert complaints(look(tiny_model, tmp_path, data, exact_match=False)) == {}


def test_an_extractor_that_finds_nothing_in_the_references_is_refused(
    tiny_model: Path, tmp_path: Path, good: str
) -> None:
    eval_set = {"path": good, "name": "sums", "extract": {"kind": "choice"}}
    data = {"train": [{"path": good}], "eval": [eval_set]}
    message = complaints(look(tiny_model, tmp_path, data))["/data/eval/0/extract"]
    assert "extract finds no letter in any of the first 20 reference answers" in message
    assert complaints(look(tiny_model, tmp_path, data, exact_match=False)) == {}
    eval_set["extract"] = {"kind": "last_number"}
    assert complaints(look(tiny_model, tmp_path, data)) == {}


def test_sizes_that_do_not_go_together_are_told(
    tiny_model: Path, tmp_path: Path, good: str
) -> None:
    data = {"train": [{"path": good}]}
    found = complaints(look(tiny_model, tmp_path, data, effective_batch_size=21))
    assert "only 20 usable training samples; set it to 20" in found["/effective_batch_size"]
    found = complaints(look(tiny_model, tmp_path, data, max_tokens_per_microbatch=16))
    assert "raise it, or lower data.max_length" in found["/max_tokens_per_microbatch"]
    assert complaints(look(tiny_model, tmp_path, data, max_tokens_per_microbatch="auto")) == {}
    half = {"train": [{"path": good, "weight": 0.5}]}
    found = complaints(look(tiny_model, tmp_path, half, effective_batch_size=11))
    assert "(10 in an epoch, by their weights); set it to 10" in found["/effective_batch_size"]
    nothing = {"train": [{"path": good}, {"path": good, "weight": 0.001}]}
    found = complaints(look(tiny_model, tmp_path, nothing))
    assert "none of them would be met" in found["/data/train/1/weight"]


def test_a_run_that_trains_nothing_has_no_sizes(
    tiny_model: Path, tmp_path: Path, good: str
) -> None:
    config = make_config(
        tiny_model, tmp_path, {"train": [{"path": good}]}, effective_batch_size=500, max_samples=0
    )
    assert size_problems(config, 20, 10_000) == []


def test_without_a_model_the_files_are_still_looked_for(tmp_path: Path, good: str) -> None:
    found = complaints(
        look(tmp_path / "none", tmp_path, {"train": [{"path": good}, {"path": "gone.jsonl"}]})
    )
    assert "does not exist" in found["/model"]
    assert "no such file" in found["/data/train/1/path"]
    assert "/data/train/0/path" not in found


def test_a_template_that_cannot_be_used_is_blamed(
    tiny_model: Path, tmp_path: Path, good: str
) -> None:
    template = tmp_path / "bad.jinja"
    template.write_text("{{ raise_exception('only French') }}")
    found = complaints(
        look(tiny_model, tmp_path, {"train": [{"path": good}], "chat_template": str(template)})
    )
    message = found["/data/train/0/path"]
    assert "good.jsonl, line 1: the chat template refuses this conversation: only French" in message
    assert "set data.chat_template to another template" in message


def test_checking_imports_no_torch(tiny_model: Path, tmp_path: Path, good: str) -> None:
    """So that mistakes are told within a second."""
    config = make_config(tiny_model, tmp_path, {"train": [{"path": good}]})
    code = (
        "import sys; from trainer.check import check; from trainer.config import TrainConfig; "
        f"print(check(TrainConfig.model_validate_json({config.model_dump_json()!r})).ok, "
        "[m for m in ('torch', 'deepspeed', 'datasets', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True []", done.stderr
