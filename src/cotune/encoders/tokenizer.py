"""A text encoder's own tokenizer, and the proof that it is the one that lies beside the model."""

from __future__ import annotations

from typing import Any

from cotune.encoders.hf import cached_path, reading
from cotune.errors import EncoderError

#: Texts whose token ids tell tokenizers apart: capitals, accents, digits, scripts, emoji, white space.
PROBES = (
    "What a day!",
    "the quick brown fox jumps over the lazy dog",
    "ÀÉÎ naïve Straße №42 3.14",
    "@user #HashTag http://t.co/abc :-)",
    "日本語 русский العربية हिन्दी",
    "\U0001f600 \u2764\ufe0f  two  spaces\nand a line",
)


def open_tokenizer(name: str, *, spec: str, local: bool) -> Any:
    """Open the tokenizer of a folder or of a repository of the hub.

    The library builds some tokenizers from the class that a configuration names, whatever ``tokenizer.json`` says.
    Where the two differ the file counts, since the model was trained with it.

    Parameters
    ----------
    name : str
        Hub name or folder.
    spec : str
        How the user named it, for messages.
    local : bool
        Whether to stay off the network.

    Raises
    ------
    EncoderError
        If neither way to open it gives the tokens of its file.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(name, **reading(local))
    path = cached_path(name, "tokenizer.json", local)
    if path is None:
        return tokenizer
    expected = _ids_of_file(str(path))
    if probe_ids(tokenizer) == expected:
        return tokenizer
    plain = PreTrainedTokenizerFast.from_pretrained(name, **reading(local))
    if probe_ids(plain) == expected:
        return plain
    raise EncoderError(
        f"{spec}: transformers builds another tokenizer ({type(tokenizer).__name__}) than {path} holds, which would "
        "give the model other tokens than it was trained on; save the tokenizer again with save_pretrained()"
    )


def probe_ids(tokenizer: Any) -> list[list[int]]:
    """Return the token ids of a few telling texts."""
    return [list(row) for row in tokenizer(list(PROBES), verbose=False)["input_ids"]]


def _ids_of_file(path: str) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [row.ids for row in tokenizer.encode_batch(list(PROBES))]
