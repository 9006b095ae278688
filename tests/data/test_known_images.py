"""Known images are found again in predictions, whatever runs the model; damaged tables of hashes are named by row."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cotune.cli import main
from cotune.data.known_images import KnownImages, read_known
from cotune.errors import ConfigError, CotuneError, DataError
from cotune.estimators.classifier import JointClassifier
from cotune.predict import Predictor
from cotune.run import Run, save_run
from cotune.scoring import Scorer
from runs import tiny_fit
from tiny import Zoo


def telling(seed: int) -> Image.Image:
    """Return an image that is not mostly of one shade."""
    blocks = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((400, 300), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("run"), tune="frozen").run


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    save_run(folder, run)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Posts of which 0 and 1 show a known image, 2 none, 3 one of one shade, 4 one that cannot be read, 5 nothing."""
    place = tmp_path_factory.mktemp("posts")
    (place / "images").mkdir()
    (place / "known").mkdir()
    for name, seed in (("first", 100), ("second", 101)):
        telling(seed).save(place / "known" / f"{name}.png")
    Image.new("RGB", (80, 80), (200, 0, 0)).save(place / "known" / "flat.png")
    (place / "known" / "broken.png").write_bytes(b"\x89PNG nothing")
    (place / "known" / "notes.txt").write_text("no image")
    telling(100).resize((200, 150)).save(place / "images" / "0.jpg", quality=60)
    telling(101).convert("L").save(place / "images" / "1.png")
    telling(102).save(place / "images" / "2.png")
    Image.new("RGB", (80, 80), (200, 0, 0)).save(place / "images" / "3.png")
    (place / "images" / "4.png").write_bytes(b"\x89PNG nothing")
    images: list[str | None] = [f"images/{i}.{'png' if i else 'jpg'}" for i in range(5)]
    posts = pd.DataFrame({"id": list("abcdef"), "text": ["so happy"] * 6, "image": [*images, None]})
    posts.to_csv(place / "posts.csv", index=False)
    return place / "posts.csv"


@pytest.fixture(scope="module")
def hashes(table: Path) -> Path:
    out = table.parent / "hashes.csv"
    assert main(["hashes", str(table.parent / "known"), "--out", str(out)]) == 0
    return out


