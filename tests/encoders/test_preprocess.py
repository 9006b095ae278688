"""Our resizing, cropping and normalising against the libraries' own, from picture to network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ConvNextImageProcessor, ViTImageProcessor

from cotune.encoders.image import ImageEncoder
from cotune.encoders.preprocess import HFPreprocessor, TimmPreprocessor
from cotune.encoders.resolve import load_encoder_config
from cotune.errors import EncoderError
from tiny import HF_IMAGES, TIMM_IMAGES, Zoo, picture

SIZES = [(48, 40), (40, 48), (32, 32), (200, 90), (17, 300), (7, 9), (500, 20)]
# The processor of ResNet and ConvNeXT crops whatever it is told.
WHOLE = [kind for kind in (*HF_IMAGES, *TIMM_IMAGES) if kind not in ("resnet", "convnext")]
ODD = [(1, 1), (3, 50), (50, 3), (2, 2)]


@pytest.mark.parametrize("kind", HF_IMAGES)
@pytest.mark.parametrize("size", SIZES)
def test_same_as_the_processor_of_transformers(zoo: Zoo, kind: str, size: tuple[int, int]) -> None:
    encoder = zoo.image(kind)
    processor = AutoImageProcessor.from_pretrained(zoo(kind), local_files_only=True)
    shot = picture(3, size=size)
    theirs = processor(images=shot, return_tensors="pt")["pixel_values"][0]
    ours = encoder.normalise(encoder.collate([encoder.preprocessor(shot)])["pixels"])[0]
    level = float(encoder.preprocessor.scale.max())
    assert ours.shape == theirs.shape == (3, 32, 32)
    assert (ours - theirs).abs().max() <= level * 1.01, "within one grey level"
    assert (ours - theirs).abs().mean() <= level * 0.3


@pytest.mark.parametrize("kind", TIMM_IMAGES)
@pytest.mark.parametrize("size", SIZES)
def test_same_as_the_transform_of_timm(zoo: Zoo, kind: str, size: tuple[int, int]) -> None:
    from timm.data import create_transform

    encoder = zoo.image(kind)
    side = encoder.preprocessor.size[0]
    settings = {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    normal = {"mean": (0.5, 0.45, 0.4), "std": (0.2, 0.25, 0.3)}
    transform = create_transform(input_size=(3, side, side), is_training=False, **settings, **normal)
    shot = picture(4, size=size)
    ours = encoder.normalise(encoder.collate([encoder.preprocessor(shot)])["pixels"])[0]
    torch.testing.assert_close(ours, transform(shot), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [*HF_IMAGES, *TIMM_IMAGES])
@pytest.mark.parametrize("size", ODD)
def test_very_small_pictures_keep_their_colour(zoo: Zoo, kind: str, size: tuple[int, int]) -> None:
    block = zoo.image(kind).preprocessor(Image.new("RGB", size, (200, 10, 90)))
    assert block.dtype == np.uint8
    assert np.abs(block.astype(int) - np.asarray([200, 10, 90])[:, None, None]).max() <= 1


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_other_crop_modes_of_timm(mode: str) -> None:
    config = {"input_size": (3, 24, 32), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    preprocessor = TimmPreprocessor({**config, "crop_pct": 1.0, "crop_mode": mode})
    assert preprocessor(picture(1)).shape == (3, 24, 32)
    assert preprocessor.size == (24, 32)


def ends(size: tuple[int, int]) -> Image.Image:
    """A grey picture with a red and a blue end."""
    shot = Image.new("RGB", size, (128, 128, 128))
    width, height = size
    across = width > height
    edge = (width // 10, height) if across else (width, height // 10)
    shot.paste((255, 0, 0), (0, 0, *edge))
    shot.paste((0, 0, 255), (width - edge[0], height - edge[1], width, height))
    return shot


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_whole_pictures(tmp_path: Path, zoo: Zoo, kind: str, size: tuple[int, int]) -> None:
    cropped, encoder = zoo.image(kind), zoo.image(kind)
    encoder.see_whole_images()
    block = encoder.preprocessor(ends(size)).astype(int)
    red, blue = block[:, 0, 0], block[:, -1, -1]
    assert block.shape == (3, *cropped.preprocessor.size)
    assert red[0] > 200 > 60 > red[2], "the first end is seen"
    assert blue[2] > 200 > 60 > blue[0], "and so is the last"
    assert encoder.fingerprint() != cropped.fingerprint(), "no embedding of the other kind is taken from the cache"
    encoder.save_config(tmp_path)
    again = load_encoder_config(tmp_path)
    assert isinstance(again, ImageEncoder)
    np.testing.assert_array_equal(again.preprocessor(ends(size)), block)


def test_whole_pictures_keep_the_normalisation(zoo: Zoo) -> None:
    for kind in WHOLE:
        before, after = zoo.image(kind).preprocessor, zoo.image(kind).preprocessor.whole()
        np.testing.assert_allclose(after.scale, before.scale)
        np.testing.assert_allclose(after.shift, before.shift)


def test_a_processor_that_must_crop_says_so(zoo: Zoo) -> None:
    preprocessor = zoo.image("resnet").preprocessor
    with pytest.raises(EncoderError, match="ConvNextImageProcessor cannot be told to show whole images; leave image"):
        preprocessor.whole()


def test_timm_settings_survive_saving(tmp_path: object, zoo: Zoo) -> None:
    preprocessor = zoo.image("timm-resnet").preprocessor
    preprocessor.save(tmp_path)
    again = TimmPreprocessor.load(tmp_path)
    assert again.describe() == preprocessor.describe()
    np.testing.assert_array_equal(again(picture(2)), preprocessor(picture(2)))


def test_hf_settings_survive_saving(tmp_path: object, zoo: Zoo) -> None:
    preprocessor = zoo.image("dinov2").preprocessor
    preprocessor.save(tmp_path)
    again = HFPreprocessor(AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True))
    assert again.describe() == preprocessor.describe()
    np.testing.assert_array_equal(again(picture(2)), preprocessor(picture(2)))


def test_mean_scale_and_shift_are_measured() -> None:
    processor = ViTImageProcessor(
        size={"height": 16, "width": 20}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    )
    preprocessor = HFPreprocessor(processor)
    assert preprocessor.size == (16, 20)
    np.testing.assert_allclose(preprocessor.scale, 1 / (255 * np.asarray([0.5, 0.6, 0.7])), rtol=1e-5)
    np.testing.assert_allclose(preprocessor.shift, -np.asarray([0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7], rtol=1e-5)


def test_without_normalisation() -> None:
    processor = ViTImageProcessor(size={"height": 16, "width": 16}, do_normalize=False)
    preprocessor = HFPreprocessor(processor)
    np.testing.assert_allclose(preprocessor.scale, 1 / 255, rtol=1e-5)
    np.testing.assert_allclose(preprocessor.shift, 0, atol=1e-7)


@pytest.mark.parametrize(
    "processor",
    [
        ConvNextImageProcessor(size={"shortest_edge": 400}, do_resize=False),
        ViTImageProcessor(do_resize=False),
    ],
)
def test_processors_of_variable_size_are_refused(processor: object) -> None:
    with pytest.raises(EncoderError, match="keeps each image's own shape"):
        HFPreprocessor(processor)
