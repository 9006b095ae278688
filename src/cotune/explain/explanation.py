"""What an explanation of one post is: plain numbers, and a rendering for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image

from cotune.data.tables.cells import FIELD_LABEL
from cotune.encoders.crop_geometry import CropGeometry
from cotune.explain.pixels import Pixels
from cotune.explain.words import Words
from cotune.files import plain, to_json
from cotune.heads.contributions import REMOVED
from cotune.tasks.annotated import CONFLICT
from cotune.tasks.field_scores import CONTRADICTION

# In explanations `conflict` is how hard fields pull against each other.
_RENAMED = {CONFLICT: CONTRADICTION}


@dataclass(frozen=True)
class ImagePart:
    """An image of an explained post.

    Attributes
    ----------
    pixels : Pixels or None
        What its parts did, if asked for.
    image : PIL image
        The image, small, upright.
    frame : CropGeometry
        What part of it the encoder sees.
    """

    pixels: Pixels | None
    image: Image.Image = field(repr=False)
    frame: CropGeometry


@dataclass(frozen=True)
class Explanation:
    """Why the model said what it said of one post.

    Contributions are Shapley values on the task's scale, such as log-odds; for each output ``base`` plus all parts is
    the prediction. They are 0 for a field that the post lacks.

    Attributes
    ----------
    id : str
        Of the post.
    fields : dict
        The fields of a post and their kinds.
    texts : dict
        The post's texts by field; None where it has none.
    label : str or float
        What is predicted.
    true : str, float or None
        The post's own label, if it has one.
    explained : str
        The output that shares, words and pixels are about, such as the predicted class.
    scale : str
        Unit of the contributions: ``log-odds`` or ``value``.
    predictions, base : dict
        By output: probability or value; what is predicted with all fields removed.
    parts : dict
        By field and output: the field's contribution.
    interactions : dict
        By pair of fields and output: what the two say together beyond what each says alone.
    shares : dict
        By field its part of all contributions to the explained output; they add up to 1.
    alone : dict
        By field what would be predicted from it alone; None where the post lacks it.
    conflict : float
        How hard fields pull against each other over the explained output; 0 where they pull the same way.
    removed : dict
        By field a key of :data:`cotune.heads.contributions.REMOVED`.
    words : dict
        By field what its words did, if asked for.
    images : dict
        By field the image, and what its parts did, if asked for.
    notes : tuple of str
        What a reader must know, such as that the image cannot be read.
    field_labels : dict
        By field the label predicted for it alone, where the run has learned labels of fields.
    further : dict
        By column what else such a run predicts: ``p:FIELD_LABEL``, and ``conflict``, the probability that the fields'
        labels contradict each other.
    """

    id: str
    fields: dict[str, str]
    texts: dict[str, str | None]
    label: Any
    true: Any
    explained: str
    scale: str
    predictions: dict[str, float]
    base: dict[str, float]
    parts: dict[str, dict[str, float]]
    interactions: dict[tuple[str, str], dict[str, float]]
    shares: dict[str, float]
    alone: dict[str, Any]
    conflict: float
    removed: dict[str, str]
    words: dict[str, Words] = field(default_factory=dict)
    images: dict[str, ImagePart] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    field_labels: dict[str, str] = field(default_factory=dict)
    further: dict[str, float] = field(default_factory=dict)

    @cached_property
    def verdict(self) -> str:
        """What the fields have to do with each other here, in words."""
        return verdict(
            self.label, {name: part[self.explained] for name, part in self.parts.items()}, self.alone, self.explained
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for ``json.dumps``: arrays are lists, NaN is None; images are left out.

        What belongs to one text or image field is by itself where a post has one of the kind, else by field.
        """
        found = {
            "id": self.id,
            "fields": self.fields,
            "text": self._single("text", self.texts),
            "label": self.label,
            "true": self.true,
            "explained": self.explained,
            "probability" if self.scale == "log-odds" else "prediction": self.predictions,
            self.scale.replace("-", "_"): {
                name: {
                    "base": self.base[name],
                    **{of: part[name] for of, part in self.parts.items()},
                    **self._interactions(name),
                }
                for name in self.predictions
            },
            **{f"{name}_share": share for name, share in self.shares.items()},
            **{f"{name}_alone": label for name, label in self.alone.items()},
            "conflict": self.conflict,
            **self._of_fields(),
            "verdict": self.verdict,
            "removed": {name: {"by": key, "meaning": REMOVED[key]} for name, key in self.removed.items()},
            "words": self._single("text", {name: words.to_dict() for name, words in self.words.items()}),
            "pixels": self._single(
                "image", {name: part.pixels.to_dict() for name, part in self.images.items() if part.pixels is not None}
            ),
            "frame": self._single("image", {name: vars(part.frame) for name, part in self.images.items()}),
            "notes": list(self.notes),
        }
        result: dict[str, Any] = plain(found)
        return result

    def _of_fields(self) -> dict[str, Any]:
        """Return what a run that has learned labels of fields predicts of them; ``contradiction`` as in tables."""
        labels = {f"{FIELD_LABEL}{name}": label for name, label in self.field_labels.items()}
        return {**labels, **{_RENAMED.get(name, name): value for name, value in self.further.items()}}

    def _single(self, kind: str, values: Mapping[str, Any]) -> Any:
        """Return the value of the only field of a kind, or all values by field where there are several."""
        names = [name for name, own in self.fields.items() if own == kind]
        return values.get(names[0]) if len(names) == 1 else dict(values)

    def _interactions(self, output: str) -> dict[str, Any]:
        if len(self.fields) == 2:
            return dict.fromkeys(["interaction"], next(iter(self.interactions.values()))[output])
        return {"interactions": {f"{one}:{other}": v[output] for (one, other), v in self.interactions.items()}}

    def to_json(self) -> str:
        """Return :meth:`to_dict` as strict JSON."""
        return to_json(self.to_dict())

    def _repr_html_(self) -> str:
        from cotune.report.explanation import fragment

        return str(fragment(self.to_dict(), {name: part.image for name, part in self.images.items()}, style=True))


