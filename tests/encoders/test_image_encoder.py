from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

from architectures import IMAGE, Architecture, make_image
from cotune.encoders.image import flatten_states, timm_dim, timm_units
from cotune.encoders.resolve import load_encoder_config, resolve_image
from cotune.encoders.sources.timm import open_timm
from cotune.errors import EncoderError
from tiny import HF_IMAGES, IMAGES, TIMM_IMAGES, Zoo, picture, stir


def inputs_of(encoder: object, n: int = 3) -> dict[str, torch.Tensor]:
    return encoder.collate([encoder.preprocessor(picture(seed)) for seed in range(n)])


@pytest.mark.parametrize("kind", HF_IMAGES)
def test_says_what_transformers_says(zoo: Zoo, kind: str) -> None:
    encoder = zoo.image(kind)
    model = AutoModel.from_pretrained(zoo(kind), local_files_only=True).eval()
    processor = AutoImageProcessor.from_pretrained(zoo(kind), local_files_only=True)
    shots = [picture(seed, size=(32, 32)) for seed in range(3)]
    pixels = processor(images=shots, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = model(pixel_values=pixels)
        ours = encoder({"pixels": pixels})
    summary = theirs.last_hidden_state[:, 0] if kind == "vit" else theirs.pooler_output.flatten(1)
    torch.testing.assert_close(ours.pooled, summary, atol=1e-5, rtol=1e-5)
    assert ours.pooled.shape == (3, encoder.dim)


@pytest.mark.parametrize("kind", TIMM_IMAGES)
def test_says_what_timm_says(zoo: Zoo, kind: str) -> None:
    encoder = zoo.image(kind)
    settings = json.loads((zoo(kind) / "config.json").read_text())
    model = timm.create_model(settings["architecture"], num_classes=0, **settings["model_args"]).eval()
    model.load_state_dict(load_file(zoo(kind) / "model.safetensors"))
    inputs = inputs_of(encoder)
    with torch.no_grad():
        theirs = model(encoder.normalise(inputs["pixels"]))
        torch.testing.assert_close(encoder(inputs).pooled, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", IMAGES)
def test_shapes_mode_and_depths(zoo: Zoo, kind: str) -> None:
    encoder = zoo.image(kind)
    assert not any(module.training for module in encoder.modules())
    with torch.no_grad():
        out = encoder(inputs_of(encoder))
    assert out.pooled.shape == (3, encoder.dim)
    assert out.states.ndim == 3
    assert out.states.shape[0] == 3
    depths = encoder.depths()
    assert set(depths) == {name for name, _ in encoder.model.named_parameters()}
    assert set(range(len(encoder.units) + 1)) <= set(depths.values())


@pytest.mark.parametrize("kind", IMAGES)
def test_config_saved_and_built_anew(zoo: Zoo, kind: str, tmp_path: Path) -> None:
    encoder = zoo.image(kind)
    encoder.save_config(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    again = load_encoder_config(tmp_path)
    again.load_state_dict(encoder.state_dict(), strict=True)
    np.testing.assert_array_equal(again.preprocessor(picture(1)), encoder.preprocessor(picture(1)))
    inputs = inputs_of(encoder)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs).pooled, encoder(inputs).pooled, atol=0, rtol=0)
    again.weights_changed()
    assert again.fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize("kind", ["timm-vit", "timm-resnet"])
def test_a_timm_folder_by_name_is_forgotten_once_the_run_is_saved(zoo: Zoo, kind: str, tmp_path: Path) -> None:
    folder = zoo.copy(kind, tmp_path / "original")
    encoder = open_timm(f"local-dir:{folder}", spec=f"timm:local-dir:{folder}")
    encoder.save_config(tmp_path / "run")
    for file in folder.iterdir():
        file.unlink()
    again = load_encoder_config(tmp_path / "run")
    again.load_state_dict(encoder.state_dict(), strict=True)
    assert again.preprocessor.describe() == encoder.preprocessor.describe()


@pytest.mark.parametrize("kind", TIMM_IMAGES)
def test_timm_weights_that_are_missing_or_of_another_network(zoo: Zoo, kind: str, tmp_path: Path) -> None:
    folder = zoo.copy(kind, tmp_path / "damaged")
    state = load_file(folder / "model.safetensors")
    lost = next(name for name, tensor in state.items() if tensor.ndim > 1)
    save_file({name: tensor for name, tensor in state.items() if name != lost}, folder / "model.safetensors")
    with pytest.raises(EncoderError, match=f"lacks 1 tensors of .*first {lost}"):
        resolve_image(str(folder))
    save_file({name: tensor.flatten()[:1] for name, tensor in state.items()}, folder / "model.safetensors")
    with pytest.raises(EncoderError, match="cannot be opened as an image encoder"):
        resolve_image(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="only safetensors weights are read"):
        resolve_image(str(folder))


@pytest.mark.parametrize("prefix", ["", "timm:local-dir:"])
@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet"])
def test_folders_that_timm_itself_saves(tmp_path: Path, architecture: str, prefix: str) -> None:
    model = stir(timm.create_model(architecture))
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    encoder = resolve_image(f"{prefix}{tmp_path}")
    assert encoder.preprocessor.config["input_size"] == list(model.pretrained_cfg["input_size"])
    inputs = inputs_of(encoder)
    with torch.no_grad():
        features = model.forward_features(encoder.normalise(inputs["pixels"]))
        theirs = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(encoder(inputs).pooled, theirs, atol=1e-5, rtol=1e-5)
    encoder.save_config(tmp_path / "run")
    again = load_encoder_config(tmp_path / "run")
    again.load_state_dict(encoder.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs).pooled, encoder(inputs).pooled, atol=0, rtol=0)