def test_hashes_of_a_folder_are_named_by_path_and_left_out_aloud(
    table: Path, hashes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = pd.read_csv(hashes, dtype=str)
    assert found["name"].tolist() == ["first.png", "second.png"]
    assert found["algorithm"].tolist() == ["phash"] * 2
    theirs = imagehash.phash(Image.open(table.parent / "known" / "first.png"))
    assert int(found["hash"][0], 16) ^ int(str(theirs), 16) == 0
    assert main(["hashes", str(table.parent / "known"), "--out", str(hashes), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["flat"] == ["flat.png"]
    assert said["unreadable"] == ["broken.png"]
    assert said["hashes"] == 2


def test_hashes_of_a_table_are_named_by_id(table: Path, tmp_path: Path) -> None:
    assert main(["hashes", str(table), "--out", str(tmp_path / "h.csv"), "-q"]) == 0
    assert pd.read_csv(tmp_path / "h.csv")["name"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_predictions_say_which_image_is_known(
    folder: Path,
    tiny_export: Path,
    table: Path,
    hashes: Path,
    tmp_path: Path,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if engine == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
        monkeypatch.delenv("COTUNE_ENGINE", raising=False)
        folder = tiny_export
    out = tmp_path / "p.csv"
    asked = ["predict", str(folder), str(table), "--out", str(out), "--engine", engine, "--known", str(hashes)]
    assert main([*asked, "--chunk-size", "4"]) == 0
    found = pd.read_csv(out)
    assert found.columns[-3:].tolist() == ["known", "known_distance", "error"]
    assert found["known"].tolist()[:2] == ["first.png", "second.png"]
    assert found["known"].isna().tolist() == [False, False, True, True, True, True]
    assert (found["known_distance"][:2] <= 8).all()
    assert found["label"].notna().tolist() == [True, True, True, True, False, True]
    assert main([*asked[:-2], "--out", str(tmp_path / "plain.csv")]) == 0
    plain = pd.read_csv(tmp_path / "plain.csv")
    assert "known" not in plain
    pd.testing.assert_frame_equal(plain, found.drop(columns=["known", "known_distance"]))
    assert main([*asked, "--known-distance", "0", "--out", str(tmp_path / "exact.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "exact.jsonl").read_text().splitlines()]
    assert {line["known_distance"] for line in lines} <= {None, 0.0}


def test_one_post_is_told_of(folder: Path, table: Path, hashes: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = ["predict", str(folder), "--text", "so sad", "--known", str(hashes), "--engine", "torch", "--image"]
    assert main([*one, str(table.parent / "known" / "second.png")]) == 0
    assert "known image: second.png (0 differing bits)" in capfd.readouterr().err
    assert main([*one, str(table.parent / "images" / "2.png"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["known"] is None


def test_resuming_with_other_hashes_is_refused(
    folder: Path, table: Path, hashes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    score = Predictor.score

    def stop(self: Predictor, read: Any) -> Any:
        monkeypatch.setattr(Predictor, "score", interrupt)
        return score(self, read)

    def interrupt(self: Predictor, read: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "score", stop)
    asked = [
        "predict",
        str(folder),
        str(table),
        "--out",
        str(tmp_path / "p.csv"),
        "--engine",
        "torch",
        "--chunk-size",
        "2",
    ]
    assert main([*asked, "--known", str(hashes)]) == 130
    monkeypatch.setattr(Predictor, "score", score)
    assert main([*asked, "--known", str(hashes), "--known-distance", "2", "--resume"]) == 2
    assert "another known" in capfd.readouterr().err
    assert main([*asked, "--known", str(hashes), "--resume"]) == 0
    assert pd.read_csv(tmp_path / "p.csv")["known"].notna().sum() == 2


def test_the_estimator_takes_them(folder: Path, table: Path, hashes: Path) -> None:
    model = JointClassifier.load(folder)
    posts = [{"text": "so sad", "image": str(table.parent / "known" / name)} for name in ("second.png", "flat.png")]
    assert "known" not in model.predict_frame(posts)
    for known in (hashes, read_known(hashes, 0)):
        assert model.predict_frame(posts, known=known)["known"].tolist() == ["second.png", None]


def test_the_service_says_it(run: Run, table: Path, hashes: Path) -> None:
    from cotune.serve.limits import Limits
    from cotune.serve.model import ServedModel

    predictor = Predictor(run)
    predictor.look_for(read_known(hashes))
    model = ServedModel("m", predictor, Limits())
    data = io.BytesIO()
    telling(101).save(data, "PNG")
    image = base64.b64encode(data.getvalue()).decode()
    read = model.reader.read
    sent = [read({"text": "so sad", "image": image}, "0"), read({"text": "so sad"}, "1"), read({}, "2")]
    found = model.score(sent)
    assert [(each.known, each.known_distance) for each in found] == [("second.png", 0), (None, None), (None, None)]
    assert [each.label is None for each in found] == [False, False, True]


def test_a_model_without_images_has_none_to_look_for(zoo: Zoo, tmp_path: Path, hashes: Path) -> None:
    predictor: Scorer[Any] = Predictor(tiny_fit(zoo, tmp_path, tune="frozen", fusion="text").run)
    with pytest.raises(ConfigError, match="it reads none"):
        predictor.look_for(read_known(hashes))


GOOD = "84bcd3639b722a87"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\nx\n", "needs the column hash"),
        (f"hash\n{GOOD}\n12\n", "row 2, column hash: '12' is not 16 hexadecimal digits"),
        (f"hash,name\n{GOOD},a\n,b\n", "row 2, column hash: '' is not"),
        (f"hash\n{GOOD}{GOOD}{GOOD}{GOOD}\n", "row 1, column hash"),
        ("hash\n84bcd3639b722a8g\n", "row 1, column hash"),
        ("hash\n\u0661234567890123456\n", "row 1, column hash"),
        ("hash\n0000000000000000\n", "row 1, column hash: the hash 0"),
        (f"hash,algorithm\n{GOOD},phash\n{GOOD},pdq\n", "row 2, column algorithm: 'pdq'"),
        ("hash\n", "holds no hashes"),
        ("", "is empty"),
    ],
)
def test_a_damaged_table_is_named_by_file_row_and_column(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "hashes.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as fault:
        read_known(path)
    assert said in str(fault.value)
    assert "hashes.csv" in str(fault.value)


def test_tables_of_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "hashes.csv"
    path.write_text(f"\ufeffhash;name;algorithm\n0x{GOOD.upper()};Grumpy cat;pHash\n{GOOD};;\n", encoding="utf-8")
    found = read_known(path)
    assert found.hashes.tolist() == [int(GOOD, 16)] * 2
    assert list(found.names) == ["Grumpy cat", GOOD]
    with pytest.raises(ConfigError, match="0 to 16"):
        read_known(path, 17)


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_hashes_or_an_error_in_words(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any_hashes.csv"
    path.write_text("hash,name\n" + text, encoding="utf-8")
    try:
        assert len(read_known(path).names) > 0
    except CotuneError as fault:
        assert "\n" not in str(fault)


def test_words_on_white_are_not_taken_for_each_other(table: Path) -> None:
    from cotune.data.duplicates import Fingerprint
    from cotune.data.images.appearance import Appearance

    def page(words: str) -> Image.Image:
        image = Image.new("RGB", (400, 300), "white")
        ImageDraw.Draw(image).text((40, 140), words, fill="black")
        return image

    marks = [Fingerprint.of(words, Appearance.of(page(words))) for words in ("this is fine", "this is not")]
    known = KnownImages(np.asarray([mark.look for mark in marks], dtype=np.uint64), ["one", "other"], 16)
    assert known.find([marks], 2)[0] == [None, None]


def test_flags_that_make_no_sense_are_refused(folder: Path, table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["predict", str(folder), str(table), "--out", str(table.parent / "p.csv")]
    assert main([*asked, "--known-distance", "3"]) == 2
    assert "--known-distance is about the images of --known" in capfd.readouterr().err
    assert main(["hashes", str(table), "--out", str(table.parent / "h.txt")]) == 2
    assert main(["hashes", str(table), "--out", str(table)]) == 2
    assert table.read_text().startswith("id,text")
    (table.parent / "empty").mkdir()
    assert main(["hashes", str(table.parent / "empty"), "--out", str(table.parent / "h.csv")]) == 2
    assert "holds no image files" in capfd.readouterr().err
