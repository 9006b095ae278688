"""What a reader of a report should notice first; the rules that find it are beside each report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["problem", "warning", "note", "good"]
_ORDER: tuple[Level, ...] = ("problem", "warning", "note", "good")


def estimated(tune: str) -> str:
    """Return what an estimated score of a run is, by what of its encoders was trained."""
    rest = "Each fold trains on a part of the posts" if tune == "frozen" else "They do not include fine-tuning"
    return (
        "No posts were held out: these are scores of the head alone, cross-validated on frozen encoders. "
        f"{rest}, so the run itself is likely a little better."
    )


@dataclass(frozen=True)
class Notice:
    """One sentence that a report opens with.

    Attributes
    ----------
    level : str
        "problem": the figures cannot be used as they stand; "warning": read them with care; "note": what they say;
        "good": what can be relied on.
    text : str
        Whole sentences, numbers included.
    """

    level: Level
    text: str


def sorted_notices(notices: list[Notice]) -> list[Notice]:
    """Return notices with the gravest first, otherwise as they came."""
    return sorted(notices, key=lambda notice: _ORDER.index(notice.level))
