"""From an image of any size to the fixed block of bytes that an image encoder reads.

Resizing and cropping are done once and can be cached, since their result is bytes; the normalisation is a
multiplication and an addition per channel and is done on the batch.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cotune.errors import EncoderError


class Preprocessor(ABC):
    """Resize and crop to (3, height, width) bytes, and the affine map that follows.

    Attributes
    ----------
    size : tuple of int
        Height and width in pixels.
    scale, shift : ndarray
        Per channel, shape (3,): the network sees ``byte * scale + shift``.
    """

    size: tuple[int, int]
    scale: np.ndarray
    shift: np.ndarray

    @abstractmethod
    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the image as uint8, shape (3, height, width)."""

    @abstractmethod
    def whole(self) -> Preprocessor:
        """Return one that squeezes the whole image into the network's frame where this one cuts its edges off.

        Raises
        ------
        EncoderError
            If it cannot do so.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what is needed to build it again."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what defines the result, as plain JSON values."""


class TimmPreprocessor(Preprocessor):
    """The evaluation transform of a timm model.

    Parameters
    ----------
    data_config : dict
        ``input_size``, ``interpolation``, ``mean``, ``std``, ``crop_pct`` and ``crop_mode`` as timm gives them.
    """

    FILE = "preprocessing.json"

    def __init__(self, data_config: dict[str, Any]) -> None:
        from timm.data.transforms_factory import create_transform

        self.config: dict[str, Any] = {
            key: list(value) if isinstance(value, tuple) else value for key, value in data_config.items()
        }
        _, height, width = self.config["input_size"]
        self.size = (int(height), int(width))
        mean, std = np.asarray(self.config["mean"]), np.asarray(self.config["std"])
        self.scale = (1 / (255 * std)).astype(np.float32)
        self.shift = (-mean / std).astype(np.float32)
        self._transform = create_transform(
            input_size=tuple(self.config["input_size"]),
            interpolation=self.config["interpolation"],
            crop_pct=self.config["crop_pct"],
            crop_mode=self.config["crop_mode"],
            is_training=False,
            normalize=False,
        )

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the image as uint8, shape (3, height, width)."""
        result: np.ndarray = np.asarray(self._transform(image), dtype=np.uint8)
        return result

    def whole(self) -> TimmPreprocessor:
        """Return the transform with timm's crop mode ``squash``."""
        return TimmPreprocessor({**self.config, "crop_pct": 1.0, "crop_mode": "squash"})

    def describe(self) -> dict[str, Any]:
        """Return timm's data configuration."""
        return {"by": "timm", **self.config}

    def save(self, folder: Path) -> None:
        """Write ``preprocessing.json``."""
        (folder / self.FILE).write_text(json.dumps(self.config, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TimmPreprocessor:
        """Read what :meth:`save` wrote."""
        return cls(json.loads((folder / cls.FILE).read_text(encoding="utf-8")))


class HFPreprocessor(Preprocessor):
    """A transformers image processor, with its rescaling and normalisation measured and taken apart.

    Parameters
    ----------
    processor : BaseImageProcessor
        Any processor that turns every image into one fixed size.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        # The processor's own arithmetic is affine; two grey images tell scale and shift for any of them.
        dark, light = (
            np.asarray(self._run(Image.new("RGB", (64, 64), (level,) * 3), raw=False), dtype=np.float64)
            for level in (0, 255)
        )
        if dark.ndim != 3:
            raise EncoderError(
                f"the image processor {type(processor).__name__} cuts images into patches with a mask; only processors "
                "that give whole images of one size can be used"
            )
        self.size = (dark.shape[1], dark.shape[2])
        low, high = dark.mean(axis=(1, 2)), light.mean(axis=(1, 2))
        self.scale = ((high - low) / 255).astype(np.float32)
        self.shift = low.astype(np.float32)
        self.gives_bytes = self._can_give_bytes()
        wide = self(Image.new("RGB", (96, 48)))
        if tuple(wide.shape[1:]) != self.size:
            raise EncoderError(
                f"the image processor {type(processor).__name__} keeps each image's own shape; "
                "only processors with a fixed output size can be used"
            )

    def _run(self, image: Image.Image, *, raw: bool) -> np.ndarray:
        off = {"do_rescale": False, "do_normalize": False} if raw else {}
        result: np.ndarray = np.asarray(self.processor(images=image, return_tensors="np", **off)["pixel_values"][0])
        return result

    def _can_give_bytes(self) -> bool:
        """Tell whether the processor can leave out its arithmetic; some insist on floats."""
        try:
            self._run(Image.new("RGB", (64, 64)), raw=True)
        except (TypeError, ValueError, RuntimeError):
            return False
        return True

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return the image as uint8, shape (3, height, width)."""
        if self.gives_bytes:
            found = self._run(image, raw=True)
        else:
            shape = (3, 1, 1)
            found = (self._run(image, raw=False) - self.shift.reshape(shape)) / self.scale.reshape(shape)
        result: np.ndarray = np.clip(np.rint(found), 0, 255).astype(np.uint8)
        return result

    def resized(self, height: int, width: int) -> HFPreprocessor:
        """Return the processor with another output size; what it crops stays the same part of the image."""
        factors = {"height": height / self.size[0], "width": width / self.size[1]}
        settings = self.processor.to_dict()
        for key in ("size", "crop_size"):
            sides = settings.get(key)
            if isinstance(sides, dict):
                settings[key] = {
                    side: round(value * factors.get(side, factors["height"])) for side, value in sides.items() if value
                }
        return HFPreprocessor(type(self.processor).from_dict(settings))

    def whole(self) -> HFPreprocessor:
        """Return the processor with both sides resized to the network's, and no crop."""
        height, width = self.size
        frame = {"do_resize": True, "size": {"height": height, "width": width}, "do_center_crop": False}
        try:
            changed = HFPreprocessor(type(self.processor).from_dict({**self.processor.to_dict(), **frame}))
            seen = changed(_ends())
        except (EncoderError, ValueError, TypeError, KeyError, AttributeError):
            seen = None
        if seen is None or changed.size != self.size or not (seen[0, 0, 0] < 32 and seen[0, -1, -1] > 223):
            raise EncoderError(
                f"the image processor {type(self.processor).__name__} cannot be told to show whole images; "
                "leave image-crop at 'encoder', or take a timm: model"
            )
        return changed

    def describe(self) -> dict[str, Any]:
        """Return the processor's own settings."""
        settings = json.loads(self.processor.to_json_string())
        return {"by": "transformers", **settings}

    def save(self, folder: Path) -> None:
        """Write ``preprocessor_config.json``."""
        self.processor.save_pretrained(folder)


def _ends() -> Image.Image:
    """Return a wide grey image, black at its left end and white at its right, of which a crop loses both."""
    picture = Image.new("RGB", (320, 80), (128,) * 3)
    picture.paste((0, 0, 0), (0, 0, 20, 80))
    picture.paste((255, 255, 255), (300, 0, 320, 80))
    return picture
