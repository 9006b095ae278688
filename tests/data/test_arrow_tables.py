"""Parquet, data sets of Hugging Face and tables of Arrow: names of classes, images, tables in memory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cotune import JointClassifier
from cotune.data.images.load import load_image
from cotune.data.posts import iter_posts, read_posts
from cotune.errors import DataError
from runs import tiny_settings
from tiny import Zoo, make_posts


def schema_with(features: Any) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["negative", "positive"], "_type": "ClassLabel"},
}


def class_labels(path: Path, labels: list[Any], features: Any = FEATURES) -> Path:
    table = pa.table({"text": [f"t{i}" for i in range(len(labels))], "label": labels})
    pq.write_table(table.replace_schema_metadata(schema_with(features)), path)
    return path


def test_parquet_of_hugging_face_gives_the_names_of_its_classes(tmp_path: Path) -> None:
    path = class_labels(tmp_path / "a.parquet", [1, 0, None, -1, 1, 7])
    assert read_posts(path)["label"].tolist() == ["positive", "negative", None, None, "positive", None]
    assert pd.concat(iter_posts(path, 2))["label"].tolist() == ["positive", "negative", None, None, "positive", None]
    assert read_posts(path, where={"label": "positive"})["row"].tolist() == [1, 5]


@pytest.mark.parametrize(
    "features",
    [{}, [], "x", {"label": None}, {"label": {"_type": "ClassLabel"}}, {"label": {"names": {"a": 0}, "_type": "ClassLabel"}},
     {"label": {"names": ["a", "b"], "_type": "Value"}}],
)  # fmt: skip
def test_other_metadata_leaves_the_numbers(tmp_path: Path, features: Any) -> None:
    assert read_posts(class_labels(tmp_path / "a.parquet", [1, 0], features))["label"].tolist() == ["1", "0"]


def test_metadata_that_is_no_json(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "label": [1]}).replace_schema_metadata({b"huggingface": b"\xff{"})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_posts(tmp_path / "a.parquet")["label"].tolist() == ["1"]


def test_parquet_and_save_to_disk_agree(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
        }
    )
    pictures = [Image.new("RGB", (5, 4), "red"), None, Image.new("RGB", (5, 4), "blue")]
    table = datasets.Dataset.from_dict(
        {"text": ["a", "b", None], "image": pictures, "label": [1, -1, 0]}, features=features
    )
    table.save_to_disk(str(tmp_path / "set"))
    table.to_parquet(str(tmp_path / "set.parquet"))
    for posts in (read_posts(tmp_path / "set"), read_posts(tmp_path / "set.parquet")):
        assert posts["label"].tolist() == ["pos", None, "neg"]
        assert [None if image is None else load_image(image).size for image in posts["image"]] == [(5, 4), None, (5, 4)]


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def test_an_arrow_table_is_a_posts_table() -> None:
    table = pa.table(
        {
            "text": ["a", None],
            "image": [{"bytes": png("red"), "path": None}, None],
            "label": [1, 0],
            "split": ["train", "test"],
        }
    )
    posts = read_posts(table)
    assert posts["text"].tolist() == ["a", None]
    assert load_image(posts["image"][0]).size == (6, 5)
    assert read_posts(table, where={"split": "test"})["row"].tolist() == [2]
    named = table.replace_schema_metadata(schema_with({"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}))
    assert read_posts(named)["label"].tolist() == ["yes", "no"]
    assert read_posts(table.to_batches()[0])["label"].tolist() == ["1", "0"]


def test_what_hands_itself_over_as_arrow_is_one_too() -> None:
    class Other:  # as polars does
        def __init__(self, table: Any) -> None:
            self.table = table

        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return self.table.__arrow_c_stream__(requested_schema)

    assert read_posts(Other(pa.table({"text": ["a", "b"]})))["text"].tolist() == ["a", "b"]


def test_arrow_tables_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match="the Arrow table has no column 'text' and no 'image'"):
        read_posts(pa.table({"words": ["a"]}))
    with pytest.raises(DataError, match="2 columns called 'text'"):
        read_posts(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]))
    with pytest.raises(DataError, match="the Arrow table holds no posts"):
        read_posts(pa.table({"text": pa.array([], pa.string())}))
    with pytest.raises(DataError, match="a path, a DataFrame or an Arrow table, not list"):
        read_posts([1, 2])


def test_the_classifier_takes_arrow_and_everything_that_holds_an_image(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 12, gaps=False)
    model = JointClassifier(**tiny_settings(zoo, tmp_path / "cache", tune="frozen"))
    table = pa.table(
        {"text": posts["text"].tolist(), "image": posts["image"].tolist(), "label": posts["label"].tolist()}
    )
    model.fit(table)
    assert model.classes_.tolist() == ["class0", "class1"]
    wanted = model.predict_proba(posts[["text", "image"]])
    assert np.array_equal(model.predict_proba(table), wanted)
    images = [io.BytesIO(Path(path).read_bytes()) for path in posts["image"]]
    rows = [{"text": text, "image": image} for text, image in zip(posts["text"], images, strict=True)]
    assert np.allclose(model.predict_proba(rows), wanted, atol=1e-6)
    assert len(model.predict_frame(table)) == 12


def test_lists_of_class_numbers_become_lists_of_names(tmp_path: Path) -> None:
    names = {"names": ["sad", "funny"], "_type": "ClassLabel"}
    for i, feature in enumerate(
        ({"feature": names, "_type": "List"}, {"feature": names, "_type": "Sequence"}, [names])
    ):
        info = {"info": {"features": {"label": feature}}}
        table = pa.table({"text": ["a", "b"], "label": [[0, 1], []]}).replace_schema_metadata(
            {b"huggingface": json.dumps(info).encode()}
        )
        pq.write_table(table, tmp_path / f"{i}.parquet")
        assert read_posts(tmp_path / f"{i}.parquet")["label"].tolist() == ["sad|funny", "|"]


def test_a_parquet_column_that_is_there_twice(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["x"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text", "label"]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="has 2 columns called 'text'; keep one"):
        read_posts(tmp_path / "p.parquet")


def test_a_parquet_file_without_the_rows_that_it_claims_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), path)
    whole = path.read_bytes()
    # The number of rows is a field of its own in the footer: 0x16 is its type, 0 and 2 stand for 0 and 1.
    assert b"\x16\x00\x19" in whole
    path.write_bytes(whole.replace(b"\x16\x00\x19", b"\x16\x02\x19", 1))
    with pytest.raises(DataError):
        read_posts(path)


def test_a_list_with_text_that_is_not_utf8_is_an_error_of_its_row(tmp_path: Path) -> None:
    broken = pa.array([b"\xff"]).cast(pa.binary()).view(pa.string())
    labels = pa.ListArray.from_arrays(pa.array([0, 1, 2]), pa.concat_arrays([broken, pa.array(["x"])]))
    pq.write_table(pa.table({"text": ["a", "b"], "label": labels}), tmp_path / "posts.parquet")
    posts = read_posts(tmp_path / "posts.parquet")
    assert posts["label"].tolist() == [None, "x"]
    assert "cannot be read" in str(posts["error"][0])
