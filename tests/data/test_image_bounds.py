"""Images are bounded in bytes, pixels, pieces and kind before anything is decoded."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cotune.data.images import decode, sources
from cotune.data.images.load import ImageFault, image_pixels, load_image, open_bytes
from cotune.data.images.pixels import to_rgb
from cotune.data.images.sources import read_bytes, read_regular_file
from cotune.data.images.structure import passes

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 255, (60, 80, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def fault(source: object) -> ImageFault:
    with pytest.raises(ImageFault) as caught:
        load_image(source)  # type: ignore[arg-type]
    return caught.value


def test_devices_pipes_and_sockets_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    opened: list[str] = []
    own = os.open
    monkeypatch.setattr(os, "open", lambda name, *rest: opened.append(str(name)) or own(name, *rest))
    for name in ("/dev/zero", "/dev/tty", str(tmp_path / "pipe.png"), str(tmp_path / "link.png"), str(tmp_path)):
        assert fault(name).kind == "not a file"
        assert image_pixels(name) is None
    assert opened == []


def test_a_file_that_becomes_a_pipe_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pipe = tmp_path / "a.png", tmp_path / "pipe"
    path.write_bytes(encode(NOISE, "PNG"))
    os.mkfifo(pipe)
    own = os.open
    monkeypatch.setattr(os, "open", lambda name, *rest: own(pipe if str(name) == str(path) else name, *rest))
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(fault(str(path)).kind), daemon=True)
    thread.start()
    thread.join(5)
    assert found == ["not a file"]


def test_a_file_that_grows_is_read_to_the_limit_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 1_000)
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    assert fault(path).kind == "too large"
    small = os.stat_result((0o100644, 0, 0, 1, 0, 0, 10, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda _: small)
    assert len(read_regular_file(str(path), 100)) == 101
    assert fault(path).kind == "too large"
    assert len(read_regular_file(str(path), 64, cut=True)) == 64


@pytest.mark.parametrize(
    "url",
    ["simplecache::file:///etc/hostname", "local:///etc/hostname", "filecache::local:///etc/hostname",
     "zip://a.png::/tmp/a.zip", "reference:///etc/hostname", "dir://x::file:///etc", "FILECACHE::FILE:///etc/hostname",
     "git:///etc:hostname@main"],
)  # fmt: skip
def test_no_url_leads_back_to_files_of_this_machine(url: str) -> None:
    with pytest.raises(ImageFault) as caught:
        read_bytes(url, allow_remote=True)
    assert caught.value.kind == "remote"
    assert "leads through this machine" in str(caught.value)


@pytest.mark.parametrize("kind", ["TGA", "PCX", "SGI", "EPS", "PDF", "ICNS"])
def test_formats_that_no_post_holds_are_not_tried(kind: str) -> None:
    assert fault(encode(NOISE, kind)).kind == "unreadable"


def test_a_png_of_millions_of_chunks_is_refused_at_once() -> None:
    data = encode(NOISE, "PNG")
    many = data[:33] + chunk(b"prIv", b"") * 1_000_000 + data[33:]
    started = time.perf_counter()
    assert "chunks" in str(fault(many))
    assert time.perf_counter() - started < 1
    assert load_image(data[:33] + chunk(b"prIv", b"") * 1_000 + data[33:]).size == (80, 60)


@pytest.mark.parametrize("key", [b"zTXt", b"iCCP", b"iTXt"])
def test_what_a_png_packs_beside_its_pixels_is_bounded(key: bytes) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    body = {b"zTXt": b"key\0\0", b"iCCP": b"key\0\0", b"iTXt": b"key\0\x01\0en\0key\0"}[key] + bomb
    data = encode(NOISE, "PNG")
    found = fault(data[:33] + chunk(key, body) + data[33:])
    assert found.kind in ("unreadable", "too large")
    assert PngImagePlugin.MAX_TEXT_CHUNK <= 2**20


def test_a_progressive_jpeg_that_is_drawn_a_thousand_times_is_refused() -> None:
    data = encode(NOISE.resize((4000, 3000)), "JPEG", progressive=True)
    assert 2 <= passes(data) <= 12
    assert load_image(data, min_side=100).size[0] >= 100
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 2_000 + data[-2:]
    assert passes(bomb) > 1_000
    started = time.perf_counter()
    assert fault(bomb).kind == "too large"
    assert time.perf_counter() - started < 2
    # Bytes that look like passes in a film behind the image, as phones store it, do not count.
    assert passes(data + b"\xff\xda\x00\x02" * 5_000) == passes(data)
    assert passes(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100_000) * 64 * 64 > 10**9


def test_gray_of_sixteen_bits_takes_little_memory_on_the_way() -> None:
    import tracemalloc

    wide = Image.fromarray(np.full((3_000, 3_000), 30_000, np.uint16))
    tracemalloc.start()
    found = to_rgb(wide)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.getpixel((5, 5)) == (117, 117, 117)
    assert peak < 12 * 9_000_000  # eight bytes a pixel three times over are more


def test_sizes_are_read_off_files_of_any_size(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "a.png")
    assert image_pixels(str(tmp_path / "a.png")) == 4_800
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes() + bytes(200_000))
    assert image_pixels(str(tmp_path / "b.png")) == 4_800
    assert image_pixels(str(tmp_path / "none.png")) is None
    with open_bytes((tmp_path / "a.png").read_bytes(), "a") as image:
        assert image.size == (80, 60)
    assert "TGA" not in decode._FORMATS
