"""Posts as pages show them: row, id, label, the beginning of each text, small copies of the images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from cotune.data.kinds import FIELD_KINDS
from cotune.data.tables.cells import has_image, has_text
from cotune.fields import Field
from cotune.report.thumbnails import BUDGET, SIDE, thumbnails

_CHARACTERS = 280
_CELLS = 12


@dataclass
class PostCard:
    """One post.

    Attributes
    ----------
    row : int
        Its row in the table.
    id : str
        The post.
    label : str or None
        Its label.
    texts : list of (str, str)
        Names and texts of its fields of texts, shortened; columns of a table are texts too.
    images : list of dict
        ``name`` of each image field that it has, and the small copy as ``uri``, "" where there is none.
    """

    row: int
    id: str
    label: str | None
    texts: list[tuple[str, str]]
    images: list[dict[str, str]] = field(default_factory=list)


class PostCards:
    """Makes cards of the posts at some rows, within one budget of bytes for all of their images.

    Parameters
    ----------
    posts : DataFrame
        As :func:`cotune.data.posts.read_posts` gives it.
    fields : sequence of Field
        What a post has.
    characters : int
        Characters of a text that are shown.
    """

    def __init__(self, posts: pd.DataFrame, fields: Sequence[Field], characters: int = _CHARACTERS) -> None:
        self._posts = posts
        self._fields = [field for field in fields if field.name in posts]
        self._places = {int(row): at for at, row in enumerate(posts["row"])}
        self._characters = characters

    def make(self, rows: Iterable[int], *, side: int = SIDE, budget: int = BUDGET) -> dict[int, PostCard]:
        """Return a card for each row; those first keep their images where there is no room for all.

        Parameters
        ----------
        rows : iterable of int
            Rows of the table, those that matter most first.
        side, budget : int
            As in :func:`~cotune.report.thumbnails.thumbnails`.
        """
        cards = {row: self._card(row) for row in dict.fromkeys(rows)}
        shown = [
            (image, self._posts[image["name"]].iloc[self._places[row]])
            for row, card in cards.items()
            for image in card.images
        ]
        for (image, _), uri in zip(shown, thumbnails([s for _, s in shown], side=side, budget=budget), strict=True):
            image["uri"] = uri
        return cards

    def _card(self, row: int) -> PostCard:
        values = self._posts.iloc[self._places[row]]
        images = [{"name": f.name, "uri": ""} for f in self._fields if f.kind == "image" and has_image(values[f.name])]
        return PostCard(
            row, str(values["id"]), values["label"], texts_of(values, self._fields, self._characters), images
        )


def texts_of(post: pd.Series, fields: Iterable[Field], characters: int = _CHARACTERS) -> list[tuple[str, str]]:
    """Return names and texts of what a post has besides images, each shortened; columns of a table are texts too."""
    texts: list[tuple[str, str]] = []
    for each in fields:
        value = post[each.name]
        if each.kind == "text" and has_text(value):
            texts.append((each.name, _short(value, characters)))
        elif each.kind not in ("text", "image") and FIELD_KINDS[each.kind].has(value):
            cells = value if isinstance(value, dict) else {each.name: value}
            there = [(str(name), _short(cell, characters)) for name, cell in cells.items() if cell is not None]
            texts += there[:_CELLS]
    return texts


def _short(value: object, characters: int) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= characters else f"{text[:characters]}…"
