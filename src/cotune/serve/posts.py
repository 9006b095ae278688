"""From what a client sent to posts that a model reads: bytes and plain values alone, never a path or a URL."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.images.load import ImageFault, header_size
from cotune.data.kinds import FIELD_KINDS
from cotune.data.tables import row_errors
from cotune.encoders.table_columns import Column, as_number, is_missing
from cotune.errors import ConfigError, listed
from cotune.fields import Field
from cotune.serve.limits import Limits, RefusedError

#: What a field of each kind holds once it is decoded, and what a client is told.
_FORMS: dict[str, tuple[type[Any], str]] = {
    "text": (str, "a string"),
    "image": (bytes, "an image in base64"),
    "table": (dict, "an object of columns"),
}
#: Putting combining characters in order takes a time that grows with the square of their number.
_MOST_MARKS = 250
_PILE = re.compile(rb"[^\0]{%d}" % (_MOST_MARKS + 1))


@dataclass
class ReadPost:
    """One post that was read.

    Attributes
    ----------
    id : str or None
        What the client calls it.
    cells : dict
        By field what goes to the model: a text, the bytes of an image, the cells of a table; None for nothing.
    notes : list of str
        What of it is not used.
    fault : str or None
        Why it cannot be scored.
    fault_status : int
        The HTTP status of that, if it is the only post of a request.
    """

    id: str | None
    cells: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    fault: str | None = None
    fault_status: int = 422


class PostReader:
    """Reads posts for one model.

    Parameters
    ----------
    fields : sequence of Field
        What a post has.
    columns : mapping
        By table field its columns.
    limits : Limits
        What a client may send.

    Raises
    ------
    ConfigError
        If a field is of a plugin's kind.
    """

    def __init__(self, fields: Sequence[Field], columns: Mapping[str, Sequence[Column]], limits: Limits) -> None:
        foreign = next((each for each in fields if each.kind not in _FORMS), None)
        if foreign is not None:
            raise ConfigError(f"the field {foreign.name!r} is of the kind {foreign.kind!r}, which cannot be served")
        self.fields = {each.name: each for each in fields}
        self.limits = limits
        self._numbers = {name: {c.name for c in known if c.kind == "number"} for name, known in columns.items()}
        #: By the name of a part of a form: the field, and the column of a table.
        self.parts: dict[str, tuple[str, str | None]] = {
            each.name: (each.name, None) for each in fields if each.kind != "table"
        }
        for each in (each for each in fields if each.kind == "table"):
            self.parts |= {f"{each.name}.{column}": (each.name, column) for column in each.columns}

    def read(self, given: Mapping[str, Any], at: str, id_: str | None = None) -> ReadPost:
        """Return a post of a JSON request.

        Parameters
        ----------
        given : mapping
            By field a text, an image in base64, or cells by column.
        at : str
            Where the fields are in the request, for messages.
        id_ : str, optional
            What the client calls it.

        Raises
        ------
        RefusedError
            If it has a field that the model does not read, or one of another form.
        """
        decoded = dict(given)
        for name, value in given.items():
            if name in self.fields and self.fields[name].kind == "image" and isinstance(value, str):
                decoded[name] = _decoded(value, f"{at}.{name}")
        return self._post(decoded, at, id_)

    def read_parts(self, parts: Iterable[tuple[str, bytes, bool]]) -> ReadPost:
        """Return the post of a form.

        Parameters
        ----------
        parts : iterable of tuple
            Name, content, and whether it came as a file.

        Raises
        ------
        RefusedError
            If a part is not known, comes twice, or is no UTF-8.
        """
        given: dict[str, Any] = {}
        for part, content, is_file in parts:
            if part not in self.parts:
                raise RefusedError(
                    422, "unknown_field", f"a part of the form is no field of the model; it reads {listed(self.parts)}"
                )
            name, column = self.parts[part]
            image = self.fields[name].kind == "image"
            if is_file and not image:
                raise RefusedError(422, "invalid_field", f"{part}: is text, not a file; send it without a file name")
            value = content if image else _text(content, part)
            place = given if column is None else given.setdefault(name, {})
            if (column or name) in place:
                raise RefusedError(422, "invalid_field", f"{part}: is given twice; send it once")
            place[column or name] = value
        return self._post(given, "form", None)

    def _post(self, given: Mapping[str, Any], at: str, id_: str | None) -> ReadPost:
        if not given.keys() <= self.fields.keys():
            raise RefusedError(
                422, "unknown_field", f"{at}: has a field that the model does not read; it reads {listed(self.fields)}"
            )
        post = ReadPost(id_, dict.fromkeys(self.fields))
        for name, value in given.items():
            if value is None:
                continue
            kind, place = self.fields[name].kind, f"{at}.{name}"
            form, what = _FORMS[kind]
            if not isinstance(value, form):
                raise RefusedError(422, "invalid_field", f"{place}: expected {what}")
            if kind == "text" and len(value) > self.limits.text_characters:
                most = self.limits.text_characters
                raise RefusedError(413, "text_too_long", f"{place}: has more than {most:,} characters")
            if kind == "text" and not value.isascii() and _PILE.search(bytes(map(unicodedata.combining, value))):
                raise RefusedError(422, "invalid_field", f"{place}: has more than {_MOST_MARKS} marks on one character")
            if kind == "image":
                self._check_image(post, name, value)
            elif kind == "table":
                value = self._table(post, name, value, place)
            post.cells[name] = FIELD_KINDS[kind].read({name: value} if kind != "table" else value, base="")
        return post

    def _check_image(self, post: ReadPost, name: str, data: bytes) -> None:
        """Note why an image cannot be read, as far as its first bytes tell."""
        if not data:
            return
        try:
            header_size(data, name, max_pixels=self.limits.image_pixels)
        except ImageFault as fault:
            post.fault = post.fault or f"{name}: {fault.plain}"
            if fault.kind == "too large":
                post.fault = f"{name}: the image has more than {self.limits.image_pixels:,} pixels"
                post.fault_status = 413

    def _table(self, post: ReadPost, name: str, cells: Mapping[str, Any], place: str) -> dict[str, Any]:
        columns = self.fields[name].columns
        if not cells.keys() <= set(columns):
            raise RefusedError(422, "unknown_field", f"{place}: has an unknown column; there are {listed(columns)}")
        found = {column: cells.get(column) for column in columns}
        for column in self._numbers.get(name, set()):
            value = found.get(column)
            if not is_missing(value) and as_number(value) is None:
                found[column] = None
                post.notes.append(f"{name}.{column}: expected a number; it counts as missing")
        return found


def posts_frame(posts: Sequence[ReadPost], fields: Iterable[Field]) -> pd.DataFrame:
    """Return posts in the form of :func:`cotune.data.posts.read_posts`; their ids are numbers of ours."""
    n = len(posts)
    table: dict[str, Any] = {"id": [str(i) for i in range(n)]}
    for each in fields:
        cells = np.empty(n, dtype=object)
        for i, post in enumerate(posts):
            cells[i] = post.cells[each.name]
        table[each.name] = pd.Series(cells, dtype=object)
    nothing = np.full(n, None, dtype=object)
    return pd.DataFrame({**table, "label": nothing, "group": nothing, "row": np.arange(1, n + 1),
                         row_errors.COLUMN: nothing})  # fmt: skip


def _decoded(value: str, place: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)  # `base64` breaks lines
    except (binascii.Error, ValueError):
        hint = "; leave out what stands before the comma" if value[:5].lower() == "data:" else ""
        raise RefusedError(422, "invalid_field", f"{place}: is not base64{hint}") from None


def _text(content: bytes, part: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedError(422, "invalid_field", f"{part}: is not UTF-8") from None
