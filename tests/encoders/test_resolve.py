from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from cotune.encoders.image import HFImageEncoder, TimmEncoder
from cotune.encoders.resolve import hub_name, load_encoder_config, resolve_image, resolve_text
from cotune.encoders.text import TextEncoder
from cotune.errors import EncoderError
from network_guard import NetworkGuard
from tiny import TEXTS, Zoo, make_tokenizer


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client believe that there is a network; the guard refuses all the same."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)


@pytest.mark.usefixtures("online")
def test_local_folders_never_reach_out(zoo: Zoo, network: NetworkGuard) -> None:
    assert isinstance(zoo.text("roberta"), TextEncoder)
    assert isinstance(zoo.image("vit"), HFImageEncoder)
    assert isinstance(zoo.image("timm-vit"), TimmEncoder)
    assert network.attempts == []


@pytest.mark.usefixtures("online")
def test_what_a_run_saved_never_reaches_out(zoo: Zoo, tmp_path: Path, network: NetworkGuard) -> None:
    for kind in ("roberta", "vit", "timm-vit"):
        encoder = zoo.text(kind) if kind == "roberta" else zoo.image(kind)
        encoder.save_config(tmp_path / kind)
        load_encoder_config(tmp_path / kind)
    assert network.attempts == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bundled:all-MiniLM", r"no bundled text encoder 'all-MiniLM' \(did you mean 'all-MiniLM-L6-v2'\?\)"),
        ("bundled:efficientnet-lite0", "no bundled text encoder 'efficientnet-lite0'; there are: all-MiniLM-L6-v2"),
        ("all-MiniLM-L6-v2", "did you mean 'bundled:all-MiniLM-L6-v2'"),
        ("bert-base-uncased", "write hf:bert-base-uncased to take it from the hub"),
        ("./models/bert", r"there is no folder \./models/bert"),
        ("timm:resnet50", "timm has image models only"),
        ("hf:", "names no model"),
        ("", "no source prefix"),
    ],
)
def test_wrong_text_names(spec: str, words: str) -> None:
    with pytest.raises(EncoderError, match=words) as fault:
        resolve_text(spec)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bundled:efficientnet-lite9", r"did you mean 'efficientnet-lite"),
        ("bundled:all-MiniLM-L6-v2", "no bundled image encoder"),
        ("efficientnet-lite0", "did you mean 'bundled:efficientnet-lite0'"),
        ("timm:resnet5O", r"timm has no model 'resnet5O' \(did you mean 'resnet50'"),
        ("resnet50", "write timm:resnet50 or hf:resnet50"),
        ("microsoft/resnet-50", "write hf:microsoft/resnet-50"),
        ("timm:", "timm has no model ''"),
    ],
)
def test_wrong_image_names(spec: str, words: str) -> None:
    with pytest.raises(EncoderError, match=words) as fault:
        resolve_image(spec)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("modality", "spec"),
    [
        ("text", "hf:distilbert-base-uncased"),
        ("text", "hf:no such/name at all"),
        ("image", "hf:microsoft/resnet-50"),
        ("image", "timm:resnet50"),
        ("image", "timm:hf-hub:timm/resnet50.a1_in1k"),
    ],
)
def test_without_a_network_the_message_says_what_works(modality: str, spec: str) -> None:
    with pytest.raises(EncoderError, match="without a network use a bundled: encoder, a local folder") as fault:
        resolve_text(spec) if modality == "text" else resolve_image(spec)
    assert "\n" not in str(fault.value)
    assert spec in str(fault.value)


@pytest.mark.usefixtures("online")
def test_a_folder_named_in_timms_way_asks_nobody(zoo: Zoo, tmp_path: Path, network: NetworkGuard) -> None:
    folder = zoo("timm-resnet")
    assert resolve_image(f"timm:local-dir:{folder}").fingerprint() == resolve_image(str(folder)).fingerprint()
    with pytest.raises(EncoderError, match=r"holds no config\.json"):
        resolve_image(f"timm:local-dir:{tmp_path}")
    assert network.attempts == []


def test_pictures_are_cropped_unless_asked_otherwise(zoo: Zoo) -> None:
    folder = str(zoo("timm-resnet"))
    as_trained, whole = resolve_image(folder), resolve_image(folder, crop="none")
    assert as_trained.preprocessor.describe()["crop_mode"] == "center"
    assert whole.preprocessor.describe()["crop_mode"] == "squash"


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("spec", ["hf:microsoft/resnet-50", "timm:resnet50"])
def test_an_unreachable_hub_is_asked_once(spec: str, network: NetworkGuard) -> None:
    network.expected = True
    with pytest.raises(EncoderError, match="because there is no network"):
        resolve_image(spec)
    assert len(network.attempts) == 1, "one probe; no retries follow"
    assert constants.HF_HUB_OFFLINE is False


