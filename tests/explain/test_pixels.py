from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cotune.encoders.crop_geometry import CropGeometry, measure_crop
from cotune.errors import CotuneError
from cotune.explain.faithfulness import (
    centre_first,
    curve_areas,
    patch_evaluator,
    random_orders,
    ranking,
    with_random_weights,
)
from cotune.explain.pixels import (
    GRID,
    Pixels,
    blurred,
    blurred_away,
    explain_pixels,
    grad_cam,
    last_feature_map,
    smooth_gradients,
    to_grid,
    with_patches,
)
from cotune.explain.target import Target
from cotune.explain.words import rank_correlation
from cotune.report.overlay import AGAINST, FOR, overlay, shrink, top_patches
from explained import explainer, post, random_run, ruled_posts, ruled_run
from tiny import IMAGES, Zoo, picture

torch.set_num_threads(1)


def prepared(zoo: Zoo, kind: str = "timm-resnet", size: tuple[int, int] = (100, 60)) -> tuple[Target, torch.Tensor]:
    target, batch = explainer(random_run(zoo, image=kind)).target(post("good dog", picture(1, size=size)), "image")
    return target, batch.inputs["image"]["pixels"]


@pytest.mark.parametrize("kind", IMAGES)
def test_every_encoder_gets_a_map_by_a_method_that_suits_it(zoo: Zoo, kind: str) -> None:
    target, pixels = prepared(zoo, kind)
    found = explain_pixels(target, pixels)
    # The tiny convolutional networks of transformers end in a single place, which is no map.
    expected = "grad-cam" if kind in ("timm-resnet", "timm-efficientnet", "timm-convnext") else "integrated gradients"
    assert found.method == expected
    assert found.map.ndim == 2
    assert np.isfinite(found.map).all()
    assert np.abs(found.map).max() > 0
    assert found.blurred.shape == found.patches.shape == (GRID, GRID)
    assert found.value == pytest.approx(target.value, abs=1e-4)


def test_convolutional_networks_of_transformers_have_a_feature_map() -> None:
    import transformers as t

    from cotune.encoders.image import HFImageEncoder

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    model = t.ResNetModel(t.ResNetConfig(**sizes)).eval()
    encoder = HFImageEncoder(model, t.ConvNextImageProcessor(size={"shortest_edge": 96}), spec="resnet")
    layer = last_feature_map(encoder)
    assert layer is not None
    answers: list[Any] = []
    handle = layer.register_forward_hook(lambda _m, _a, output: answers.append(output))
    encoder.encode(encoder.dummy_inputs())
    handle.remove()
    assert answers[0].shape == (1, 32, 3, 3)


def test_grad_cam_is_the_features_weighed_by_their_slopes(zoo: Zoo) -> None:
    target, pixels = prepared(zoo)
    layer = last_feature_map(target.image_encoder)
    assert layer is not None
    kept: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _a, output: kept.append(output))
    target.of_pixels(pixels)
    handle.remove()
    features = kept[0][0]
    slopes = torch.zeros(len(features))
    # Slopes by hand: a little more of one feature everywhere.
    for channel in range(len(features)):
        values = []
        for sign in (1, -1):

            def nudge(_m: Any, _a: Any, output: torch.Tensor, channel: int = channel, sign: int = sign) -> torch.Tensor:
                moved = output.clone()
                moved[:, channel] += sign * 1e-2
                return moved

            handle = layer.register_forward_hook(nudge)
            values.append(float(target.of_pixels(pixels)[0]))
            handle.remove()
        slopes[channel] = (values[0] - values[1]) / 2e-2 / features[channel].numel()
    by_hand = (features * slopes[:, None, None]).sum(0).numpy()
    assert np.allclose(grad_cam(target, pixels, layer), by_hand, atol=1e-3 + 0.05 * np.abs(by_hand).max())


def test_smoothed_gradients_add_up_without_noise(zoo: Zoo) -> None:
    target, pixels = prepared(zoo, "vit")
    whole, start = target.of_images(torch.cat([pixels, blurred(pixels)])).tolist()
    found = smooth_gradients(target, pixels, steps=64, copies=1)
    assert found.shape == tuple(pixels.shape[2:])
    assert found.sum() == pytest.approx(whole - start, abs=0.05 * abs(whole - start) + 1e-3)
    again = smooth_gradients(target, pixels, steps=4, copies=2)
    assert np.array_equal(again, smooth_gradients(target, pixels, steps=4, copies=2)), "the same post, the same map"


def test_grad_cam_needs_a_feature_map(zoo: Zoo) -> None:
    target, pixels = prepared(zoo, "vit")
    with pytest.raises(CotuneError, match="no feature map"):
        explain_pixels(target, pixels, method="grad-cam")
    target, pixels = prepared(zoo)
    assert explain_pixels(target, pixels, method="integrated gradients", blur=False).method == "integrated gradients"


