"""The demo's sweep file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from winnow.spec import Choice, LogUniform, SweepSpec


@pytest.fixture(scope="module")
def demo(examples: Path) -> SweepSpec:
    return SweepSpec.model_validate(yaml.safe_load((examples / "demo.yaml").read_text()))


def test_its_files_are_there_beside_it(demo: SweepSpec, examples: Path) -> None:
    files = [f.path for f in (*demo.data.train, *demo.data.eval, *demo.data.test)]
    assert len(files) == 9
    assert all((examples / path).is_file() for path in files)
    assert (examples / demo.model / "model.safetensors").is_file()


def test_training_eval_and_test_files_are_never_mixed(demo: SweepSpec) -> None:
    assert all(".train." in f.path for f in demo.data.train)
    assert all(".eval." in f.path for f in demo.data.eval)
    assert all(".test." in f.path for f in demo.data.test)


def test_it_searches_rates_over_decades_and_batches_over_a_factor_of_sixty(
    demo: SweepSpec,
) -> None:
    rate, batch = demo.space.learning_rate, demo.space.effective_batch_size
    assert isinstance(rate, LogUniform)
    assert isinstance(batch, Choice)
    assert rate.log_uniform[1] / rate.log_uniform[0] >= 1e3
    sizes = [b for b in batch.choice if isinstance(b, int)]
    assert max(sizes) / min(sizes) >= 60
    assert (demo.search.trials or 0) >= 16


def test_the_largest_batch_still_takes_sixteen_steps(demo: SweepSpec) -> None:
    batch, samples = demo.space.effective_batch_size, demo.training.max_samples
    assert isinstance(batch, Choice)
    assert samples is not None
    assert all(isinstance(b, int) and samples // b >= 16 for b in batch.choice)
