"""The check of data and model runs in another process; whatever that does, the answer is clear."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from orchestrator.admission.preflight import Preflight, preflight
from winnow.spec import SweepSpec


def sweep(**changes: object) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "x",
            "model": "/m",
            "data": {"train": [{"path": "/t"}], "eval": [{"path": "/e"}]},
            "space": {"learning_rate": 1e-3, "effective_batch_size": {"choice": [8, 64, 16]}},
            "search": {"trials": 1},
        }
        | changes
    )


def run(code: str, spec: SweepSpec | None = None, timeout: float = 20.0) -> Preflight:
    """The preflight with a program in the trainer's place."""
    command = (sys.executable, "-c", code)
    return preflight(spec or sweep(), cache_dir="/cache", timeout=timeout, command=command)


def test_the_run_with_the_largest_effective_batch_is_checked() -> None:
    code = (
        "import json, sys; c = json.load(sys.stdin); "
        "print(json.dumps({'ok': True, 'errors': [], 'seen': c['effective_batch_size'], "
        "'cache': c['data']['cache_dir']}))"
    )
    assert run(code) == Preflight(facts={"seen": 64, "cache": "/cache"})


def test_a_fault_is_told_at_the_field_of_the_sweep_that_set_it() -> None:
    pointers = ["/effective_batch_size", "/learning_rate", "/max_tokens_per_microbatch", "/model"]
    errors = [{"pointer": p, "message": "bad"} for p in [*pointers, "/data/train/0/path"]]
    code = f"import json; print(json.dumps({{'ok': False, 'errors': {errors!r}}})); exit(3)"
    assert [pointer for pointer, _ in run(code).errors] == [
        "/space/effective_batch_size/choice/1",
        "/space/learning_rate",
        "/training/max_tokens_per_microbatch",
        "/model",
        "/data/train/0/path",
    ]


def test_a_batch_from_a_recipe_is_told_at_the_recipe() -> None:
    code = (
        'print(\'{"ok": false, "errors": '
        '[{"pointer": "/effective_batch_size", "message": "bad"}]}\')'
    )
    spec = sweep(space={"learning_rate": 1e-3}, recipe="tulu")
    assert run(code, spec).errors == (("/recipe", "bad"),)


def test_what_libraries_print_before_the_answer_is_passed_over() -> None:
    code = "print('loading {1}'); print('{\"ok\": true, \"train_samples\": 3}'); print('bye')"
    assert run(code).facts == {"train_samples": 3}


def test_a_crash_is_told_by_its_last_line() -> None:
    ((pointer, message),) = run("raise MemoryError('too big')").errors
    assert pointer == ""
    assert "could not be checked: MemoryError: too big" in message


def test_a_crash_tells_no_secret() -> None:
    ((_, message),) = run("raise ValueError('401 for hf_abcdefghijklmnopqrst')").errors
    assert "401 for [secret]" in message


def test_a_silent_end_is_told_by_its_status() -> None:
    ((_, message),) = run("import os; os.abort()").errors
    assert "exit status -6" in message


def test_a_check_that_hangs_is_ended_with_all_that_it_started() -> None:
    code = (
        "import subprocess, sys, time; "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
    )
    ((pointer, message),) = run(code, timeout=1.0).errors
    assert pointer == "/data"
    assert "more than 1 s" in message


def test_a_model_that_takes_long_to_download_is_to_be_fetched_first() -> None:
    ((pointer, message),) = run(
        "import time; time.sleep(600)", sweep(model="org/large"), timeout=1.0
    ).errors
    assert pointer == "/model"
    assert "`winnow model fetch org/large`" in message


@pytest.mark.parametrize("text", ["[]", "null", "{}", "nonsense"])
def test_an_answer_that_is_none_is_never_taken_for_a_pass(text: str) -> None:
    assert run(f"print({text!r})").errors


def seen_arguments(spec: SweepSpec, **options: Any) -> list[str]:
    """What the check is told about the machine."""
    code = "import json, sys; print(json.dumps({'ok': True, 'seen': sys.argv[1:]}))"
    command = (sys.executable, "-c", code)
    return preflight(spec, cache_dir="/c", command=command, **options).facts["seen"]


def test_memory_is_judged_by_what_a_trial_gets_and_only_where_it_runs() -> None:
    two = sweep(resources={"workers_per_trial": 2})
    eight = sweep(resources={"gpus_per_trial": 8})
    assert seen_arguments(two) == ["--ranks", "2", "--device", "cpu"]
    assert seen_arguments(eight) == ["--ranks", "8", "--device", "gpu"]
    assert seen_arguments(eight, here=False) == ["--ranks", "8", "--device", "elsewhere"]


def test_the_check_is_started_without_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "WINNOW_DATABASE_URL": "postgresql://u:madeup-password@db/winnow",
        "WINNOW_HOME": "/home",
        "PGHOST": "db",
        "AWS_SECRET_ACCESS_KEY": "madeup-key",
        "OTHER_API_KEY": "madeup-key",
        "CACHE_ADDRESS": "redis://:madeup-password@cache",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LANG", "C.UTF-8")
    code = "import json, os; print(json.dumps({'ok': True, 'seen': dict(os.environ)}))"
    seen = run(code).facts["seen"]
    assert seen["LANG"] == "C.UTF-8"
    assert not set(seen) & set(own)
    assert "madeup" not in str(seen)