def test_a_timm_folder_of_another_size_is_read_at_the_size_of_its_network(tmp_path: Path) -> None:
    sizes = {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    timm.models.save_for_hf(model, tmp_path, model_args=sizes, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 224, 224]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = resolve_image(str(tmp_path))
    assert encoder.preprocessor.size == (48, 48)
    encoder.save_config(tmp_path / "run")
    assert load_encoder_config(tmp_path / "run").preprocessor.size == (48, 48)  # type: ignore[attr-defined]


def test_a_timm_network_that_takes_no_image_is_refused_in_one_line(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", in_chans=1)
    timm.models.save_for_hf(model, tmp_path, model_args={"in_chans": 1}, safe_serialization=True)
    with pytest.raises(EncoderError, match="does not take images of 160 x 160 pixels"):
        resolve_image(str(tmp_path))


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_a_timm_model_saved_without_pooling_is_averaged(tmp_path: Path, architecture: str) -> None:
    model = stir(timm.create_model(architecture, global_pool="", num_classes=0))
    timm.models.save_for_hf(model, tmp_path, model_args={"global_pool": ""}, safe_serialization=True)
    encoder = resolve_image(str(tmp_path))
    with torch.no_grad():
        found = encoder(inputs_of(encoder))
    assert found.pooled.shape == (3, encoder.dim)
    torch.testing.assert_close(found.pooled, found.states.mean(dim=1))
    encoder.cut_at(1)


@pytest.mark.parametrize("architecture", ["cait_xxs24_224", "rdnet_tiny", "inception_v3"])
def test_networks_that_name_no_stages_have_no_units(architecture: str) -> None:
    with torch.device("meta"):
        assert timm_units(timm.create_model(architecture)) == []


@pytest.mark.parametrize("name", ["Swin", "Donut Swin"])
def test_the_networks_own_size_counts_where_the_processor_names_another(tmp_path: Path, name: str) -> None:
    make_image(architecture_of(name), tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": {"height": 20, "width": 20}}))
    encoder = resolve_image(str(tmp_path))
    assert encoder.preprocessor.size == (32, 32)
    with torch.no_grad():
        assert torch.isfinite(encoder(inputs_of(encoder)).pooled).all()
    encoder.save_config(tmp_path / "run")
    assert load_encoder_config(tmp_path / "run").preprocessor.size == (32, 32)  # type: ignore[attr-defined]


def test_a_processor_that_insists_on_floats(tmp_path: Path) -> None:
    make_image(architecture_of("EfficientNet"), tmp_path)
    encoder = resolve_image(str(tmp_path))
    processor = AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    shots = [picture(seed) for seed in range(3)]
    theirs = np.stack([processor(images=shot, return_tensors="np")["pixel_values"][0] for shot in shots])
    ours = encoder.normalise(encoder.collate([encoder.preprocessor(shot) for shot in shots])["pixels"]).numpy()
    assert np.abs(ours - theirs).max() <= float(encoder.preprocessor.scale.max())


@pytest.mark.parametrize("name", ["ViT MAE", "Hiera"])
def test_a_masked_autoencoder_hides_nothing(tmp_path: Path, name: str) -> None:
    make_image(architecture_of(name), tmp_path)
    encoder = resolve_image(str(tmp_path))
    inputs = inputs_of(encoder)
    with torch.no_grad():
        first, second = encoder(inputs), encoder(inputs)
    assert torch.equal(first.states, second.states)
    assert torch.equal(first.pooled, second.pooled)
    encoder.save_config(tmp_path / "run")
    again = load_encoder_config(tmp_path / "run")
    again.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        assert torch.equal(again(inputs).pooled, first.pooled)


def test_what_a_network_keeps_from_earlier_weights_is_forgotten(tmp_path: Path) -> None:
    """LeViT keeps its attention biases in evaluation mode."""
    make_image(architecture_of("LeViT"), tmp_path)
    encoder = resolve_image(str(tmp_path))
    inputs = inputs_of(encoder)
    with torch.no_grad():
        before = encoder(inputs).pooled
        for name, parameter in encoder.named_parameters():
            if "attention_biases" in name:
                parameter.copy_(torch.randn_like(parameter))
        state = {name: t.clone() for name, t in encoder.state_dict().items()}
        encoder.weights_changed()
        after = encoder(inputs).pooled
        assert not torch.allclose(before, after)
        fresh = resolve_image(str(tmp_path))
        fresh(inputs)
        fresh.load_state_dict(state)
        fresh.weights_changed()
        torch.testing.assert_close(fresh(inputs).pooled, after, atol=0, rtol=0)
    assert not any(module.training for module in encoder.modules())


def test_patches_with_a_mask_are_refused_in_one_line(tmp_path: Path) -> None:
    make_image(architecture_of("SigLIP2 vision"), tmp_path)
    with pytest.raises(EncoderError, match="Siglip2ImageProcessor cuts images into patches with a mask"):
        resolve_image(str(tmp_path))


def architecture_of(name: str) -> Architecture:
    return next(a for a in IMAGE if a.name == name)


def test_a_classifier_in_the_file_is_left_out(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo.copy("timm-resnet", tmp_path / "with-head")
    state = load_file(folder / "model.safetensors")
    save_file({**state, "fc.weight": torch.zeros(10, 96), "fc.bias": torch.zeros(10)}, folder / "model.safetensors")
    encoder = resolve_image(str(folder))
    assert encoder.dim == 96


def test_hf_preprocessor_of_variable_size_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo.copy("vit", tmp_path / "free")
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**said, "do_resize": False}))
    with pytest.raises(EncoderError, match="fixed output size"):
        resolve_image(str(folder))


def test_pixels_are_normalised_only_as_bytes(zoo: Zoo) -> None:
    encoder = zoo.image("timm-resnet")
    inputs = inputs_of(encoder)
    with torch.no_grad():
        given = encoder({"pixels": encoder.normalise(inputs["pixels"])}).pooled
        torch.testing.assert_close(encoder(inputs).pooled, given, atol=0, rtol=0)


def test_flatten_states_of_every_layout() -> None:
    class Network:
        num_features = 5

    first, last = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 4, 5)
    assert flatten_states(first, Network()).shape == (2, 12, 5)
    assert torch.equal(flatten_states(first, Network())[0, 1], first[0, :, 0, 1])
    assert flatten_states(last, Network()).shape == (2, 12, 5)
    assert torch.equal(flatten_states(last, Network())[0, 1], last[0, 0, 1])
    assert flatten_states(torch.randn(2, 7, 5), Network()).shape == (2, 7, 5)
    assert flatten_states(torch.randn(2, 5), Network()).shape == (2, 1, 5)


def test_a_square_map_of_as_many_columns_as_channels_is_not_mistaken() -> None:
    class Network:
        num_features = 4

    maps = torch.randn(2, 4, 4, 4)
    assert torch.equal(flatten_states(maps, Network())[0, 1], maps[0, :, 0, 1])


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto",
     "swin_tiny_patch4_window7_224", "regnetx_002", "densenet121", "beit_base_patch16_224"],
)  # fmt: skip
def test_dim_and_units_of_well_known_architectures(architecture: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=0)
    side = model.pretrained_cfg["input_size"][-1]
    with torch.device("meta"):
        pooled = model.eval()(torch.zeros(1, 3, side, side))
    assert pooled.shape == (1, timm_dim(model))
    assert len(timm_units(model)) >= 4


def test_timm_weights_that_are_a_pickle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.load

    def create(*_: object, **__: object) -> object:
        return torch.load(tmp_path / "pytorch_model.bin")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(EncoderError, match="timm:hf-hub:a/b holds no safetensors weights"):
        open_timm("hf-hub:a/b", spec="timm:hf-hub:a/b")
    assert torch.load is load
