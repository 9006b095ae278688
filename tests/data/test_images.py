from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from cotune.data.images import sources
from cotune.data.images.load import ImageFault, extension_matches, image_key, load_image, verify_image
from cotune.data.images.sources import file_url_path

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 255, (60, 80, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fault(source: Any, **options: Any) -> ImageFault:
    with pytest.raises(ImageFault) as caught:
        load_image(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"),
     ("PNG", "1"), ("GIF", "P"), ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "RGB")],
)  # fmt: skip
def test_every_mode_becomes_rgb_of_the_same_look(kind: str, mode: str) -> None:
    image = load_image(encode(NOISE.convert(mode), kind))
    assert image.mode == "RGB"
    assert image.size == (80, 60)
    assert abs(np.asarray(image).mean() - np.asarray(NOISE).mean()) < 6


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = np.asarray(load_image(encode(Image.fromarray(ramp), "PNG")))[..., 0]
    assert pixels.ravel().tolist() == np.rint(ramp.ravel() / 257).astype(int).tolist()
    assert np.asarray(load_image(Image.fromarray(ramp.astype(np.int32)))).mean() == pytest.approx(127.5, abs=1)
    unit = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert set(np.asarray(load_image(unit)).ravel()) == {128}


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert load_image(encode(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    assert load_image(encode(palette, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_turns_the_picture_and_bad_exif_does_not_spoil_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encode(NOISE, "JPEG", exif=exif)).size == (60, 80)
    assert load_image(encode(NOISE, "JPEG", exif=b"Exif\x00\x00MM\x00*garbage")).size == (80, 60)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = load_image(data).getpixel((4, 4))  # type: ignore[misc]
        assert red > 200
        assert blue < 50


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.5, 0.9, 0.99])
def test_a_truncated_file_is_never_patched_up(kind: str, part: float) -> None:
    data = encode(NOISE, kind)
    assert fault(data[: int(len(data) * part)]).kind == "truncated"
    assert [found.kind for found in verify_image(data[: int(len(data) * part)]).faults] == ["truncated"]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_damaged_bytes_give_a_picture_or_a_fault(data: st.DataObject, kind: str) -> None:
    raw = bytearray(encode(NOISE.resize((16, 12)), kind))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=12)):
        raw[place] = data.draw(st.integers(0, 255))
    try:
        assert load_image(bytes(raw)).mode == "RGB"
    except ImageFault as found:
        assert found.kind in {"unreadable", "truncated", "too large", "empty"}


def test_faults_of_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><html>")
    (tmp_path / "words.jpg").write_text("hello")
    (tmp_path / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1")
    assert fault(tmp_path / "none.png").kind == "missing"
    assert fault(str(tmp_path / ("x" * 5000))).kind == "missing"
    assert fault("nul\x00.png").kind == "missing"
    assert fault(tmp_path).kind == "not a file"
    assert fault(tmp_path / "empty.png").kind == "empty"
    assert fault(tmp_path / "words.jpg").kind == "unreadable"
    assert "web page" in str(fault(tmp_path / "page.jpg"))
    assert "git lfs pull" in str(fault(tmp_path / "lfs.jpg"))
    assert fault(42).kind == "unreadable"
    assert str(tmp_path / "none.png") in str(fault(tmp_path / "none.png"))


def test_files_that_would_start_other_programs_are_not_opened() -> None:
    assert fault(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n").kind == "unreadable"


def test_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert fault(encode(NOISE, "PNG"), max_pixels=4799).kind == "too large"
    assert load_image(encode(NOISE, "PNG"), max_pixels=4800).size == (80, 60)
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")
    assert fault(bomb).kind == "too large"
    assert [found.kind for found in verify_image(bomb).faults] == ["too large"]
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    NOISE.save(tmp_path / "a.png")
    assert fault(tmp_path / "a.png").kind == "too large"


def test_urls(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "a b.png")
    assert load_image((tmp_path / "a b.png").as_uri()).size == (80, 60)
    assert fault("https://example.org/a.png").kind == "remote"
    import fsspec

    with fsspec.open("memory://pictures/a.png", "wb") as handle:
        handle.write(encode(NOISE, "PNG"))
    assert fault("memory://pictures/a.png").kind == "remote"
    assert load_image("memory://pictures/a.png", allow_remote=True).size == (80, 60)
    assert fault("memory://pictures/b.png", allow_remote=True).kind == "remote"
    assert fault("nonsense://a.png", allow_remote=True).kind == "remote"


def test_large_jpegs_are_decoded_small_on_request() -> None:
    data = encode(NOISE.resize((1600, 1200)), "JPEG")
    assert load_image(data).size == (1600, 1200)
    small = load_image(data, min_side=224)
    assert 224 <= min(small.size) < 448
    assert load_image(data, min_side=1200).size == (1600, 1200)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((6, 8), np.uint8), np.zeros((6, 8, 1), np.uint8), np.zeros((6, 8, 3), np.uint8),
        np.zeros((6, 8, 4), np.uint8), np.zeros((6, 8, 3), np.float32), np.zeros((6, 8), bool),
        np.zeros((6, 8), np.uint16), np.zeros((6, 8, 3), np.int64),
    ],
)  # fmt: skip
def test_arrays(array: np.ndarray[Any, Any]) -> None:
    image = load_image(array)
    assert (image.mode, image.size) == ("RGB", (8, 6))


