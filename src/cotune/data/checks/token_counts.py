"""How an encoder's tokenizer reads the texts of a table: how many are cut, and what it does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cotune.data.tables.cells import has_text

_AT_ONCE = 256
_MOST_CHARS = 200_000  # a longer text is cut in any case
_EXAMPLES = 8


@dataclass(frozen=True)
class TokenCounts:
    """What :func:`count_tokens` found.

    Attributes
    ----------
    encoder : str
        The text encoder whose tokenizer it was.
    max_tokens : int
        Where texts are cut.
    texts : int
        Posts with a text.
    cut : list of int
        Rows of those whose text is longer.
    tokens : int
        Tokens of all texts, without special ones.
    unknown : int
        How many of them stand for something that the tokenizer does not know.
    unknown_texts : int
        Posts that hold such tokens.
    unknown_examples : dict
        The most common things that it does not know, and how often they occur.
    """

    encoder: str
    max_tokens: int
    texts: int
    cut: list[int]
    tokens: int = 0
    unknown: int = 0
    unknown_texts: int = 0
    unknown_examples: dict[str, int] = field(default_factory=dict)

    @property
    def cut_share(self) -> float:
        """Part of the texts that is cut."""
        return len(self.cut) / self.texts if self.texts else 0.0

    @property
    def unknown_share(self) -> float:
        """Part of the tokens that is unknown."""
        return self.unknown / self.tokens if self.tokens else 0.0


def count_tokens(
    texts: Sequence[str | None], rows: Sequence[int], tokenizer: Any, *, max_tokens: int, encoder: str
) -> TokenCounts:
    """Tokenise all texts in full and count.

    Parameters
    ----------
    texts : sequence of str or None
        One for each post.
    rows : sequence of int
        Their rows.
    tokenizer : PreTrainedTokenizerBase
        The encoder's own.
    max_tokens : int
        Where it cuts, special tokens included.
    encoder : str
        What to call it.
    """
    there = [(row, text) for row, text in zip(rows, texts, strict=True) if text is not None and has_text(text)]
    special = int(tokenizer.num_special_tokens_to_add())
    unknown_id = getattr(tokenizer, "unk_token_id", None)
    cut: list[int] = []
    tokens = unknown = unknown_texts = 0
    examples: Counter[str] = Counter()
    for pieces in _pieces(there):
        read = _read(tokenizer, [text for _, text in pieces])
        for i, (row, text) in enumerate(pieces):
            ids = read["input_ids"][i]
            tokens += max(0, len(ids) - special)
            if len(ids) > max_tokens:
                cut.append(row)
            places = [place for place, token in enumerate(ids) if token == unknown_id] if unknown_id is not None else []
            unknown += len(places)
            unknown_texts += bool(places)
            if "offset_mapping" in read:
                spans = (read["offset_mapping"][i][place] for place in places)
                examples.update(text[start:end][:20] for start, end in spans)
    common = {name: count for name, count in examples.most_common(_EXAMPLES) if name.strip()}
    return TokenCounts(encoder, max_tokens, len(there), cut, tokens, unknown, unknown_texts, common)


def cut_texts(texts: Sequence[str | None], lengths: Sequence[int], tokenizer: Any, max_tokens: int) -> list[int]:
    """Return the positions of texts that were cut.

    Parameters
    ----------
    texts : sequence of str or None
        One for each post.
    lengths : sequence of int
        How many tokens each has after the cut; a text with fewer than `max_tokens` was not cut, and costs nothing.
    tokenizer : PreTrainedTokenizerBase
        The encoder's own.
    max_tokens : int
        Where it cuts.
    """
    full = [
        (i, text)
        for i, (text, length) in enumerate(zip(texts, lengths, strict=True))
        if text is not None and length >= max_tokens and has_text(text)
    ]
    return [
        position
        for pieces in _pieces(full)
        for (position, _), ids in zip(
            pieces, _read(tokenizer, [text for _, text in pieces], offsets=False)["input_ids"], strict=True
        )
        if len(ids) > max_tokens
    ]


def _pieces(texts: Sequence[tuple[int, str]]) -> Iterator[Sequence[tuple[int, str]]]:
    for start in range(0, len(texts), _AT_ONCE):
        yield texts[start : start + _AT_ONCE]


def _read(tokenizer: Any, texts: list[str], *, offsets: bool = True) -> Any:
    return tokenizer(
        [text[:_MOST_CHARS] for text in texts],
        truncation=False,
        verbose=False,  # that texts are longer than the model reads is what is being counted
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=offsets and bool(getattr(tokenizer, "is_fast", False)),
    )
