"""The engine on one rank: calling a step off, statistics, memory, weights for evaluation."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.fixtures.engine_runs import STEPS, Curve, batches, configure, opened, targets, train
from tests.fixtures.tiny_model import make_tiny_model
from trainer.attention import attending
from trainer.errors import ConfigError
from trainer.model import compile_layers

pytestmark = [pytest.mark.deepspeed, pytest.mark.usefixtures("process_group")]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


AT_STAGES_0_AND_1 = [
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 1, "precision": "bf16"},
    {"zero_stage": 1, "offload": "optimizer"},
    {"zero_stage": 1, "offload": "optimizer", "precision": "bf16"},
]
AT_STAGES_2_AND_3 = [
    {"zero_stage": stage, "precision": precision, "offload": offload}
    for stage in (2, 3)
    for precision in ("fp32", "bf16")
    for offload in ("none", "optimizer")
]


def named(fields: dict[str, Any]) -> str:
    return "-".join(str(value) for value in fields.values())


def accumulate(running: Any, step: int, number: int = 0) -> None:
    """One micro-batch of a step that will not be finished."""
    batch = batches(step)[0][number]
    with attending(batch.segments):
        running.backward(running.forward(batch), targets(step))


@pytest.mark.parametrize("fields", AT_STAGES_0_AND_1, ids=named)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_after_a_failure_a_step_can_be_made_again_and_is_the_same(
    tiny_model: Path, fields: dict[str, Any], where: str
) -> None:
    config = configure(tiny_model, **fields)
    with opened(config) as running:
        undisturbed = train(running)
    with opened(config) as running:
        curve = train(running, last=1)
        accumulate(running, 1)
        with failing(running.model, where), pytest.raises(RuntimeError, match="out of memory"):
            accumulate(running, 1, 1)
        running.discard()
        curve = train(running, curve, first=1)
    assert curve == undisturbed


@contextmanager
def failing(loss: nn.Module, where: str) -> Iterator[None]:
    """The first decoder layer fails, after the last one has got its gradients in `backward`."""
    layer: Any = loss.get_submodule("model.model.layers.0")

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    def watch(_module: Any, _inputs: Any, output: Any) -> None:
        (output if isinstance(output, torch.Tensor) else output[0]).register_hook(fail)

    handle = (
        layer.register_forward_pre_hook(fail)
        if where == "forward"
        else layer.register_forward_hook(watch)
    )
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("fields", AT_STAGES_2_AND_3, ids=named)
def test_between_micro_batches_a_step_can_be_called_off(
    tiny_model: Path, fields: dict[str, Any]
) -> None:
    config = configure(tiny_model, **fields)
    with opened(config) as running:
        undisturbed = train(running)
    with opened(config) as running:
        accumulate(running, 7)
        accumulate(running, 7, 1)
        running.discard()
        curve = train(running)
    assert curve == undisturbed


@pytest.mark.parametrize("fields", AT_STAGES_0_AND_1, ids=named)
def test_the_square_of_the_accumulated_gradient_is_known_before_the_step(
    tiny_model: Path, fields: dict[str, Any]
) -> None:
    squares: list[float] = []
    with opened(configure(tiny_model, max_grad_norm=1e-3, **fields)) as running:
        assert running.gradient_square() == 0.0
        for number in range(len(batches(0)[0])):
            accumulate(running, 0, number)
            squares.append(running.gradient_square())
        norm = running.step(0.0)
        assert running.gradient_square() == 0.0
    assert len(set(squares)) == len(squares)
    assert squares[-1] == pytest.approx(norm**2, rel=1e-5)  # of one rank, before clipping


def test_where_gradients_are_reduced_as_they_come_their_square_is_not_known(
    tiny_model: Path,
) -> None:
    for stage in (2, 3):
        with opened(configure(tiny_model, zero_stage=stage)) as running:
            accumulate(running, 0)
            assert running.gradient_square() is None


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_reset_optimizer_goes_on_as_a_new_one_with_these_weights(
    tiny_model: Path, stage: int, precision: str
) -> None:
    config = configure(tiny_model, zero_stage=stage, precision=precision)
    with opened(config) as running:
        train(running)
        running.reset_optimizer()
        weights = running.shard()
        assert set(weights) == {"spans", "master"}
        kept = {name: tensor.clone() for name, tensor in weights.items()}
        after = train(running)
    with opened(config) as fresh:
        fresh.load(Shard(kept))
        assert train(fresh) == after


class Shard:
    """What one rank saved, as a reader."""

    def __init__(self, shard: dict[str, torch.Tensor]) -> None:
        self._shard = shard
        self.size = len(shard["master"])
        self.parts = [name for name in shard if name != "spans" and shard[name].dim()]

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, part: str, begin: int, end: int) -> torch.Tensor:
        whole = torch.empty(self.size)
        at = 0
        for low, length in self._shard["spans"].tolist():
            whole[low : low + length] = self._shard[part][at : at + length]
            at += length
        return whole[begin:end]

    def singles(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self._shard.items() if not value.dim()}


@pytest.mark.parametrize(
    "fields",
    [
        {"zero_stage": 1},
        {"zero_stage": 1, "precision": "bf16"},
        {"zero_stage": 2},
        {"zero_stage": 3, "offload": "all"},
        {"zero_stage": 3, "method": "lora"},
        {"zero_stage": 1, "method": "qlora"},
    ],
    ids=named,
)
def test_runs_in_a_row_leave_nothing_behind(tiny_model: Path, fields: dict[str, Any]) -> None:
    config = configure(tiny_model, **fields)
    left: list[tuple[int, int]] = []
    for _ in range(5):
        with opened(config) as running:
            train(running, last=1)
            with running.whole_weights(), torch.no_grad():
                running.model(batches(0)[0][0])
            running.weights()
        left.append(in_use())
    assert len(set(left[1:])) == 1
    assert torch.nn.functional.linear.__name__ == "linear"


def in_use() -> tuple[int, int]:
    """Tensors that are alive, and bytes behind them; on a GPU, bytes that are allocated."""
    gc.collect()
    if torch.cuda.is_available():
        return 0, torch.cuda.memory_allocated()
    alive = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
    return len(alive), sum(storages.values())


def test_whole_weights_are_the_trained_ones_and_training_goes_on(tiny_model: Path) -> None:
    with opened(configure(tiny_model)) as running:
        expected = train(running)
        with torch.no_grad():
            wanted = float(running.model(batches(9)[0][0]))
        expected = train(running, expected, first=STEPS, last=STEPS + 2)
    with opened(configure(tiny_model, zero_stage=3)) as running:
        found = train(running)
        for mode in (torch.inference_mode, torch.no_grad):
            with running.whole_weights(), mode():
                assert float(running.model(batches(9)[0][0])) == pytest.approx(wanted, rel=1e-5)
                generated = running.model.model.generate(
                    torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False
                )
                assert generated.shape[1] > 3
        found = train(running, found, first=STEPS, last=STEPS + 2)
    assert_close(found, expected)


def test_frozen_weights_are_not_trained_and_keep_their_precision(tiny_model: Path) -> None:
    for stage in (1, 3):
        with opened(configure(tiny_model, method="lora", zero_stage=stage)) as running:
            before = running.weights()
            train(running)
            after = running.weights()
            assert running.parameters == sum(v.numel() for k, v in before.items() if "lora" in k)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {name for name in before if "lora_" in name}


def test_compiled_layers_make_the_same_steps_and_are_compiled_once(tiny_model: Path) -> None:
    """Without code generation, which is torch's and takes a minute."""
    with opened(configure(tiny_model)) as running:
        expected = train(running)
    torch._dynamo.reset()
    with opened(configure(tiny_model)) as running:
        assert compile_layers(running.model.model, backend="aot_eager") == 2
        found = train(running, last=1)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found = train(running, found, first=1)
    assert_close(found, expected)
    assert 0 < graphs == torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_without_a_compiler_compiling_is_refused(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = configure(tiny_model, compile=True)
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler") as refused, opened(config):
        pass
    assert refused.value.pointer == "/compile"


def test_under_zero_3_compiling_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="compile doesn't work with zero_stage: 3"):
        configure(tiny_model, compile=True, zero_stage=3)


def assert_close(one: Curve, other: Curve) -> None:
    assert one.losses == pytest.approx(other.losses, rel=1e-5)
    assert one.norms == pytest.approx(other.norms, rel=3e-5)
