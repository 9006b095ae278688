from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cotune.errors import CotuneError, RunError
from cotune.training.checkpoint import Checkpoint, to_device
from cotune.training.stages import StageState

KEY = {"settings": {"epochs": 3, "lr_text": 1e-4}, "data": "abc"}


def state() -> StageState:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW([{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}], lr=3e-4)
    layer(torch.randn(4, 3)).pow(2).sum().backward()
    optimizer.step()
    weights = {name: p.detach().clone() for name, p in layer.named_parameters()}
    return StageState(
        epoch=2,
        history=[{"stage": "joint", "epoch": 1, "train_loss": 0.1 + 0.2, "validation_auc": None}],
        best=-0.123456789012345,
        stale=1,
        weights=weights,
        best_weights={name: w + 1 for name, w in weights.items()},
        average={name: w.mT.contiguous().mT for name, w in weights.items() if w.ndim == 2},
        optimizer=optimizer.state_dict(),
        precision={"scale": 1024.0, "_growth_tracker": 3},
    )


def assert_same(one: StageState, two: StageState) -> None:
    for name in ("epoch", "history", "best", "stale", "finished", "precision"):
        assert getattr(one, name) == getattr(two, name)
    for part in ("weights", "best_weights", "average"):
        a, b = getattr(one, part), getattr(two, part)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    for number, slots in one.optimizer["state"].items():
        for slot, value in slots.items():
            assert torch.equal(value, two.optimizer["state"][number][slot])


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    before = state()
    done = {"probe": [{"stage": "probe", "epoch": 1}]}
    Checkpoint(tmp_path / "c", KEY).save("joint", before, done)
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    assert checkpoint.exists()
    stage, after, finished = checkpoint.load()
    assert (stage, finished) == ("joint", done)
    assert_same(before, after)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW([{"params": [layer.weight]}, {"params": [layer.bias]}])
    optimizer.load_state_dict(after.optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.01]
    assert [group["lr"] for group in optimizer.param_groups] == [3e-4, 3e-4]


def test_a_state_with_the_old_name_of_a_setting_is_resumed(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", {"settings": {"clip": 0.5}}).save("joint", state(), {})
    assert Checkpoint(tmp_path / "c", {"settings": {"max_grad_norm": 0.5}}).load()[0] == "joint"
    with pytest.raises(RunError, match=r"max-grad-norm \(0\.5, now 1\)"):
        Checkpoint(tmp_path / "c", {"settings": {"max_grad_norm": 1}}).load()


def test_no_pickle_only_tensors_and_json(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", KEY).save("joint", state(), {})
    state_file, tensors = sorted((tmp_path / "c").iterdir())
    assert state_file.name == "state.json"
    assert tensors.suffix == ".safetensors"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c"]
    json.loads((tmp_path / "c" / "state.json").read_text())


def test_a_state_before_any_progress(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    checkpoint.save("probe", StageState(), {})
    assert checkpoint.load()[1].best == float("-inf")


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", KEY).save("joint", state(), {})
    with pytest.raises(RunError, match=r"was begun with other data; resume with the same posts"):
        Checkpoint(tmp_path / "c", {**KEY, "data": "xyz"}).load()
    with pytest.raises(RunError, match=r"begun with other data, epochs \(3, now 7\);"):
        Checkpoint(tmp_path / "c", {"settings": {"epochs": 7, "lr_text": 1e-4}, "data": None}).load()
    with pytest.raises(RunError, match="other more"):
        Checkpoint(tmp_path / "c", {**KEY, "more": 1}).load()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"key": 3}', b"\xff"])
def test_a_damaged_state_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    checkpoint.save("joint", state(), {})
    (tmp_path / "c" / "state.json").write_bytes(content)
    with pytest.raises(RunError, match="cannot be read .*start again without --resume"):
        checkpoint.load()


def test_damaged_tensors_are_a_clear_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    checkpoint.save("joint", state(), {})
    (tensors,) = (tmp_path / "c").glob("*.safetensors")
    tensors.write_bytes(b"x" * 100)
    with pytest.raises(RunError, match="cannot be read"):
        checkpoint.load()
    tensors.unlink()
    with pytest.raises(RunError, match="cannot be read"):
        checkpoint.load()


def test_a_failed_save_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    before = state()
    checkpoint.save("joint", before, {})
    from cotune.training import checkpoint as module

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CotuneError, match="the disk is full"):
        checkpoint.save("joint", StageState(epoch=9), {})
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert_same(before, checkpoint.load()[1])


def test_a_process_killed_while_saving_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    before = state()
    checkpoint.save("joint", before, {})
    from cotune.training import checkpoint as module

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", killed)
        with pytest.raises(KilledError):
            checkpoint.save("joint", StageState(epoch=9), {})
    assert_same(before, Checkpoint(tmp_path / "c", KEY).load()[1])
    checkpoint.save("joint", before, {})
    assert len(list((tmp_path / "c").iterdir())) == 2  # what the killed one left is swept up


def test_removing(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    checkpoint.remove()
    checkpoint.save("joint", state(), {})
    checkpoint.remove()
    assert not checkpoint.exists()
    assert list(tmp_path.iterdir()) == []


def test_moving_to_a_device() -> None:
    moved = to_device(state(), torch.device("meta"))
    assert all(tensor.is_meta for tensor in [*moved.weights.values(), *moved.best_weights.values()])


def test_an_edited_state_is_a_clear_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    checkpoint.save("joint", state(), {})
    path = tmp_path / "c" / "state.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "epoch": 1}))
    with pytest.raises(RunError, match="cannot be read .state.json was changed"):
        checkpoint.load()
    path.write_text(json.dumps({key: value for key, value in said.items() if key not in ("checksum", "history")}))
    with pytest.raises(RunError, match="cannot be read .'history' is missing"):
        checkpoint.load()
    path.write_text(json.dumps({key: value for key, value in said.items() if key not in ("checksum", "files")}))
    assert checkpoint.load()[1].epoch == 2, "one of before there were checksums"


def test_a_changed_bit_of_the_tensors_is_a_clear_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", KEY)
    checkpoint.save("joint", state(), {})
    (tensors,) = (tmp_path / "c").glob("*.safetensors")
    data = bytearray(tensors.read_bytes())
    data[-2] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(RunError, match=r"tensors-.*safetensors was changed"):
        checkpoint.load()
