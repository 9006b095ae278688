"""Cells of a class and the labels of fields, and what is known of a post as sets of them.

With a rule, a cell is a combination of the fields' labels, and the rule says which class it makes, or that its fields
contradict each other. Without one, a cell is a class together with such a combination. All that is known of a post is
a set of cells, an event: its text's label, whatever its image shows; its class, whatever made it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from cotune.errors import DataError, listed
from cotune.tasks.label_rule import Rule

#: What stands for a class or a label that is not known, and for the class of fields that contradict each other.
UNKNOWN = -1
#: What may be known of a post at most: more labels of more fields need more memory than a model of them is worth.
_MOST_EVENTS = 4096
#: One thing that may be known: the class and each field's label as numbers, -1 where that is not known.
Event = tuple[int, ...]


class LabelCells:
    """All cells of some classes and fields, and all events that they make.

    Parameters
    ----------
    classes : sequence of str
        The classes of posts.
    field_labels : mapping
        The labels of every field that has some, in their order.
    rule : sequence of sequence, optional
        The class (None for a contradiction) and the fields' labels of every combination; without it, every class goes
        with every combination.

    Attributes
    ----------
    class_of : ndarray
        Class of every cell, -1 for a contradiction, shape (C,).
    label_of : ndarray
        Label of every field in every cell, shape (F, C).
    events : list of Event
        Those that some cell belongs to, apart from knowing nothing.
    label_rule : Rule or None
        How a post's label follows from those of its fields; None without a rule.

    Raises
    ------
    DataError
        If classes and labels make too many events.
    """

    def __init__(
        self,
        classes: Sequence[str],
        field_labels: Mapping[str, Sequence[str]],
        rule: Sequence[Sequence[str | None]] | None = None,
    ) -> None:
        self._sizes = (len(classes), *map(len, field_labels.values()))
        n_events = math.prod(n + 1 for n in self._sizes)
        if n_events > _MOST_EVENTS:
            raise DataError(
                f"the classes and the labels of {listed(field_labels)} make {n_events:,} combinations of what may "
                f"be known of a post, more than {_MOST_EVENTS:,}; use fewer labels, or labels of fewer fields"
            )
        self._class_index = {name: i for i, name in enumerate(classes)}
        self._label_index = {field: {label: i for i, label in enumerate(own)} for field, own in field_labels.items()}
        rows = list(product(classes, *field_labels.values())) if rule is None else rule
        self.class_of = np.asarray([UNKNOWN if row[0] is None else self._class_index[row[0]] for row in rows])
        self.label_of = np.asarray(
            [[index[str(row[k])] for row in rows] for k, index in enumerate(self._label_index.values(), start=1)]
        ).reshape(len(field_labels), len(rows))
        self.events = list(self._possible())
        self._event_index = {event: i for i, event in enumerate(self.events)}
        self.label_rule = None if rule is None else Rule(
            tuple(field_labels), {tuple(map(str, row[1:])): row[0] for row in rule}
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.class_of)

    def _possible(self) -> Iterator[Event]:
        for event in product(*(range(UNKNOWN, n) for n in self._sizes)):
            if max(event) > UNKNOWN and self.of_event(event).any():
                yield event

    def of_event(self, event: Event) -> np.ndarray:
        """Return which cells an event is made of, shape (C,)."""
        known = np.ones(len(self), dtype=bool)
        for value, of_cells in zip(event, (self.class_of, *self.label_of), strict=True):
            known &= (of_cells == value) | (value == UNKNOWN)
        return known

    def of_events(self) -> np.ndarray:
        """Return which cells each event is made of, shape (n_events, C)."""
        return np.stack([self.of_event(event) for event in self.events])

    def of_class(self, label: int) -> list[int]:
        """Return the cells of a class: as numbers, as graphs that are exported take no masks."""
        found: list[int] = np.flatnonzero(self.class_of == label).tolist()
        return found

    def of_label(self, field: int, label: int) -> list[int]:
        """Return the cells of a field's label, as numbers."""
        found: list[int] = np.flatnonzero(self.label_of[field] == label).tolist()
        return found

    @property
    def contradicts(self) -> bool:
        """Whether the rule calls some labels of fields a contradiction."""
        return bool((self.class_of == UNKNOWN).any())

    def class_of_event(self, event: Event) -> int:
        """Return the class of all cells of an event, -1 where they differ or contradict."""
        found = set(self.class_of[self.of_event(event)].tolist())
        return int(found.pop()) if len(found) == 1 else UNKNOWN

    def known(self, labels: Sequence[str | None], votes: Mapping[str, Sequence[Sequence[str]]]) -> np.ndarray:
        """Return how much each event counts for each post, shape (N, n_events); zeros where nothing is known.

        Parameters
        ----------
        labels : sequence of str or None
            Each post's own label.
        votes : mapping
            The annotators' labels of each post, by field; fields without labels may be missing.
        """
        nothing: list[Sequence[str]] = [()] * len(labels)
        found = np.zeros((len(labels), len(self.events)), dtype=np.float32)
        cast = [votes.get(field, nothing) for field in self._label_index]
        for row, (label, *of_fields) in enumerate(zip(labels, *cast, strict=True)):
            for event, share in self._events_of(label, of_fields).items():
                found[row, self._event_index[event]] = share
        return found

    def _events_of(self, label: str | None, votes: Sequence[Sequence[str]]) -> dict[Event, float]:
        """Return what is known of a post, with the shares of the annotators' votes.

        Where the rule makes the post's class of the labels of all fields, they say all there is. Otherwise its class
        holds, and combinations of labels that cannot make it do not count.
        """
        shares: dict[Event, float] = {}
        options = [_shares(cast, index) for index, cast in zip(self._label_index.values(), votes, strict=True)]
        given = UNKNOWN if label is None else self._class_index[str(label)]
        whole = dict(zip(self._label_index, votes, strict=True))
        if self.label_rule is not None and all(votes) and label in (None, self.label_rule.label_of(whole)):
            given = UNKNOWN
        for combination in product(*options):
            event = (given, *(value for value, _ in combination))
            if event in self._event_index:
                shares[event] = shares.get(event, 0.0) + math.prod(share for _, share in combination)
        alone = (given, *[UNKNOWN] * len(votes))
        if not shares and given != UNKNOWN:
            return {alone: 1.0}
        total = sum(shares.values())
        return {event: share / total for event, share in shares.items()}


def _shares(votes: Sequence[str], index: Mapping[str, int]) -> list[tuple[int, float]]:
    """Return the labels that annotators gave a field, as numbers, with the share of their votes."""
    if not votes:
        return [(UNKNOWN, 1.0)]
    return [(index[label], n / len(votes)) for label, n in Counter(votes).items()]
