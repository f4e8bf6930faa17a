"""Each optimizer trains, resumes exactly, and is the one that it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tests.fixtures.engine_runs import configure, opened, save, train
from tests.fixtures.tiny_model import make_tiny_model
from trainer import checkpoint, optimizers
from trainer.config import Optimizer
from trainer.errors import ConfigError

pytestmark = [pytest.mark.deepspeed, pytest.mark.usefixtures("process_group")]

LAST = 5
"""Steps of a run that is resumed after two: the optimizer's state shows from the fourth on."""

NAMES = get_args(Optimizer)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize(("stage", "precision"), [(1, "bf16"), (3, "fp32")])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_resumed_exactly(
    tiny_model: Path, tmp_path: Path, name: str, stage: int, precision: str
) -> None:
    config = configure(
        tiny_model, optimizer=name, zero_stage=stage, precision=precision, weight_decay=0.1
    )
    with opened(config) as running:
        whole = train(
            running,
            last=LAST,
            after=lambda step: step == 1 and save(running, tmp_path, 2),
        )
    assert len(set(whole.losses)) == LAST
    with opened(config) as running:
        running.load(checkpoint.reader(tmp_path / "step-2"))
        rest = train(running, first=2, last=LAST)
    # The scales of moments in 8 bits may round once more.
    rel = 1e-6 if name == "adamw_8bit" else 0.0
    assert rest.losses == pytest.approx(whole.losses[2:], rel=rel, abs=0.0)
    assert rest.norms == pytest.approx(whole.norms[2:], rel=rel, abs=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_it_moves_as_its_reference_does(name: str) -> None:
    torch.manual_seed(0)
    mine, its = (torch.nn.Parameter(torch.linspace(-1, 1, 8192)) for _ in range(2))
    config = configure(
        Path("none"), optimizer=name, weight_decay=0.1, adam_betas=(0.8, 0.9), learning_rate=0.01
    )
    optimizer, reference = optimizers.build(config, [mine]), REFERENCES[name]([its])
    for _ in range(3):
        mine.grad = torch.randn(8192)
        its.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    # 8 bits round the moments.
    tolerance = 2e-2 if name == "adamw_8bit" else 1e-6
    assert torch.allclose(mine, its, atol=tolerance, rtol=1e-5)
    assert not torch.allclose(mine, torch.linspace(-1, 1, 8192), atol=1e-3)


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv 2302.06675."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            m = self.state[p].setdefault("m", torch.zeros_like(p))
            update = (0.8 * m + 0.2 * p.grad).sign()
            m.mul_(0.9).add_(0.1 * p.grad)
            p.sub_(0.01 * (update + 0.1 * p))


ADAM: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-8, "weight_decay": 0.1}
REFERENCES: dict[str, Any] = {
    "adamw": lambda p: torch.optim.AdamW(p, **ADAM),
    "adamw_8bit": lambda p: torch.optim.AdamW(p, **ADAM),
    "adam": lambda p: torch.optim.Adam(p, **ADAM),
    "nadam": lambda p: torch.optim.NAdam(p, decoupled_weight_decay=True, **ADAM),
    "radam": lambda p: torch.optim.RAdam(p, decoupled_weight_decay=True, **ADAM),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.8, weight_decay=0.1),
    "lion": Lion,
}


def test_moments_in_8_bits_survive_being_cut_elsewhere() -> None:
    config = configure(Path("none"), optimizer="adamw_8bit")
    flat = torch.nn.Parameter(torch.randn(8192))
    optimizer = optimizers.build(config, [flat])
    for _ in range(3):
        flat.grad = torch.randn(8192)
        optimizer.step()
    each, single = optimizers.state_of(optimizer, flat)
    assert {tensor.dtype for tensor in each.values()} == {torch.float32}

    cut = 1000  # in the middle of a block
    for low, high in ((0, 8192 - cut), (8192 - cut, 8192)):
        piece = torch.nn.Parameter(flat.detach()[low:high].clone())
        other = optimizers.build(config, [piece])
        optimizers.restore(other, piece, {n: v[low:high] for n, v in each.items()}, single)
        found, counts = optimizers.state_of(other, piece)
        assert counts == single
        for name, value in found.items():
            wanted = each[name][low:high]
            assert (value - wanted).abs().max() <= 0.02 * wanted.abs().max()


def test_without_bitsandbytes_it_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    flat = torch.nn.Parameter(torch.zeros(8))
    with pytest.raises(ConfigError, match="set optimizer to adamw") as refused:
        optimizers.build(configure(Path("none"), optimizer="adamw_8bit"), [flat])
    assert refused.value.pointer == "/optimizer"
