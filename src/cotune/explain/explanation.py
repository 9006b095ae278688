"""What an explanation of one post is: plain numbers, and a rendering for notebooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image

from cotune.encoders.crop_geometry import CropGeometry
from cotune.explain.pixels import Pixels
from cotune.explain.words import Words
from cotune.files import plain, to_json
from cotune.fusion.contributions import REMOVED


@dataclass(frozen=True)
class Explanation:
    """Why the model said what it said of one post.

    Contributions are Shapley values in log-odds; for each class ``base + text + image`` are the log-odds of
    its probability. They are 0 for a modality that the post lacks.

    Attributes
    ----------
    id : str
        Of the post.
    text : str or None
        The post's text.
    label : str
        The predicted class.
    true : str or None
        The post's own label, if it has one.
    proba, base, text_part, image_part, interaction : dict
        By class: probability; log-odds with both modalities removed; contribution of text and of image; what
        the two say together beyond what each says alone.
    text_share, image_share : float
        Parts of the two contributions to the predicted class; they add up to 1.
    text_alone, image_alone : str or None
        What would be predicted from one modality alone; None where the post lacks it.
    conflict : float
        How hard the two pull against each other over the predicted class; 0 where they pull the same way.
    removed : dict
        For text and image: a key of :data:`cotune.fusion.contributions.REMOVED`.
    words : Words or None
        What the words did, if asked for and if there is a text.
    pixels : Pixels or None
        What the parts of the picture did, if asked for and if there is a picture.
    notes : tuple of str
        What a reader must know, such as that the picture cannot be read.
    picture : PIL image or None
        The picture, small, upright.
    frame : CropGeometry or None
        What part of it the encoder sees.
    """

    id: str
    text: str | None
    label: str
    true: str | None
    proba: dict[str, float]
    base: dict[str, float]
    text_part: dict[str, float]
    image_part: dict[str, float]
    interaction: dict[str, float]
    text_share: float
    image_share: float
    text_alone: str | None
    image_alone: str | None
    conflict: float
    removed: dict[str, str]
    words: Words | None = None
    pixels: Pixels | None = None
    notes: tuple[str, ...] = ()
    picture: Image.Image | None = field(default=None, repr=False)
    frame: CropGeometry | None = None

    @cached_property
    def verdict(self) -> str:
        """What text and image have to do with each other here, in words."""
        return verdict(
            self.label, self.text_part[self.label], self.image_part[self.label], self.text_alone, self.image_alone
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for ``json.dumps``: arrays are lists, NaN is None; the image is left out."""
        found = {
            "id": self.id,
            "text": self.text,
            "label": self.label,
            "true": self.true,
            "probability": self.proba,
            "log_odds": {
                name: {
                    "base": self.base[name],
                    "text": self.text_part[name],
                    "image": self.image_part[name],
                    "interaction": self.interaction[name],
                }
                for name in self.proba
            },
            "text_share": self.text_share,
            "image_share": self.image_share,
            "text_alone": self.text_alone,
            "image_alone": self.image_alone,
            "conflict": self.conflict,
            "verdict": self.verdict,
            "removed": {name: {"by": key, "meaning": REMOVED[key]} for name, key in self.removed.items()},
            "words": None if self.words is None else self.words.to_dict(),
            "pixels": None if self.pixels is None else self.pixels.to_dict(),
            "frame": None if self.frame is None else vars(self.frame),
            "notes": list(self.notes),
        }
        result: dict[str, Any] = plain(found)
        return result

    def to_json(self) -> str:
        """Return :meth:`to_dict` as strict JSON."""
        return to_json(self.to_dict())

    def _repr_html_(self) -> str:
        from cotune.report.explanation import fragment

        return str(fragment(self.to_dict(), self.picture, style=True))


def verdict(label: str, text: float, image: float, text_alone: str | None, image_alone: str | None) -> str:
    """Say what text and image have to do with each other.

    Parameters
    ----------
    label : str
        The predicted class.
    text, image : float
        Their contributions to it.
    text_alone, image_alone : str or None
        What each alone would be taken for; None for one that is not there.
    """
    if text_alone is None or image_alone is None:
        there = "text" if image_alone is None else "image"
        return f"The {there} decides alone."
    if text >= 0 and image >= 0:
        parts = [f"Text and image both speak for {label}."]
    elif text < 0 and image < 0:
        parts = [f"Text and image both speak against {label}, which is still the likeliest class."]
    else:
        pro, contra = ("text", "image") if text > 0 else ("image", "text")
        parts = [f"The {pro} speaks for {label}, the {contra} against it."]
    if text_alone == label == image_alone:
        parts.append("Each alone would give the same class.")
    elif text_alone == label:
        parts.append(f"The text overturns the image, which alone would give {image_alone}.")
    elif image_alone == label:
        parts.append(f"The image overturns the text, which alone would give {text_alone}.")
    elif text_alone == image_alone:
        parts.append(f"Only together do they give it: each alone would give {text_alone}.")
    else:
        parts.append(
            f"Only together do they give it: the text alone would give {text_alone}, the image alone {image_alone}."
        )
    return " ".join(parts)