def test_float_arrays_are_scaled() -> None:
    assert load_image(np.full((2, 2, 3), 0.5)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 6, 8), np.uint8), "transpose"),
        (np.zeros((6, 8, 2), np.uint8), "height x width"),
        (np.zeros(5, np.uint8), "height x width"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.full((2, 2), 255.0), "0..1"),
        (np.full((2, 2), np.nan), "0..1"),
        (np.full((2, 2), -1), "0..255"),
        (np.full((2, 2), "a"), "no pixels"),
    ],
)
def test_arrays_that_leave_doubt(array: np.ndarray[Any, Any], words: str) -> None:
    assert words in str(fault(array))


def test_keys_follow_content(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert image_key(tmp_path / "a.png") == image_key(data)
    assert image_key(NOISE) == image_key(np.asarray(NOISE)) != image_key(NOISE.transpose(Image.Transpose.ROTATE_180))
    with pytest.raises(ImageFault):
        image_key(tmp_path / "none.png")


def test_the_extension_is_compared_with_the_content(tmp_path: Path) -> None:
    for name, right in (("a.png", False), ("a.jpg", True), ("a.JPEG", True), ("a.img", True), ("a", True)):
        (tmp_path / name).write_bytes(encode(NOISE, "JPEG"))
        info = verify_image(tmp_path / name)
        assert (info.format, info.extension_ok, info.faults) == ("JPEG", right, [])
        assert (info.width, info.height) == (80, 60)
    assert [found.kind for found in verify_image(tmp_path / "none.png").faults] == ["missing"]


def test_lab_pictures_are_converted_or_refused() -> None:
    profile = ImageCms.createProfile("LAB")
    assert profile is not None
    lab = encode(Image.new("LAB", (8, 8)), "TIFF")
    try:
        assert load_image(lab).mode == "RGB"
    except ImageFault as found:
        assert found.kind == "unreadable"


def test_a_fault_travels_between_processes() -> None:
    again = pickle.loads(pickle.dumps(ImageFault("missing", "a.png: no such file")))
    assert (again.kind, str(again)) == ("missing", "a.png: no such file")


def test_urls_that_cannot_be_taken_apart_are_names_of_nothing() -> None:
    assert file_url_path("file://[x/y.png") == "file://[x/y.png"
    assert extension_matches("https://[x/y.png", "PNG")


def test_a_gif_whose_comment_would_take_hours_is_refused() -> None:
    whole = encode(NOISE.convert("P"), "GIF")
    frame = whole.index(b",", 13 + 3 * 256)
    for n, kind in ((1000, None), (2_000_000, "unreadable")):
        given = whole[:frame] + b"\x21\xfe" + b"\x01a" * n + b"\0" + whole[frame:]
        if kind is None:
            assert load_image(given).size == (80, 60)
        else:
            assert fault(given).kind == kind


def test_an_icon_that_holds_a_larger_image_than_pillow_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    inner = encode(NOISE, "PNG")
    head = bytes([0, 0, 1, 0, 1, 0, 16, 16, 0, 0, 1, 0, 32, 0])
    assert fault(head + len(inner).to_bytes(4, "little") + (22).to_bytes(4, "little") + inner).kind == "too large"
