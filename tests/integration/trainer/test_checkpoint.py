"""Checkpoints: whole or absent whatever happens, damaged ones noticed, the best one kept."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import checkpoint
from trainer.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("process_group")


def write(directory: Path, step: int, **options: Any) -> Path:
    shard = {
        "spans": torch.tensor([[0, 4], [6, 2]]),
        "master": torch.full((6,), float(step)),
        "exp_avg": torch.arange(6.0),
        "step": torch.tensor(float(step)),
    }
    state = {"step": step, "samples": 10 * step}
    return Path(checkpoint.save(directory, shard, state, **options).path)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10):
        write(tmp_path, step, keep=3)
    assert names(tmp_path) == ["step-10", "step-2", "step-9"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-10"
    assert checkpoint.read_state(tmp_path / "step-9") == {"step": 9, "samples": 90}


def test_the_best_is_kept_besides_until_there_is_a_better_one(tmp_path: Path) -> None:
    assert checkpoint.best(tmp_path) is None
    for step in range(1, 7):
        write(tmp_path, step, keep=1, best=step in (2, 5))
        assert checkpoint.best(tmp_path) == (
            None if step == 1 else tmp_path / ("step-2" if step < 5 else "step-5")
        )
    assert names(tmp_path) == ["best", "step-5", "step-6"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-6"


def test_the_runs_folder_will_do_for_its_checkpoint_folder(tmp_path: Path) -> None:
    made = write(tmp_path / "checkpoints", 3, best=True)
    assert checkpoint.latest(tmp_path) == checkpoint.best(tmp_path) == made


def cut_short(path: Path) -> None:
    file = path / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    file = path / "rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def drop_a_file(path: Path) -> None:
    (path / "rank-00000.safetensors").unlink()


def drop_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def garble_the_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("[]")


def change_the_state(path: Path) -> None:
    (path / "state.json").write_text('{"step": 3, "samples": 31}')


DAMAGES = [
    cut_short,
    flip_a_bit,
    drop_a_file,
    drop_the_manifest,
    garble_the_manifest,
    change_the_state,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_one_gives_way_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    before = write(tmp_path, 2, best=True)
    newest = write(tmp_path, 3)
    damage(newest)
    assert not checkpoint.is_whole(newest)
    assert checkpoint.latest(tmp_path) == checkpoint.latest(newest) == before
    damage(before)
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.best(tmp_path) is None


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    flip_a_bit(write(tmp_path, 3))
    assert checkpoint.is_whole(write(tmp_path, 3))
    assert names(tmp_path) == ["step-3"]


def test_killed_at_any_moment_it_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """A child is killed at the n-th operation on files, for each n until it survives."""
    outcomes: list[str] = []
    for number in range(1, 100):
        directory = tmp_path / str(number)
        write(directory, 1, keep=2)
        write(directory, 2, keep=2, best=True)
        survived = killed_at(number, lambda there=directory: write(there, 3, keep=1, best=True))
        found = checkpoint.latest(directory)
        assert found is not None
        assert checkpoint.best(directory) is not None
        outcomes.append(found.name)
        # What is left over doesn't disturb the next one.
        write(directory, 4, keep=1, best=True)
        assert names(directory) == ["best", "step-4"]
        if survived:
            break
    else:
        pytest.fail("it never survived")
    assert outcomes == sorted(outcomes)
    assert {"step-2", "step-3"} == set(outcomes)
    assert len(outcomes) > 10


def killed_at(number: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child that dies at its n-th file operation; whether it got to the end."""
    child = os.fork()
    if child == 0:
        left = number

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            return call

        for module, name in ((os, "fsync"), (os, "rename"), (os, "unlink"), (shutil, "rmtree")):
            setattr(module, name, counted(getattr(module, name)))
        checkpoint.save_file = counted(checkpoint.save_file)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


def test_a_full_disk_leaves_those_before_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"step-2 could not be written.*No space left"):
        write(tmp_path, 2)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-1"


# --- reading ----------------------------------------------------------------------------------


@pytest.fixture
def of_two_ranks(tmp_path: Path) -> Path:
    """Weights 0 … 9; as ZeRO 3 leaves them, each rank has some of each parameter."""
    from safetensors.torch import save_file

    whole = torch.arange(10.0)
    for rank, spans in enumerate([[(0, 3), (6, 2)], [(3, 3), (8, 2)]]):
        pieces = [whole[begin : begin + length] for begin, length in spans]
        shard = {
            "spans": torch.tensor(spans),
            "master": torch.cat(pieces),
            "exp_avg": -torch.cat(pieces),
            "step": torch.tensor(7.0),
        }
        save_file(shard, tmp_path / f"rank-{rank:05d}.safetensors")
    return tmp_path


def test_any_piece_can_be_read_across_shards(of_two_ranks: Path) -> None:
    with checkpoint.reader(of_two_ranks) as state:
        assert state.size == 10
        assert sorted(state.parts) == ["exp_avg", "master"]
        assert state.singles() == {"step": torch.tensor(7.0)}
        for begin in range(10):
            for end in range(begin + 1, 11):
                wanted = torch.arange(float(begin), float(end))
                assert torch.equal(state.read("master", begin, end), wanted)
                assert torch.equal(state.read("exp_avg", begin, end), -wanted)


def test_weights_that_no_shard_has_are_missed(of_two_ranks: Path) -> None:
    (of_two_ranks / "rank-00001.safetensors").unlink()
    with checkpoint.reader(of_two_ranks) as state:
        assert state.read("master", 6, 8).tolist() == [6, 7]
        with pytest.raises(CheckpointError, match="no master of weight 3"):
            state.read("master", 2, 7)


def test_a_reader_closes_its_files(of_two_ranks: Path) -> None:
    def open_files() -> list[str]:
        maps = Path("/proc/self/maps").read_text()
        return [line for line in maps.splitlines() if str(of_two_ranks) in line]

    with checkpoint.reader(of_two_ranks) as state:
        state.read("master", 0, 10)
        assert open_files()
    assert not open_files()