def test_folders_that_hold_no_encoder(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"holds no config\.json"):
        resolve_text(str(tmp_path))
    (tmp_path / "config.json").write_text("{ no json")
    with pytest.raises(EncoderError, match="is not valid JSON"):
        resolve_image(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(EncoderError, match="cannot be opened as a text encoder"):
        resolve_text(str(tmp_path))
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(EncoderError):
        resolve_image(str(tmp_path))


def test_the_other_modality_is_refused(zoo: Zoo) -> None:
    with pytest.raises(EncoderError, match="cannot be opened as a text encoder"):
        resolve_text(str(zoo("vit")))
    with pytest.raises(EncoderError, match="cannot be opened as an image encoder"):
        resolve_image(str(zoo("bert")))
    with pytest.raises(EncoderError, match="cannot be opened as a text encoder"):
        resolve_text(str(zoo("timm-resnet")))


@pytest.mark.parametrize("kind", ["distilbert", "vit"])
def test_missing_safetensors(zoo: Zoo, kind: str, tmp_path: Path) -> None:
    folder = zoo.copy(kind, tmp_path / "x")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that must never be opened")
    with pytest.raises(EncoderError, match="cannot be opened") as fault:
        resolve_text(str(folder)) if kind == "distilbert" else resolve_image(str(folder))
    assert "safetensors" in str(fault.value)


@pytest.mark.parametrize("kind", ["distilbert", "vit", "timm-resnet"])
def test_damaged_safetensors(zoo: Zoo, kind: str, tmp_path: Path) -> None:
    folder = zoo.copy(kind, tmp_path / "x")
    for content in (b"", b"not a tensor file", (folder / "model.safetensors").read_bytes()[:500]):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(EncoderError, match="cannot be opened"):
            resolve_text(str(folder)) if kind == "distilbert" else resolve_image(str(folder))


@pytest.mark.parametrize("kind", ["distilbert", "vit"])
def test_weights_missing_in_the_file(zoo: Zoo, kind: str, tmp_path: Path) -> None:
    folder = zoo.copy(kind, tmp_path / "x")
    state = load_file(folder / "model.safetensors")
    lost = next(name for name in state if name.endswith(".weight"))
    kept = {name: tensor for name, tensor in state.items() if name != lost}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="lacks 1 weights of .*they would be random"):
        resolve_text(str(folder)) if kind == "distilbert" else resolve_image(str(folder))


def test_a_dual_encoder_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 128}, vision_config={**small, "image_size": 32, "patch_size": 16}
    )
    CLIPModel(config).save_pretrained(tmp_path)
    make_tokenizer("bert").save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="dual encoder"):
        resolve_text(str(tmp_path))


@pytest.mark.parametrize("kind", TEXTS)
def test_no_tokenizer(zoo: Zoo, kind: str, tmp_path: Path) -> None:
    folder = zoo.copy(kind, tmp_path / "x")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(EncoderError, match=r"has no tokenizer files|cannot be opened as a text encoder") as fault:
        resolve_text(str(folder))
    assert "\n" not in str(fault.value)


def test_no_image_processor(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo.copy("vit", tmp_path / "x")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match="cannot be opened as an image encoder"):
        resolve_image(str(folder))


def test_an_architecture_that_timm_does_not_know(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo.copy("timm-resnet", tmp_path / "x")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, "architecture": "resnet_of_the_future"}))
    with pytest.raises(EncoderError, match="timm knows no architecture 'resnet_of_the_future'"):
        resolve_image(str(folder))


def test_home_folder_is_expanded(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    zoo.copy("bert", tmp_path / "my-bert")
    assert resolve_text("~/my-bert").spec == "~/my-bert"


@pytest.mark.parametrize(("kind", "modality"), [("bert", "text"), ("vit", "image")])
def test_code_that_comes_with_a_model_is_never_run(
    zoo: Zoo, tmp_path: Path, kind: str, modality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(zoo(kind), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own_thing", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is asked"))
    open_it = resolve_text if modality == "text" else resolve_image
    with pytest.raises(EncoderError, match="program code that comes with it, which is never run"):
        open_it(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"architecture": "hf-hub:someone/else"}, "may name no other place"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "model_args hold checkpoint_path"),
    ],
)
def test_a_folder_cannot_send_timm_elsewhere(
    zoo: Zoo, tmp_path: Path, network: NetworkGuard, harm: dict[str, object], words: str
) -> None:
    folder = shutil.copytree(zoo("timm-resnet"), tmp_path / "image")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **harm}))
    with pytest.raises(EncoderError, match=words):
        resolve_image(str(folder))
    resolve_image(str(zoo("timm-resnet"))).save_config(tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "encoder.json").read_text())
    (tmp_path / "saved" / "encoder.json").write_text(json.dumps({**said, **harm}))
    with pytest.raises(EncoderError, match=words):
        load_encoder_config(tmp_path / "saved")
    assert network.attempts == []


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("hf:distilbert-base-uncased", "distilbert-base-uncased"),
        ("timm:resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("timm:hf-hub:me/mine", "me/mine"),
        ("timm:no_such_network", None),
        ("clip:hf:openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("clip:./folder", None),
        ("bundled:all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("bundled:efficientnet-lite0", None),
        ("bundled:none", None),
        ("./folder", None),
    ],
)
def test_what_the_hub_calls_an_encoder(spec: str, name: str | None) -> None:
    assert hub_name(spec) == name
