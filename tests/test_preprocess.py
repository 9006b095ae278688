"""Our resizing, cropping and normalising against the libraries' own, from picture to network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ConvNextImageProcessor, ViTImageProcessor

from cotune.encoders.preprocess import HFPreprocessor, TimmPreprocessor
from cotune.errors import EncoderError
from tiny import HF_IMAGES, TIMM_IMAGES, Zoo, picture

SIZES = [(48, 40), (40, 48), (32, 32), (200, 90), (17, 300), (7, 9), (500, 20)]
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
    with pytest.raises(EncoderError, match="keeps each picture's own shape"):
        HFPreprocessor(processor)
