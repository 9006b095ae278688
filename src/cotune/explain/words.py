"""Which words drove a prediction: integrated gradients, and words left out as a second opinion.

Integrated gradients (Sundararajan, Taly & Yan 2017) add up the slopes of the log-odds along a straight line of
word embeddings, from a baseline where every word is a blank token to the post itself. Their sum is what the
words changed in all (completeness), which is checked and reported. Special tokens are the same at both ends
of the line and so get nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cotune.encoders.text import TextEncoder
from cotune.errors import CotuneError
from cotune.explain.segments import Segmented, segment
from cotune.explain.target import Target

_STEPS = (32, 96, 288)
_GOOD_ENOUGH = 0.03
#: A change of the log-odds smaller than this counts as none when errors are put in relation to it.
_LITTLE = 0.1


@dataclass(frozen=True)
class Word:
    """One word and what it did to the log-odds of the class.

    Attributes
    ----------
    text : str
        The word as written.
    start, end : int
        Its place in the post's text.
    gradient : float
        Its integrated gradients, summed over its tokens.
    left_out : float
        How much the log-odds fall when the word is left out.
    """

    text: str
    start: int
    end: int
    gradient: float
    left_out: float


@dataclass(frozen=True)
class Words:
    """The words of a post and what they did.

    Attributes
    ----------
    words : tuple of Word
        In the order of the text.
    text : str
        The part of the post's text that the encoder reads.
    cut : int
        Number of characters after it that the encoder does not read.
    value, baseline : float
        The log-odds for the text and for blank tokens in the place of all words.
    error : float
        Completeness: how far the sum of all gradients is from ``value - baseline``, as a part of it.
    steps : int
        Points on the line.
    """

    words: tuple[Word, ...]
    text: str
    cut: int
    value: float
    baseline: float
    error: float
    steps: int

    @property
    def agreement(self) -> float | None:
        """Rank correlation of the two opinions; None with fewer than three words."""
        return rank_correlation([w.gradient for w in self.words], [w.left_out for w in self.words])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "method": "integrated gradients",
            "second_opinion": "word left out",
            "words": [vars(word) for word in self.words],
            "value": self.value,
            "baseline": self.baseline,
            "completeness_error": self.error,
            "steps": self.steps,
            "characters_not_read": self.cut,
            "agreement": self.agreement,
        }


def explain_words(target: Target, text: str, *, steps: int | None = None, leave_out: bool = True) -> Words:
    """Return what each word of `text` did to the log-odds of the target's class.

    Parameters
    ----------
    target : Target
        The post whose text this is.
    text : str
        The post's text.
    steps : int, optional
        Points on the line; by default as many as completeness asks for, 32 to 288.
    leave_out : bool
        Whether to ask for the second opinion, which costs a pass for each word; without it, it is NaN.

    Raises
    ------
    CotuneError
        If captum is not installed.
    """
    parts = segment(target.text_encoder, text)
    gradients, value, baseline, error, used = word_gradients(target, parts, steps)
    lost = left_out(target, parts) if leave_out else np.full(len(parts.words), np.nan)
    words = tuple(
        Word(parts.word(i), span.start, span.end, float(gradients[i]), float(lost[i]))
        for i, span in enumerate(parts.words)
    )
    return Words(words, parts.text, parts.cut, value, baseline, error, used)


def left_out(target: Target, parts: Segmented) -> np.ndarray:
    """Return how much the log-odds fall when each word is left out of the text, shape (words,)."""
    if not parts.words:
        return np.zeros(0)
    versions = [parts.text, *(parts.without([i]) for i in range(len(parts.words)))]
    values = target.of_texts(versions).double().numpy()
    result: np.ndarray = values[0] - values[1:]
    return result


def word_gradients(
    target: Target, parts: Segmented, steps: int | None = None
) -> tuple[np.ndarray, float, float, float, int]:
    """Return integrated gradients by word, both ends of the line, the error of completeness and the steps."""
    encoder = target.text_encoder
    inputs = {key: value.to(target.device) for key, value in encoder.collate(encoder.tokenize([parts.text])).items()}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    blank = ids.clone()
    mine = [t for span in parts.words for t in span.tokens if t < ids.shape[1]]
    blank[0, mine] = blank_token(encoder)
    layers = word_embeddings(encoder)
    reason: Exception | None = None
    for way in (_AtTheLayer, _FromEmbeddings):
        try:
            return _gradients(way(target, layers, ids, mask, blank), parts, steps)
        except _CANNOT as error:
            reason = reason or error
    raise CotuneError(
        f"{encoder.spec} passes no gradients to its word embeddings ({str(reason).partition(chr(10))[0][:150]}); "
        "its words cannot be explained"
    )


_CANNOT = (RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError, NotImplementedError)


def _gradients(line: _Line, parts: Segmented, steps: int | None) -> tuple[np.ndarray, float, float, float, int]:
    start, value = line.ends()
    gradients, error, used = np.zeros(len(parts.words)), 0.0, 0
    for used in (steps,) if steps else _STEPS:
        slopes = line.integrate(used)
        gradients = np.asarray([float(sum(slopes[t] for t in span.tokens if t < len(slopes))) for span in parts.words])
        error = abs(float(gradients.sum()) - (value - start)) / max(abs(value - start), _LITTLE)
        if error <= _GOOD_ENOUGH:
            break
    return gradients, value, start, error, used


@dataclass
class _Line:
    """The straight line of word embeddings from a blank text to the post's."""

    target: Target
    layers: list[nn.Module]
    ids: Tensor
    mask: Tensor
    blank: Tensor

    def ends(self) -> tuple[float, float]:
        """Return the log-odds at its beginning and at its end."""
        return self._value(self.blank), self._value(self.ids)

    def integrate(self, steps: int) -> np.ndarray:
        """Return the integrated gradients by token, shape (T,)."""
        found = self._attribute(steps)
        slopes: np.ndarray = found[0].sum(dim=-1).detach().cpu().double().numpy()
        return slopes

    def _settings(self, steps: int) -> dict[str, Any]:
        return {
            "additional_forward_args": (self.mask,),
            "n_steps": steps,
            "internal_batch_size": self.target.batch_size,
        }

    def _value(self, words: Tensor) -> float:
        raise NotImplementedError

    def _attribute(self, steps: int) -> Tensor:
        raise NotImplementedError


