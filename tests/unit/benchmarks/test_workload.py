from pathlib import Path

import pytest

from benchmarks.workload import make_workload, prepare
from trainer.data import load_data
from trainer.model import check_model, count_parameters, load_tokenizer


@pytest.mark.deepspeed
@pytest.mark.timeout(200)
def test_the_workload_is_what_it_says_and_trains(tmp_path: Path) -> None:
    workload = make_workload(tmp_path, steps=2)
    config = workload.config(0)
    folder = check_model(config.model)
    assert 1_000_000 < count_parameters(folder) < 2_000_000
    prepare(workload, timeout=180)
    data = load_data(config, folder, load_tokenizer(folder))
    assert len(data.train) == config.max_samples == 2 * config.effective_batch_size
    assert any((tmp_path / "cache").iterdir())


def test_trials_of_a_workload_differ_as_in_a_sweep(tmp_path: Path) -> None:
    workload = make_workload(tmp_path, steps=1)
    assert len({workload.config(trial).learning_rate for trial in range(8)}) == 8
