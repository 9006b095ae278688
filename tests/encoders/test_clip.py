from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench_tiny import tiny_plan, tiny_posts
from cotune.benchmark import read_results, run_plan
from cotune.encoders.resolve import load_encoder_config, resolve_image, resolve_text
from cotune.errors import EncoderError
from tiny import Zoo, make_tokenizer, picture, stir

KINDS = ("clip", "siglip")
TEXTS = ["good sad dog", "love", "a very happy day so good"]


@pytest.fixture(scope="session")
def duals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of tiny random dual encoders, with tokenizer and image processor, as the hub has them."""
    return {kind: save_dual(kind, tmp_path_factory.mktemp("duals") / f"tiny-{kind}") for kind in KINDS}


def save_dual(kind: str, folder: Path) -> Path:
    import transformers as t

    torch.manual_seed(0)
    tower = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = {**tower, **ids, "vocab_size": 128, "max_position_embeddings": 24}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    processor: Any
    if kind == "clip":
        text["projection_dim"] = vision["projection_dim"] = 16
        model: Any = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        processor = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    else:
        model = t.SiglipModel(t.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision))
        processor = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    stir(model).save_pretrained(folder)
    make_tokenizer("bert").save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _towers(folder: Path, **how: Any) -> dict[str, Any]:
    spec = f"clip:{folder}"
    return {"text": resolve_text(spec, **how), "image": resolve_image(spec)}


def embed(encoders: dict[str, Any], pictures: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    text, image = encoders["text"], encoders["image"]
    with torch.no_grad():
        words = text(text.collate(text.tokenize(TEXTS))).pooled
        pixels = image(image.collate([image.preprocessor(p) for p in pictures])).pooled
    return words, pixels


@pytest.mark.parametrize("kind", KINDS)
def test_whole_pictures(duals: dict[str, Path], tmp_path: Path, kind: str) -> None:
    shot = Image.new("RGB", (160, 40), (128, 128, 128))
    shot.paste((255, 0, 0), (0, 0, 20, 40))
    tower = resolve_image(f"clip:{duals[kind]}", crop="none")
    block = tower.preprocessor(shot).astype(int)
    assert block[0, 0, 0] > 200 > 60 > block[2, 0, 0], "the end that a centre crop loses is seen"
    tower.save_config(tmp_path)
    np.testing.assert_array_equal(load_encoder_config(tmp_path).preprocessor(shot), block)


@pytest.mark.parametrize("kind", KINDS)
def test_towers_give_what_the_whole_model_gives(duals: dict[str, Path], kind: str) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = duals[kind]
    pictures = [picture(i) for i in range(3)]
    encoders = _towers(folder)
    words, pixels = embed(encoders, pictures)
    model = AutoModel.from_pretrained(folder).eval()
    how: dict[str, Any] = {"padding": "max_length", "max_length": 24} if kind == "siglip" else {"padding": True}
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, **how, return_tensors="pt")
    seen = AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
    mask = {"attention_mask": inputs["attention_mask"]} if kind == "clip" else {}
    with torch.no_grad():
        expected = model.get_text_features(input_ids=inputs["input_ids"], **mask).pooler_output
        looks = model.get_image_features(pixel_values=seen["pixel_values"]).pooler_output
    assert torch.allclose(words, expected, atol=1e-5)
    assert torch.allclose(pixels, looks, atol=2e-2)  # pixels are rounded to bytes on the way
    assert (encoders["text"].dim, encoders["image"].dim) == (expected.shape[1], looks.shape[1])


@pytest.mark.parametrize("kind", KINDS)
def test_towers_can_be_cut(duals: dict[str, Path], kind: str) -> None:
    encoders = _towers(duals[kind])
    text: Any = encoders["text"]
    inputs = text.collate(text.tokenize(TEXTS))
    with torch.no_grad():
        whole = text(inputs).pooled
    assert len(text.units) == 3
    text.cut_at(2)
    hidden = text.lower(inputs)
    with torch.no_grad():
        assert torch.allclose(text({"hidden": hidden, **inputs}).pooled, whole, atol=1e-5)
    assert 0 < len(text.upper_parameters()) < len(list(text.model.parameters()))
    image: Any = encoders["image"]
    image.cut_at(1)
    assert image.n_lower == 1


@pytest.mark.parametrize("kind", KINDS)
def test_towers_are_built_anew_from_what_they_save(duals: dict[str, Path], kind: str, tmp_path: Path) -> None:
    for name, encoder in _towers(duals[kind], max_tokens=12).items():
        encoder.save_config(tmp_path / name)
        again = load_encoder_config(tmp_path / name)
        again.load_state_dict(encoder.state_dict())
        again.weights_changed()
        assert again.fingerprint() == encoder.fingerprint()
        assert not list((tmp_path / name).glob("*.safetensors"))


def test_long_and_missing_texts(duals: dict[str, Path]) -> None:
    clip: Any = resolve_text(f"clip:{duals['clip']}", max_tokens=128)
    rows = clip.tokenize(["dog " * 500, None, ""])
    assert [len(row) for row in rows] == [24, 2, 2]
    siglip: Any = resolve_text(f"clip:{duals['siglip']}", max_tokens=8)
    assert {len(row) for row in siglip.tokenize(["dog " * 500, None])} == {24}


def test_a_unimodal_model_is_no_dual_encoder(zoo: Zoo) -> None:
    with pytest.raises(EncoderError, match="is a distilbert model, not a dual encoder"):
        resolve_text(f"clip:{zoo('distilbert')}")


def test_names_without_prefix_or_folder() -> None:
    for spec in ("openai/clip-vit-base-patch32", "hf:", "bundled:clip"):
        with pytest.raises(EncoderError, match="neither a folder nor hf:OWNER/NAME"):
            resolve_text(f"clip:{spec}")


def test_a_folder_that_lacks_something(duals: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match="cannot be opened as a dual encoder"):
        resolve_text(f"clip:{tmp_path / 'empty'}")
    bare = Path(shutil.copytree(duals["clip"], tmp_path / "bare"))
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match="cannot be opened as a dual encoder"):
        resolve_text(f"clip:{bare}")


def test_missing_weights_are_not_made_up(duals: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    bare = Path(shutil.copytree(duals["clip"], tmp_path / "bare"))
    weights = load_file(bare / "model.safetensors")
    weights.pop("text_projection.weight")
    save_file(weights, bare / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="lacks 1 weights"):
        resolve_text(f"clip:{bare}")


@pytest.mark.parametrize(("kind", "tune"), [("clip", "top"), ("clip", "joint"), ("siglip", "top")])
def test_the_method_runs_end_to_end(duals: dict[str, Path], zoo: Zoo, tmp_path: Path, kind: str, tune: str) -> None:
    plan = tiny_plan(
        zoo, tmp_path / "cache", methods=("clip", "probe"), clip=str(duals[kind]), folds=2, fit={"tune": tune}
    )
    session = run_plan(tiny_posts(tmp_path, 20), plan, tmp_path / "out")
    assert not session.failures
    assert session.done == 4
    results = read_results(tmp_path / "out")
    assert not results.not_run()
    row = next(row for key, row in results.rows.items() if key.method == "clip")
    assert (row.key.text, row.key.image) == (f"tiny-{kind}", f"tiny-{kind}")
    assert row.complete
    assert np.isfinite(row.proba).all()
    assert row.emap is not None
    trained = row.records[0].parameters["trained"]
    assert (trained == row.records[0].parameters["total"]) == (tune == "joint")
    assert {record.history[-1]["stage"] for record in row.records} == {tune}


@pytest.mark.parametrize("kind", KINDS)
def test_both_towers_are_tuned_jointly_saved_and_opened(duals: dict[str, Path], tmp_path: Path, kind: str) -> None:
    import cotune
    from tiny import make_posts

    posts = make_posts(tmp_path / "posts", 12)
    spec = f"clip:{duals[kind]}"
    model = cotune.JointClassifier(
        text_encoder=spec, image_encoder=spec, tune="joint", epochs=1, min_epochs=1, batch_size=6, width=8, heads=2
    )
    asked = posts[["text", "image"]]
    before = model.fit(asked, posts["label"]).predict_proba(asked)
    model.save(tmp_path / "run")
    again = cotune.load(tmp_path / "run")
    np.testing.assert_allclose(again.predict_proba(asked), before, atol=1e-5)
    assert {e.spec for e in again.run_.model.encoders.values()} == {spec}


def test_a_tower_by_its_source(duals: dict[str, Path], zoo: Zoo) -> None:
    from cotune.sizes import encoder_size

    towers = _towers(duals["clip"])
    text = resolve_text(f"clip:{duals['clip']}")
    ids = text.collate(text.tokenize(TEXTS))
    with torch.no_grad():
        assert torch.equal(text(ids).pooled, towers["text"](ids).pooled)
    assert encoder_size(f"clip:{duals['clip']}").parameters == sum(t.n_parameters() for t in towers.values())
    with pytest.raises(EncoderError, match="is a distilbert model, not a dual encoder"):
        resolve_text(f"clip:{zoo('distilbert')}")
    with pytest.raises(EncoderError, match="is a dual encoder .*; write clip:"):
        resolve_text(str(duals["clip"]))


def test_texts_are_normalised_as_of_any_encoder(duals: dict[str, Path], tmp_path: Path) -> None:
    encoder: Any = resolve_text(f"clip:{duals['clip']}")
    usual = [row.tolist() for row in encoder.tokenize(TEXTS)]
    encoder.normalize("confusables")
    hidden = [text.replace("o", "\u043e").replace("a", "a\u200b") for text in TEXTS]
    encoder.save_config(tmp_path)
    opened: Any = load_encoder_config(tmp_path)
    for each in (encoder, opened):
        assert [row.tolist() for row in each.tokenize(hidden)] == usual
    assert opened.describe() == encoder.describe()
