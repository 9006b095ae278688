"""Rules that make a post's label of the labels of its fields: small tables, some of which come with the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from cotune.data.tables.cells import LABEL_SEPARATOR, is_missing, label_name
from cotune.data.tables.read import join_chunks, read_chunks
from cotune.errors import ConfigError, clip, listed
from cotune.files import read_yaml

_LABEL = "label"
_FOLDER = Path(__file__).parent / "rules"
_ALL = 2**31


@dataclass(frozen=True)
class Rule:
    """What label a post has by the labels of its fields.

    Attributes
    ----------
    fields : tuple of str
        The fields whose labels it reads.
    labels : dict
        From a combination of their labels, in the order of `fields`, to the post's label; None where the fields
        contradict each other, so that the post has none.
    """

    fields: tuple[str, ...]
    labels: dict[tuple[str, ...], str | None]

    @property
    def classes(self) -> list[str]:
        """The labels that posts may get, each once."""
        return list(dict.fromkeys(label for label in self.labels.values() if label is not None))

    def known(self, field: str) -> list[str]:
        """Return the labels that a field may have."""
        at = self.fields.index(field)
        return list(dict.fromkeys(combination[at] for combination in self.labels))

    def label_of(self, votes: Mapping[str, Sequence[str]]) -> str | None:
        """Return the label by the most common label of every field; None without one, or where fields contradict."""
        chosen = []
        for field in self.fields:
            ranked = Counter(votes.get(field, ())).most_common()
            if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
                return None
            chosen.append(ranked[0][0])
        return self.labels[tuple(chosen)]


def built_in_rules() -> list[str]:
    """Return the names of the rules that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.csv"))


def read_rule(name: str) -> Rule:
    """Read a rule by its name, or from a table (.csv, .yaml, ...) with a column for each field and one `label`.

    Every combination of the fields' labels has a row; an empty `label` says that such fields contradict each other.

    Raises
    ------
    ConfigError
        If there is no such rule, or it is not whole: the message says which combination is missing.
    """
    path = _FOLDER / f"{name}.csv" if name in built_in_rules() else Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"there is no rule {clip(name)!r}: --rule takes {' or '.join(built_in_rules())}, or a table with a column "
            f"for each field and one called {_LABEL}"
        )
    rows = _yaml_rows(path) if path.suffix.lower() in (".yaml", ".yml") else _table_rows(path)
    where = name if path.parent == _FOLDER else str(path)
    return make_rule(rows, where)


def make_rule(rows: Sequence[Mapping[str, Any]], where: str) -> Rule:
    """Return the rule that these rows make, each a mapping from fields and ``label`` to labels."""
    fields = tuple(dict.fromkeys(str(key) for row in rows for key in row if str(key) != _LABEL))
    if not rows or not any(_LABEL in row for row in rows):
        raise ConfigError(f"the rule {where} has no column {_LABEL!r}; it holds the label of each combination")
    if len(fields) < 2:
        raise ConfigError(f"the rule {where} needs a column for each of two fields or more, beside {_LABEL!r}")
    labels: dict[tuple[str, ...], str | None] = {}
    for number, row in enumerate(rows, start=1):
        cells = [_name(row.get(field)) for field in fields]
        if None in cells:
            raise ConfigError(f"row {number} of the rule {where} has no label of {fields[cells.index(None)]!r}")
        combination = tuple(cell for cell in cells if cell is not None)
        if combination in labels:
            raise ConfigError(f"row {number} of the rule {where} gives {_told(fields, combination)} a second time")
        labels[combination] = _name(row.get(_LABEL))
    rule = Rule(fields, labels)
    if len(rule.classes) < 2:
        found = listed(rule.classes, quote=True) or "no label at all"
        raise ConfigError(f"the rule {where} gives posts {found}; a classifier needs at least two labels")
    missing = [combination for combination in _combinations(rule) if combination not in labels]
    if missing:
        raise ConfigError(
            f"the rule {where} has no row for {_told(fields, missing[0])} ({len(missing):,} such "
            f"combination{'s' if len(missing) > 1 else ''}); add one, with an empty {_LABEL!r} where the fields "
            "contradict each other"
        )
    return rule


def _combinations(rule: Rule) -> list[tuple[str, ...]]:
    return list(product(*(rule.known(field) for field in rule.fields)))


def _told(fields: Sequence[str], combination: Sequence[str]) -> str:
    return ", ".join(f"{field} {clip(label, 40)!r}" for field, label in zip(fields, combination, strict=True))


def _name(value: Any) -> str | None:
    if is_missing(value) or not str(value).strip():
        return None
    return label_name(value)


def _table_rows(path: Path) -> list[dict[str, Any]]:
    # Which columns there are is what the first reading finds.
    columns = next(iter(read_chunks(path, [], 1))).columns
    chunk = join_chunks(list(read_chunks(path, columns, _ALL)))
    return [{name: chunk.values[name][i] for name in chunk.values} for i in range(chunk.rows)]


def _yaml_rows(path: Path) -> list[dict[str, Any]]:
    found = read_yaml(path)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ConfigError(f"the rule {path} must be a list of combinations, as in `- {{text: a, image: b, label: c}}`")
    return found


def votes_of(cell: str | None) -> list[str]:
    """Return the labels that annotators gave one field of a post."""
    return [] if cell is None else [name for name in cell.split(LABEL_SEPARATOR) if name]
