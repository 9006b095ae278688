"""Posts as clients send them: bytes and plain values, or a refusal that says where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotune.encoders.table_columns import Column
from cotune.errors import ConfigError
from cotune.fields import Field
from cotune.serve.limits import Limits, RefusedError
from cotune.serve.posts import PostReader, posts_frame
from served import MANY_FIELDS, b64, png

COLUMNS = {"about": (Column("likes", "number"), Column("device", "category", ("phone", "web")))}
READER = PostReader(MANY_FIELDS, COLUMNS, Limits(image_pixels=2000, text_characters=50))


def test_what_the_model_is_given() -> None:
    post = READER.read(
        {"title": "cafe\u0301", "image": b64(png()), "about": {"likes": True, "device": "web"}}, "f", "x"
    )
    assert (post.id, post.fault) == ("x", None)
    assert post.cells["title"] == "café"
    assert post.cells["image"] == png()
    assert post.cells["caption"] is None
    assert post.cells["about"] == {"likes": None, "device": "web"}
    assert post.notes == ["about.likes: expected a number; it counts as missing"]
    frame = posts_frame([post, READER.read({}, "f")], MANY_FIELDS)
    assert frame.columns.tolist() == ["id", "title", "caption", "image", "about", "label", "group", "row", "error"]
    assert frame["row"].tolist() == [1, 2]
    assert frame["image"][1] is None


def test_base64_with_line_breaks_as_the_shell_makes_it() -> None:
    text = b64(png(44, 44, (1, 2, 3)))
    broken = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    assert READER.read({"image": broken}, "f").cells["image"] == png(44, 44, (1, 2, 3))
    with pytest.raises(RefusedError, match="before the comma"):
        READER.read({"image": "data:image/png;base64," + text}, "f")


def test_a_form_is_read_like_json() -> None:
    parts = [("title", b"a", False), ("image", png(), True), ("about.likes", b"3.5", False)]
    post = READER.read_parts(parts)
    assert post.cells == READER.read({"title": "a", "image": b64(png()), "about": {"likes": "3.5"}}, "f").cells
    for more in (("about.likes", b"4", False), ("likes", b"4", False), ("about.other", b"1", False)):
        with pytest.raises(RefusedError):
            READER.read_parts([*parts, more])


def test_the_pixels_are_counted_before_they_are_decoded() -> None:
    post = READER.read({"image": b64(png(100, 100))}, "f")
    assert post.fault == "image: the image has more than 2,000 pixels"
    assert post.fault_status == 413


def test_marks_that_pile_up_are_refused() -> None:
    reader = PostReader(MANY_FIELDS, COLUMNS, Limits())
    assert reader.read({"title": "z" + "\u0315\u0300" * 100}, "f").cells["title"]
    with pytest.raises(RefusedError, match="f.title: has more than 250 marks"):
        reader.read({"title": "z" + "\u0315\u0300" * 20_000}, "f")


def test_a_field_of_a_plugin_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind 'audio', which cannot be served"):
        PostReader((Field(name="sound", kind="audio"),), {}, Limits())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["title", "caption", "image", "about", "x"]), VALUES))
def test_anything_is_read_or_refused(given_: dict[str, Any]) -> None:
    try:
        post = READER.read(given_, "f")
    except RefusedError as error:
        assert 400 <= error.status < 500
        return
    image = post.cells["image"]
    assert image is None or isinstance(image, bytes)
    assert all(isinstance(post.cells[name], str | None) for name in ("title", "caption"))