def verdict(label: Any, parts: Mapping[str, float], alone: Mapping[str, Any], explained: str | None = None) -> str:
    """Say what the fields have to do with each other.

    Parameters
    ----------
    label : str or float
        What is predicted.
    parts : mapping
        Contributions to the explained output by field.
    alone : mapping
        What each alone would be taken for; None for one that is not there.
    explained : str, optional
        The explained output, if it is not the label.
    """
    there = [name for name in parts if alone[name] is not None]
    if len(there) == 1:
        return f"The {there[0]} decides alone."
    about = str(label) if isinstance(label, str) and explained in (None, label) else str(explained)
    up, down = [name for name in there if parts[name] >= 0], [name for name in there if parts[name] < 0]
    if not isinstance(label, str):
        return _of_value(up, down)
    both = "both " if len(there) == 2 else "all "
    if not down:
        sentences = [f"{_names(up)} {both}support {about}."]
    elif not up:
        likeliest = ", which is still the likeliest class" if about == label else ""
        sentences = [f"{_names(down)} {both}oppose {about}{likeliest}."]
    else:
        ours, theirs = (" and the ".join(names) for names in (up, down))
        sentences = [f"The {ours} {_verb('support', up)} {about}, the {theirs} {_verb('oppose', down)} it."]
    return " ".join([*sentences, _of_alone(label, {name: alone[name] for name in there})])


def _of_alone(label: str, alone: Mapping[str, Any]) -> str:
    same = [name for name, own in alone.items() if own == label]
    other = {name: own for name, own in alone.items() if own != label}
    if not other:
        return "Each alone would give the same class."
    if len(alone) == 2 and same:
        (name, own), (stronger,) = next(iter(other.items())), same
        return f"The {stronger} overturns the {name}, which alone would give {own}."
    if not same and len(set(other.values())) == 1:
        return f"Only together do they give it: each alone would give {next(iter(other.values()))}."
    if not same:
        first, *rest = [f"the {name} alone {own}" for name, own in other.items()]
        first = first.replace(" alone ", " alone would give ", 1)
        return f"Only together do they give it: {', '.join([first, *rest])}."
    return f"Alone, {' and '.join(f'the {name} would give {own}' for name, own in other.items())}."


def _of_value(up: list[str], down: list[str]) -> str:
    if up and down:
        raised, lowered = (" and the ".join(names) for names in (up, down))
        ends = ["" if len(names) > 1 else "s" for names in (up, down)]
        return f"The {raised} raise{ends[0]} the value, the {lowered} lower{ends[1]} it."
    both = "both" if len(up or down) == 2 else "all"
    return f"{_names(up or down)} {both} {'raise' if up else 'lower'} the value."


def _verb(word: str, names: list[str]) -> str:
    return f"{word}s" if len(names) == 1 else word


def _names(names: list[str]) -> str:
    joined = ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
    return joined[:1].upper() + joined[1:]
