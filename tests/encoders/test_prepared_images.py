"""Images of unusual shape on their way to an encoder."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cotune.data.images.load import read_image
from cotune.data.images.pixels import not_too_long
from cotune.encoders.prepared_images import pixels_of
from tiny import Zoo, picture


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 9_000), (9_000, 8)])
@pytest.mark.parametrize("kind", ["timm-resnet", "convnext", "vit"])
def test_very_long_images_do_not_fill_the_memory(zoo: Zoo, kind: str, size: tuple[int, int]) -> None:
    seen = []
    real = zoo.image(kind).preprocessor

    def preprocess(image: Image.Image) -> np.ndarray:
        seen.append(image.size)
        return real(image)

    preprocess.size = real.size  # type: ignore[attr-defined]
    block = pixels_of(read_image(Image.new("RGB", size, (7, 99, 200))), preprocess)  # type: ignore[arg-type]
    assert max(seen[0]) <= 50 * min(seen[0])
    assert np.abs(block.astype(int) - np.asarray([7, 99, 200])[:, None, None]).max() <= 1


def test_only_the_ends_of_a_long_image_are_cut() -> None:
    shot = picture(1, size=(300, 4))
    cut = not_too_long(shot)
    assert cut.size == (200, 4)
    assert cut.tobytes() == shot.crop((50, 0, 250, 4)).tobytes()
    assert not_too_long(shot.crop((0, 0, 200, 4))).size == (200, 4)
