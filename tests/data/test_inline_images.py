"""Images within cells: base64, data URIs, binary files, tensors; and no message that prints a whole cell."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cotune.cli import main
from cotune.data.checks.quality import check_posts
from cotune.data.images import sources
from cotune.data.images.inline import is_inline
from cotune.data.images.load import ImageFault, describe, image_key, load_image, verify_image
from cotune.data.posts import data_hash, iter_posts, read_posts
from cotune.data.tables.row_errors import row_errors
from cotune.errors import clip, listed
from tiny import picture


def encoded(kind: str = "PNG", size: tuple[int, int] = (48, 40)) -> bytes:
    buffer = io.BytesIO()
    picture(1, size=size).save(buffer, format=kind)
    return buffer.getvalue()


def words(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_base64_and_data_uris_are_the_image(kind: str) -> None:
    data = encoded(kind)
    wanted = np.asarray(load_image(data))
    plain = words(data)
    lines = "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    uri = f"data:image/{kind.lower()};base64,{plain}"
    for cell in (plain, lines, plain.rstrip("="), plain.replace("+", "-").replace("/", "_") if kind != "JPEG" else plain,
                 uri, uri.replace("data:", "DATA:"), uri.encode(), f"data:;base64,{plain}"):  # fmt: skip
        assert is_inline(cell.decode() if isinstance(cell, bytes) else cell)
        assert np.array_equal(np.asarray(load_image(cell)), wanted)
        assert image_key(cell) == image_key(data), "the same image, however it is written"
        assert verify_image(cell).faults == []
        assert verify_image(cell).extension_ok


def test_the_smallest_images_count_too() -> None:
    buffer = io.BytesIO()
    Image.new("P", (1, 1)).save(buffer, format="GIF")
    assert load_image(words(buffer.getvalue())).size == (1, 1)
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    assert load_image(dot).size == (1, 1)


def test_a_percent_encoded_uri() -> None:
    from urllib.parse import quote_from_bytes

    assert load_image(f"data:image/png,{quote_from_bytes(encoded())}").size == (48, 40)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_in_every_kind_of_table(tmp_path: Path, suffix: str) -> None:
    data = encoded("JPEG")
    cells: list[Any] = [words(data), f"data:image/jpeg;base64,{words(data)}", "there.jpg"]
    (tmp_path / "there.jpg").write_bytes(data)
    frame = pd.DataFrame({"text": ["a", "b", "c"], "image": cells, "label": ["x", "y", "x"]})
    path = tmp_path / f"posts{suffix}"
    if suffix == ".parquet":
        frame["image"] = [cell.encode() if i < 2 else data for i, cell in enumerate(cells)]
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in frame.to_dict("records")))
    else:
        frame.to_csv(path, index=False)
    for posts in (read_posts(path), pd.concat(iter_posts(path, 2), ignore_index=True)):
        report = check_posts(posts)
        assert report.image_troubles == []
        assert report.images["sound"] == 3
        assert report.images["different"] == 1
        data_hash(posts)


@pytest.mark.parametrize(
    ("cell", "kind", "reason"),
    [
        ("data:image/png;base64", "unreadable", "no comma"),
        ("data:image/png;base64,!!!!" + "A" * 999, "unreadable", "not valid base64: it has '!' at character 1"),
        ("data:image/png;base64,", "empty", "0 bytes"),
        ("data:image/png;base64," + "A" * 9, "unreadable", "cut off"),
        ("data:image/png;base64," + words(b"hello world"), "unreadable", "in a format that can be read"),
        ("data:image/svg+xml;base64," + words(b"<svg xmlns='x'/>"), "unreadable", "SVG"),
        ("/9j/" + "A" * 5000 + "?" + "A" * 5000, "unreadable", "not valid base64: it has '?' at character 5005"),
        (words(encoded("JPEG", (300, 300)))[:2000], "truncated", ""),
        ("x" * 9000, "missing", "too long for a path"),
        ("ä" * 9000, "missing", "too long for a path"),
    ],
)
def test_malformed_cells_are_one_short_line(tmp_path: Path, cell: str, kind: str, reason: str) -> None:
    posts = read_posts(pd.DataFrame({"image": [cell]}))
    with pytest.raises(ImageFault) as caught:
        load_image(posts["image"][0])
    assert caught.value.kind == kind
    assert reason in str(caught.value)
    assert len(str(caught.value)) <= 400
    assert "\n" not in str(caught.value)
    (trouble,) = check_posts(posts).image_troubles
    assert len(trouble.image) <= 200
    assert "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" not in trouble.reason + trouble.image


def test_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    with pytest.raises(ImageFault) as caught:
        load_image("data:image/png;base64,%%%" + "A" * 2000)
    assert caught.value.kind == "too large"


def test_too_many_pixels_within_a_cell() -> None:
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, format="PNG")
    with pytest.raises(ImageFault) as caught:
        load_image(f"data:image/png;base64,{words(buffer.getvalue())}")
    assert caught.value.kind == "too large"


@settings(deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=80).map(lambda data: "data:;base64," + words(data)))
def test_any_cell_gives_an_image_or_a_short_reason(cell: str) -> None:
    posts = read_posts(pd.DataFrame({"text": ["a"], "image": [cell]}))
    if posts["image"][0] is None:
        return
    for fault in verify_image(posts["image"][0]).faults:
        assert len(str(fault)) <= 500


@pytest.mark.parametrize(
    "path", ["a.jpg", "/9j/img.jpg", "img/iVBORw0KGgo.png", "data/a.png", "Qkfolder/x", "/9j", "a" * 60]
)
def test_paths_stay_paths(path: str) -> None:
    assert not is_inline(path)


def test_what_holds_an_image_in_python() -> None:
    data = encoded()
    wanted = np.asarray(load_image(data))
    read = io.BytesIO(data)
    read.read()
    chw = torch.from_numpy(wanted.copy()).permute(2, 0, 1)
    cells = [
        io.BytesIO(data),
        read,
        bytearray(data),
        memoryview(data),
        wanted,
        chw,
        chw.float() / 255,
        torch.from_numpy(wanted.copy()),
    ]
    posts = read_posts(pd.DataFrame({"image": pd.Series(cells, dtype=object)}))
    assert row_errors(posts) == [None] * len(cells)
    for image, cell in zip(posts["image"], cells, strict=True):
        assert np.array_equal(np.asarray(load_image(image)), wanted)
        assert np.array_equal(np.asarray(load_image(cell)), wanted)


def test_an_open_file_and_a_tensor_of_another_precision(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    with (tmp_path / "a.png").open("rb") as handle:
        cells = np.empty(2, dtype=object)
        cells[0] = handle
        cells[1] = torch.zeros(3, 8, 9, dtype=torch.bfloat16)
        posts = read_posts(pd.DataFrame({"image": cells}))
    assert [load_image(image).size for image in posts["image"]] == [(48, 40), (9, 8)]


def test_a_closed_file_and_a_tensor_that_is_no_image_are_errors_of_their_row() -> None:
    closed = io.BytesIO(b"x")
    closed.close()
    posts = read_posts(pd.DataFrame({"image": pd.Series([closed, torch.zeros(2, 3, 4, 5)], dtype=object)}))
    assert "cannot be read" in str(row_errors(posts)[0])
    assert verify_image(posts["image"][1]).faults[0].kind == "unreadable"


# ---- nothing prints a whole cell -------------------------------------------------------------------------------


def test_names_in_messages_are_short() -> None:
    assert clip("x" * 200) == "x" * 200
    assert len(clip("x" * 5000)) == 200
    assert describe("data:image/png;base64," + "A" * 999) == "data URI 'image/png' of 1,021 characters"
    assert len(describe("https://example.org/" + "a" * 999)) == 200
    assert listed(["a", "b" * 99, "c"], most=2, quote=True) == f"'a', '{'b' * 28}...{'b' * 29}' and 1 more"


def test_check_prints_no_long_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "z" * 3000
    records = [
        {"id": long, "text": long, "image": long, "label": long},
        {"id": long[1:], "text": long, "image": "data:image/png;base64," + long, "label": "y"},
        {"id": "3", "text": "a", "image": long + ".jpg", "label": long[1:]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["check", str(tmp_path / "a.jsonl")]) == 0
    page = "".join(capsys.readouterr().out.split())
    assert "z" * 201 not in page
    records[1]["id"] = long
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["check", str(tmp_path / "a.jsonl")]) == 2
    assert len(capsys.readouterr().err) < 500
    (tmp_path / "b.csv").write_text(f"{long},other\n1,2\n")
    assert main(["check", str(tmp_path / "b.csv")]) == 2
    assert len(capsys.readouterr().err) < 500