def test_patches_are_sharp_or_blurred(zoo: Zoo) -> None:
    _, pixels = prepared(zoo)
    kept = np.ones((2, 49), dtype=bool)
    kept[1, 8] = False
    versions = with_patches(pixels, kept)
    assert torch.equal(versions[:1], pixels)
    changed = (versions[1] != pixels[0]).any(dim=0).numpy()
    rows, columns = np.nonzero(changed)
    side = pixels.shape[2]
    assert rows.min() >= side // 7
    assert rows.max() < 2 * side // 7 + 1
    assert columns.min() >= side // 7
    assert columns.max() < 2 * side // 7 + 1
    assert torch.equal(with_patches(pixels, np.zeros((1, 49), dtype=bool)), blurred(pixels))


def test_blurred_away_is_the_loss_of_one_patch(zoo: Zoo) -> None:
    target, pixels = prepared(zoo)
    kept = np.ones((1, GRID * GRID), dtype=bool)
    kept[0, 10] = False
    lost = target.of_images(pixels)[0] - target.of_images(with_patches(pixels, kept))[0]
    assert blurred_away(target, pixels).ravel()[10] == pytest.approx(float(lost), abs=1e-5)


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("size", [(120, 120), (200, 80), (90, 300), (640, 480)])
def test_crop_and_resize_are_measured(zoo: Zoo, kind: str, size: tuple[int, int]) -> None:
    preprocessor = zoo.image(kind).preprocessor
    frame = measure_crop(preprocessor, size)
    # A bright square on black must be seen where the frame says that it lies.
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    middle = ((frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2)
    at = (middle[0] + (frame.right - frame.left) * 0.2, middle[1] - (frame.bottom - frame.top) * 0.15)
    x, y = int(at[0] * width), int(at[1] * height)
    reach = max(2, min(size) // 16)
    pixels[y - reach : y + reach, x - reach : x + reach] = 255
    seen = preprocessor(Image.fromarray(pixels))[0].astype(float)
    weights = seen / seen.sum()
    rows, columns = np.indices(seen.shape)
    found_x = frame.left + ((weights * (columns + 0.5)).sum() / seen.shape[1]) * (frame.right - frame.left)
    found_y = frame.top + ((weights * (rows + 0.5)).sum() / seen.shape[0]) * (frame.bottom - frame.top)
    assert found_x == pytest.approx(x / width, abs=1.2 / seen.shape[1])
    assert found_y == pytest.approx(y / height, abs=1.2 / seen.shape[0])


def test_a_centre_crop_is_found_to_the_pixel(zoo: Zoo) -> None:
    # Short side to 36, then the middle 32 x 32.
    frame = measure_crop(zoo.image("dinov2").preprocessor, (720, 360))
    assert frame.left == pytest.approx((72 - 32) / 2 / 72, abs=0.01)
    assert frame.right == pytest.approx(1 - (72 - 32) / 2 / 72, abs=0.01)
    assert frame.top == pytest.approx(2 / 36, abs=0.01)
    assert frame.bottom == pytest.approx(34 / 36, abs=0.01)


def test_pictures_of_a_pixel_or_a_line_have_a_frame(zoo: Zoo) -> None:
    preprocessor = zoo.image("vit").preprocessor
    for size in ((1, 1), (2, 2), (300, 1), (1, 300), (3, 200)):
        frame = measure_crop(preprocessor, size)
        assert frame.left < frame.right
        assert frame.top < frame.bottom
        assert -0.6 < frame.left < 0.6


def test_a_map_is_spread_over_the_part_that_is_seen() -> None:
    values = CropGeometry(0.25, 0.0, 0.75, 1.0).spread(np.asarray([[1.0, 2.0], [3.0, 4.0]]), (40, 20))
    assert values.shape == (20, 40)
    assert np.isnan(values[:, :10]).all()
    assert np.isnan(values[:, 30:]).all()
    assert np.isfinite(values[:, 10:30]).all()
    assert values[0, 10] == 1
    assert values[-1, 29] == 4
    assert values[10, 20] == pytest.approx(2.5, abs=0.2)


def test_boxes_lie_in_the_picture() -> None:
    assert CropGeometry(0.25, 0.0, 0.75, 1.0).box(0.5, 0.5, 0.5, 0.5) == (0.5, 0.5, 0.75, 1.0)


def test_the_overlay_shows_for_against_and_unseen() -> None:
    grid = np.zeros((GRID, GRID))
    grid[0, 0], grid[6, 6], grid[3, 3] = 2.0, -1.5, 0.1
    geometry = CropGeometry(0.25, 0.0, 0.75, 1.0)
    drawn = np.asarray(overlay(Image.new("RGB", (200, 100), "white"), grid, grid, geometry)).astype(int)
    assert drawn.shape == (240, 480, 3)

    def near(at: tuple[float, float], colour: tuple[int, int, int]) -> float:
        pixel = drawn[int(at[1] * 240), int(at[0] * 480)]
        return float(np.abs(pixel - np.asarray(colour)).sum())

    assert near((0.30, 0.085), FOR) < near((0.30, 0.085), AGAINST)
    assert near((0.735, 0.95), AGAINST) < near((0.735, 0.95), FOR)
    outside = drawn[:, :100]
    assert np.ptp(outside, axis=2).max() == 0, "what is not seen has no colour"
    assert len(np.unique(outside)) > 1, "but stripes"
    patches = top_patches(grid, geometry)
    assert [(p.number, p.row, p.column) for p in patches] == [(1, 1, 1), (2, 7, 7), (3, 4, 4)]
    assert patches[0].box == pytest.approx((0.25, 0.0, 0.25 + 0.5 / 7, 1 / 7))


def test_a_flat_map_is_drawn_too() -> None:
    found = Pixels("grad-cam", np.zeros((2, 2)), np.zeros((GRID, GRID)), 0.0, 0.0)
    assert overlay(Image.new("RGB", (10, 500)), found.map, found.blurred, CropGeometry(-0.1, 0.0, 1.1, 1.0)).size == (
        10,
        480,
    )
    assert shrink(Image.new("RGB", (10, 10))).size == (40, 40)
    assert found.agreement is None


def test_maps_come_to_the_grid_of_the_patches() -> None:
    assert np.allclose(to_grid(np.full((3, 5), 2.0), 7), 2)
    fine = np.zeros((70, 70))
    fine[:10, :10] = 1
    assert to_grid(fine, 7)[0, 0] == 1
    assert to_grid(fine, 7).sum() == 1


def test_curves_tell_a_good_order_from_a_bad_one() -> None:
    weights = np.asarray([5.0, 3, 1, 0, 0, 0])

    def evaluate(kept: np.ndarray) -> np.ndarray:
        return np.asarray(kept @ weights / weights.sum())

    orders = {
        "best": [ranking(weights)],
        "worst": [ranking(-weights)],
        "chance": random_orders(6, 30, np.random.default_rng(0)),
    }
    areas = curve_areas(evaluate, orders)
    assert areas["best"][0] < areas["chance"][0] < areas["worst"][0]
    assert areas["best"][1] > areas["chance"][1] > areas["worst"][1]
    assert sorted(centre_first(7).tolist()) == list(range(49))
    assert centre_first(7)[0] == 24


def where_colour_tells(zoo: Zoo, folder: Path) -> tuple[Any, list[Any]]:
    """Return a run that reads colours, and posts of one half telling, the other grey."""
    run = ruled_run(zoo, folder, lambda word, colour: colour, fusion="concat")
    posts = ruled_posts(folder / "posts", lambda word, colour: colour, 16, seed=3)
    found = []
    for i in range(0, 16, 2):
        image = Image.open(posts["image"][i]).convert("RGB").resize((80, 80))
        image.paste((128, 128, 128), (0, 0, 40, 80))
        found.append(explainer(run).target(post("good good good sun", image), "image"))
    return run, found


def test_order_beats_chance(zoo: Zoo, tmp_path: Path) -> None:
    _, posts = where_colour_tells(zoo, tmp_path)
    random = np.random.default_rng(0)
    margins: dict[str, list[tuple[float, float]]] = {"grad-cam": [], "integrated gradients": [], "blurred away": []}
    for target, batch in posts:
        pixels = batch.inputs["image"]["pixels"]
        found = explain_pixels(target, pixels)
        orders = {
            "random": random_orders(GRID * GRID, 5, random),
            "grad-cam": [ranking(found.patches)],
            "integrated gradients": [ranking(to_grid(smooth_gradients(target, pixels), GRID))],
            "blurred away": [ranking(found.blurred)],
        }
        areas = curve_areas(patch_evaluator(target, pixels), orders)
        for name, rows in margins.items():
            rows.append((areas["random"][0] - areas[name][0], areas[name][1] - areas["random"][1]))
    means = {name: np.mean(rows, axis=0) for name, rows in margins.items()}
    assert (means["blurred away"] > 0).all(), means
    assert (means["integrated gradients"] > 0).all(), means
    assert sum(means["grad-cam"]) > 0, means


def test_random_weights_give_another_map(zoo: Zoo, tmp_path: Path) -> None:
    run = ruled_run(zoo, tmp_path, lambda word, colour: colour, fusion="concat")
    others = [with_random_weights(run.model, ("head", "text", "image"), seed) for seed in range(4)]
    correlations: dict[str, list[float]] = {"grad-cam": [], "integrated gradients": []}
    # Pictures without empty parts: where a picture equals its blurred self, no gradient of it can be anything but 0.
    for i in range(4):
        target, batch = explainer(run).target(post("good good good sun", picture(50 + i, size=(80, 80))), "image")
        pixels = batch.inputs["image"]["pixels"]
        for method in ("grad-cam", "integrated gradients"):
            mine = explain_pixels(target, pixels, method=method, blur=False).patches.ravel()
            assert rank_correlation(
                mine, explain_pixels(target, pixels, method=method, blur=False).patches.ravel()
            ) == (pytest.approx(1))
            for other in others:
                changed = Target(other, batch, "image", target.index)
                theirs = explain_pixels(changed, pixels, method=method, blur=False).patches.ravel()
                correlations[method].append(rank_correlation(mine, theirs) or 0.0)
    for method, found in correlations.items():
        assert abs(np.mean(found)) < 0.4, (method, found)
