"""What a model reads of a post: fields, each with a name, a kind and columns of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from cotune.errors import ConfigError, clip, listed

MOST_FIELDS = 8
"""Shapley values are exact: each further field doubles the passes through the fusion head."""

#: Columns of posts and of predictions that no field may be called after.
RESERVED = frozenset({"id", "label", "group", "row", "also", "error", "true", "split", "weight"}) | frozenset(
    {"base", "confidence", "conflict", "interaction"}
)


class Field(BaseModel):
    """One input of a post.

    Attributes
    ----------
    name : str
        What it is called in predictions and explanations.
    kind : str
        ``text``, ``image``, ``table``, or the kind of a plugin.
    columns : tuple of str
        Columns of the posts table that it is read from; its name by default.
    encoder : str or None
        Its encoder; by default the one that the settings name for its kind.
    shared : str or None
        Another field of the same kind whose encoder it uses, with the same weights.
    categories : tuple of str
        Columns of a table field that hold categories though they look like numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    columns: tuple[str, ...] = ()
    encoder: str | None = None
    shared: str | None = None
    categories: tuple[str, ...] = ()

    def model_post_init(self, _: object) -> None:
        """Read the field from the column of its name, if no other is given."""
        if not self.columns:
            object.__setattr__(self, "columns", (self.name,))


DEFAULT_FIELDS = (Field(name="text", kind="text"), Field(name="image", kind="image"))


def fields_of_columns(text: Sequence[str], image: Sequence[str], table: Sequence[str]) -> tuple[Field, ...]:
    """Return the fields that the columns of each kind make.

    One column of a kind makes a field of the kind's name; several make one field each, called after the columns. All
    columns of numbers and categories are read together, by the field ``table``.
    """
    fields: list[Field] = []
    for kind, columns in (("text", text), ("image", image)):
        named = [(kind if len(columns) == 1 else column, column) for column in columns]
        fields += [Field(name=name, kind=kind, columns=(column,)) for name, column in named]
    if table:
        fields.append(Field(name="table", kind="table", columns=tuple(table)))
    return check_fields(fields)


def check_fields(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Return the fields once they are known to go together.

    Raises
    ------
    ConfigError
        If two have one name, there are none or too many, a name is taken, or a field shares the encoder of none.
    """
    found = tuple(fields)
    twice = [name for name, n in Counter(field.name for field in found).items() if n > 1]
    if twice:
        raise ConfigError(f"the field {clip(twice[0])!r} is given twice; name each column once")
    if not 1 <= len(found) <= MOST_FIELDS:
        raise ConfigError(f"a model reads 1 to {MOST_FIELDS} fields, not {len(found)}; join or leave out columns")
    kinds = {field.name: field.kind for field in found}
    for field in found:
        if field.name in RESERVED or not field.name.strip():
            raise ConfigError(f"no field can be called {field.name!r}, which is a column of its own; rename the column")
        if field.shared is not None and (kinds.get(field.shared) != field.kind or field.shared == field.name):
            others = [name for name, kind in kinds.items() if kind == field.kind and name != field.name]
            raise ConfigError(
                f"the field {field.name!r} shares the encoder of {field.shared!r}, which is no other {field.kind} "
                f"field; there are: {listed(others) or 'none'}"
            )
        chain = next((other for other in found if other.name == field.shared), None)
        if chain is not None and chain.shared is not None:
            raise ConfigError(
                f"the field {field.name!r} shares the encoder of {chain.name!r}, which shares another's itself; "
                f"name {chain.shared!r}"
            )
    return found
