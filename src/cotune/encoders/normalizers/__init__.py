"""Texts made what a reader sees before they become tokens, whoever hid letters in them.

All steps are normalizers of the tokenizers library, so that they are part of a tokenizer's file, and offsets of tokens
are places in the text as it was written.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_args

from cotune.encoders.normalizers.confusables import confusable_steps
from cotune.encoders.normalizers.invisible import invisible_steps
from cotune.encoders.normalizers.leet import leet_steps
from cotune.errors import EncoderError
from cotune.settings import NormalizeText

_STEPS = {"invisible": invisible_steps, "confusables": confusable_steps, "leet": leet_steps}


@cache
def text_normalizer(level: NormalizeText) -> Any:
    """Return the normalizer of a level, which has the steps of all levels before it.

    Parameters
    ----------
    level : {"none", "invisible", "confusables", "leet"}
        How far it goes.

    Raises
    ------
    ConfigError
        If the package that it takes is not installed.
    """
    from tokenizers import normalizers

    levels = get_args(NormalizeText)[1 : get_args(NormalizeText).index(level) + 1]
    return normalizers.Sequence([step for each in levels for step in _STEPS[each]()])


def normalize_first(tokenizer: Any, level: NormalizeText, *, spec: str) -> None:
    """Let a tokenizer normalise texts before it does anything else with them.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The tokenizer, which is changed.
    level : {"none", "invisible", "confusables", "leet"}
        How far normalisation goes.
    spec : str
        The encoder as the user named it, for messages.

    Raises
    ------
    EncoderError
        If the tokenizer is not one of the tokenizers library.
    """
    if level == "none":
        return
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(
            f"{spec} has a tokenizer that is not one of the tokenizers library ({type(tokenizer).__name__}), which "
            "normalize-text needs; leave normalize-text out, or take another text encoder"
        )
    own = backend.normalizer
    backend.normalizer = normalizers.Sequence([text_normalizer(level), *([] if own is None else [own])])


def normalize_as_saved(tokenizer: Any, folder: Path) -> None:
    """Let a tokenizer normalise texts as the file in the folder of a run says.

    The tables that a run was trained with count, not those of the libraries that are installed now; and transformers
    may build a tokenizer from its class, without what was put before it.
    """
    from tokenizers import Tokenizer

    tokenizer.backend_tokenizer.normalizer = Tokenizer.from_file(str(folder / "tokenizer.json")).normalizer