class _AtTheLayer(_Line):
    """Embeddings put in at the network's own layer.

    Positions, and whatever else a network reads off the ids, stay those of the post.
    """

    def _value(self, words: Tensor) -> float:
        with torch.no_grad(), ExitStack() as hooks:
            for layer in self.layers:
                hooks.callback(layer.register_forward_hook(_answer(layer(words))).remove)
            return float(self.target.of_inputs({"input_ids": self.ids, "attention_mask": self.mask})[0])

    def _attribute(self, steps: int) -> Tensor:
        def run(ids: Tensor, mask: Tensor) -> Tensor:
            return self.target.of_inputs({"input_ids": ids, "attention_mask": mask})

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of several layers, none of which reads another
            method = need_captum().LayerIntegratedGradients(run, self.layers)
            found: list[Tensor] = method.attribute(self.ids, baselines=self.blank, **self._settings(steps))
        return torch.cat(found, dim=-1)


class _FromEmbeddings(_Line):
    """Embeddings given in the place of ids, for networks that turn or repeat what their layer gives."""

    def ends(self) -> tuple[float, float]:
        (self.layer,) = self.layers
        start, value = super().ends()
        with torch.no_grad():
            asked = float(self.target.of_inputs({"input_ids": self.ids, "attention_mask": self.mask})[0])
        if abs(asked - value) > _LITTLE / 100:
            raise ValueError("it answers differently to words and to their embeddings")
        return start, value

    def _value(self, words: Tensor) -> float:
        with torch.no_grad():
            return float(self._run(self.layer(words), self.mask)[0])

    def _attribute(self, steps: int) -> Tensor:
        with torch.no_grad():
            end, start = self.layer(self.ids), self.layer(self.blank)
        method = need_captum().IntegratedGradients(self._run)
        found: Tensor = method.attribute(end, baselines=start, **self._settings(steps))
        return found

    def _run(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        return self.target.of_inputs({"inputs_embeds": embeddings, "attention_mask": mask})


def _answer(put: Tensor) -> Callable[..., Tensor]:
    return lambda *_: put


def word_embeddings(encoder: TextEncoder) -> list[nn.Module]:
    """Return the layers that turn token ids into vectors, one for each network that has its own.

    Raises
    ------
    CotuneError
        If the network has none that can be found.
    """
    found = encoder.word_embeddings()
    if found:
        return found
    raise CotuneError(f"{encoder.spec} has no layer of word embeddings that can be found; words cannot be explained")


def blank_token(encoder: TextEncoder) -> int:
    """Return the token that says least: padding.

    Measured on real posts, gradients from it foretell much better what happens when words are left out than
    gradients from the mask token, which only says something to a network that is still trained to fill it.
    """
    return encoder.pad_id


def need_captum() -> Any:
    """Return captum's methods.

    Raises
    ------
    CotuneError
        If captum is not installed; the text names the extra that brings it.
    """
    try:
        import captum.attr
    except ImportError:
        raise CotuneError("word explanations need captum; install it with: pip install 'cotune[explain]'") from None
    return captum.attr


def rank_correlation(a: Any, b: Any) -> float | None:
    """Return Spearman's rank correlation, None where it has no meaning."""
    from scipy.stats import rankdata

    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    known = np.isfinite(first) & np.isfinite(second)
    if known.sum() < 3:
        return None
    first, second = rankdata(first[known]), rankdata(second[known])
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])
