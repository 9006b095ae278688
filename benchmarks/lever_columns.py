"""Columns that levers of `levers.py` read besides text and image, made from a posts table once.

    pip install wordsegment emoji vaderSentiment
    python benchmarks/levers.py prepare posts.csv --image-text image_text.csv --out columns.csv

The training itself needs none of these packages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from lever_recipes import VADER

from cotune.data.posts import read_posts
from cotune.data.tables.builder import ColumnNames
from cotune.data.tables.cells import is_missing
from cotune.errors import DataError
from cotune.fields import Field
from cotune.files import atomic_path

TEXTS = ("text_hashtags", "text_emoji", "text_words", "image_text", "text_image_text")
_HASHTAG = re.compile(r"#([A-Za-z0-9_]+)")


def prepare(posts: pd.DataFrame, image_text: Path | None, out: Path) -> None:
    """Write the columns, and print how many posts have something in each."""
    split, named, scores = splitter(), namer(), scorer()
    texts = [text if isinstance(text, str) else "" for text in posts["text"]]
    columns: dict[str, list[object]] = {"id": posts["id"].tolist()}
    columns["text_hashtags"] = [split(text) for text in texts]
    columns["text_emoji"] = [named(text) for text in texts]
    columns["text_words"] = [named(split(text)) for text in texts]
    for name in VADER:
        columns[name] = []
    for text in columns["text_words"]:
        found = scores(str(text))
        for name in VADER:
            columns[name].append(found[name.removeprefix("vader_")] if text else None)
    if image_text is not None:
        table = pd.read_csv(image_text, dtype=str, keep_default_na=False).set_index("id")["image_text"]
        missing = [str(identity) for identity in posts["id"] if str(identity) not in table.index]
        print(f"{len(missing):,} of {len(posts):,} posts have images that were not read")
        read = [str(table.get(str(identity), "")) for identity in posts["id"]]
        columns["image_text"] = list(read)
        columns["text_image_text"] = [f"{text} {more}".strip() for text, more in zip(texts, read, strict=True)]
    with atomic_path(out) as temporary:
        pd.DataFrame(columns).to_csv(temporary, index=False)
    for name, values in columns.items():
        if name.startswith("text_"):
            changed = sum(value != text for value, text in zip(values, texts, strict=True))
            print(f"{name}: differs from the text in {changed:,} of {len(texts):,} posts")
    if image_text is not None:
        print(f"image_text: text found in {sum(map(bool, columns['image_text'])):,} images")


def splitter() -> Callable[[str], str]:
    """Return what splits the hashtags of a text into words."""
    import wordsegment

    wordsegment.load()
    return lambda text: _HASHTAG.sub(lambda found: " ".join(wordsegment.segment(found[1])) or found[0], text)


def namer() -> Callable[[str], str]:
    """Return what puts the names of emoji in their place."""
    import emoji

    def named(text: str) -> str:
        found = emoji.demojize(text, delimiters=(" \x00", "\x00 "))
        return re.sub("\x00([^\x00]*)\x00", lambda name: name[1].replace("_", " "), found)

    return named


def scorer() -> Callable[[str], dict[str, float]]:
    """Return what gives VADER's scores of a text: ``neg``, ``neu``, ``pos`` and ``compound``."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    scores: Callable[[str], dict[str, float]] = SentimentIntensityAnalyzer().polarity_scores
    return scores


def with_columns(posts: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    """Return the posts with the prepared columns of a file: a field for each text, and the field `table`."""
    if path is None:
        return posts
    there = pd.read_csv(path, nrows=0).columns
    fields = [Field(name=name, kind="text") for name in TEXTS if name in there]
    fields += [Field(name="table", kind="table", columns=VADER)] if set(VADER) <= set(there) else []
    found = read_posts(path, columns=ColumnNames(fields=tuple(fields))).set_index("id")
    missing = [identity for identity in posts["id"] if is_missing(identity) or identity not in found.index]
    if missing:
        raise DataError(f"{path} lacks {len(missing):,} of the posts, such as {missing[0]!r}; prepare it again")
    at = found.index.get_indexer(posts["id"])
    return posts.assign(**{one.name: found[one.name].to_numpy()[at] for one in fields})
