"""Runs and encoders of strangers: what they bring along is never run, and files outside of the folder are not read."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cotune.checksums import checksums, refuse_malformed, sealed
from cotune.encoders.resolve import resolve_image, resolve_text
from cotune.errors import CotuneError, EncoderError, RunError
from cotune.run import load_run, save_run
from cotune.run_settings import CONFIG
from explained import random_run
from tiny import Zoo


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.mark,)


def torch_pickle(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Payload(mark), buffer)
    return buffer.getvalue()


def reseal(run: Path, change: Callable[[dict[str, Any]], None] = lambda settings: None) -> None:
    """Make checksums right again, as who hands over a run can do as well."""
    settings = json.loads((run / CONFIG).read_text())
    settings.pop("checksum")
    there = [name for name in settings["checksums"] if (run / name).is_file()]
    settings["checksums"] = checksums(run, there)
    change(settings)
    (run / CONFIG).write_text(json.dumps(sealed(settings)))


@pytest.fixture(scope="module")
def whole(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrusted") / "run"
    save_run(folder, random_run(zoo, text="bert", image="vit"))
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_the_payload_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.safetensors", "text_encoder/pytorch_model.bin"]
)
def test_a_pickle_in_a_run_is_not_opened(run: Path, tmp_path: Path, name: str, keep: bool) -> None:
    if not keep:
        (run / "model.safetensors").unlink()
    (run / name).write_bytes(torch_pickle(tmp_path / "ran"))
    reseal(run)
    if keep and name != "model.safetensors":
        load_run(run)
    else:
        with pytest.raises(RunError, match="cannot be read"):
            load_run(run)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["posts_summary.safetensors", "seen.safetensors", "metrics.json"])
def test_a_pickle_among_the_files_that_inform_is_not_opened(run: Path, tmp_path: Path, name: str) -> None:
    (run / name).write_bytes(torch_pickle(tmp_path / "ran"))
    reseal(run, lambda settings: settings["checksums"].update(checksums(run, [name])))
    assert any(name in note for note in load_run(run).notes)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("text_encoder/config.json", {"AutoConfig": "own.Own", "AutoModel": "own.Own"}),
        ("text_encoder/tokenizer_config.json", {"AutoTokenizer": ["own.Own", "own.Own"]}),
        ("image_encoder/config.json", {"AutoConfig": "own.Own", "AutoModel": "own.Own"}),
        ("image_encoder/preprocessor_config.json", {"AutoImageProcessor": "own.Own", "AutoProcessor": "own.Own"}),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_run_is_not_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, own: dict[str, Any], known: bool
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is asked"))
    settings = json.loads((run / file).read_text()) | {"auto_map": own}
    if not known:
        settings |= {"model_type": "own_thing", "tokenizer_class": "Own", "image_processor_type": "Own"}
    (run / file).write_text(json.dumps(settings))
    (run / file).with_name("own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Own: pass\n")
    reseal(run)
    try:
        load_run(run)
    except CotuneError as error:
        assert "Own" not in type(error).__name__
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["bert", "vit", "timm-resnet"])
def test_an_encoder_whose_weights_are_a_pickle_is_refused(zoo: Zoo, tmp_path: Path, kind: str) -> None:
    folder = zoo.copy(kind, tmp_path / "own")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(torch_pickle(tmp_path / "ran"))
    with pytest.raises(EncoderError, match="safetensors"):
        (resolve_text if kind == "bert" else resolve_image)(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../posts.csv", "/etc/passwd", "text_encoder/../../x"])
def test_checksums_name_no_file_outside_of_the_run(run: Path, name: str) -> None:
    entry = {"bytes": 1, "sha256": "0" * 64}
    with pytest.raises(ValueError, match="outside of the folder"):
        refuse_malformed({name: entry})
    reseal(run, lambda settings: settings["checksums"].update({name: entry}))
    with pytest.raises(RunError, match="outside of the folder"):
        load_run(run)


@pytest.mark.parametrize(
    "harm",
    [
        {"checksums": []},
        {"checksums": {"labels.json": {"bytes": 3}}},
        {"checksums": {"labels.json": None}},
        {"format": None},
        {"format": "2"},
    ],
)
def test_a_sealed_run_of_another_form_is_named(run: Path, harm: dict[str, Any]) -> None:
    reseal(run, lambda settings: settings.update(harm))
    with pytest.raises(RunError, match="damaged|newer form"):
        load_run(run)


def test_a_run_that_nests_without_end_is_named(run: Path) -> None:
    (run / CONFIG).write_text("[" * 100_000)
    with pytest.raises(RunError, match=r"config\.json is damaged .*nested too deeply"):
        load_run(run)
