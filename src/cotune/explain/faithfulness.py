"""Are explanations true to the model? Deletion and insertion, and what is left of them when weights are random.

Deletion (Petsiuk, Das & Saenko 2018): take away what an explanation calls most important first; the class's
probability ought to fall faster than when things go in random order. Insertion: begin with nothing and put
the most important back first; it ought to rise faster. Parameter randomisation (Adebayo et al. 2018): with
random weights an explanation must become another one, or it explains the input and not the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cotune.explain.pixels import GRID, with_patches
from cotune.explain.segments import Segmented
from cotune.explain.target import Target
from cotune.model import JointModel

#: Points of a curve, besides its beginning.
POINTS = 14
Evaluate = Callable[[np.ndarray], np.ndarray]


def word_evaluator(target: Target, parts: Segmented) -> Evaluate:
    """Return a function from masks of kept words, shape (versions, words), to the class's probability."""

    def run(kept: np.ndarray) -> np.ndarray:
        texts = [parts.without(np.flatnonzero(~row).tolist()) for row in kept]
        return _predicted(target, target.of_texts(texts))

    return run


def patch_evaluator(target: Target, pixels: Tensor) -> Evaluate:
    """Return a function from masks of sharp patches, shape (versions, GRID * GRID), to the class's probability."""

    def run(kept: np.ndarray) -> np.ndarray:
        values = [
            target.of_images(with_patches(pixels, kept[start : start + target.batch_size]))
            for start in range(0, len(kept), target.batch_size)
        ]
        return _predicted(target, torch.cat(values))

    return run


def _predicted(target: Target, values: Tensor) -> np.ndarray:
    result: np.ndarray = target.model.task.from_scale(values.double()).numpy()
    return result


def curve_areas(evaluate: Evaluate, orders: Mapping[str, Sequence[np.ndarray]]) -> dict[str, tuple[float, float]]:
    """Return the areas under the deletion and the insertion curve of every kind of order.

    Parameters
    ----------
    evaluate : callable
        Of :func:`word_evaluator` or :func:`patch_evaluator`.
    orders : mapping
        For each kind one or more orders of all items, the most important first; areas of several are averaged.
    """
    masks: list[np.ndarray] = []
    for several in orders.values():
        for order in several:
            masks += [_masks(order, keep=False), _masks(order, keep=True)]
    whole = np.concatenate(masks)
    # Many versions are the same: the whole post and the empty one begin and end every curve.
    unique, back = np.unique(whole, axis=0, return_inverse=True)
    values = evaluate(unique)[back.ravel()]
    curves = np.split(values, np.cumsum([len(part) for part in masks])[:-1])
    areas = [float(np.trapezoid(curve, dx=1 / (len(curve) - 1))) for curve in curves]
    found: dict[str, tuple[float, float]] = {}
    at = 0
    for name, several in orders.items():
        mine = np.asarray(areas[at : at + 2 * len(several)]).reshape(-1, 2)
        found[name] = (float(mine[:, 0].mean()), float(mine[:, 1].mean()))
        at += 2 * len(several)
    return found


def _masks(order: np.ndarray, *, keep: bool) -> np.ndarray:
    """Return which items are there at each point of a curve: the first ones kept, or taken away."""
    n = len(order)
    steps = np.unique(np.rint(np.linspace(0, n, min(n, POINTS) + 1)).astype(int))
    rank = np.empty(n, dtype=int)
    rank[order] = np.arange(n)
    first: np.ndarray = rank[None, :] < steps[:, None]
    return first if keep else ~first


def ranking(values: np.ndarray) -> np.ndarray:
    """Return the order of items by what they did for the class, the largest first."""
    return np.argsort(-np.asarray(values).ravel(), kind="stable")


def random_orders(n: int, count: int, random: np.random.Generator) -> list[np.ndarray]:
    """Return `count` random orders of `n` items."""
    return [random.permutation(n) for _ in range(count)]


def centre_first(grid: int = GRID) -> np.ndarray:
    """Return the patches from the middle outwards, a baseline that knows nothing but how photographs are composed."""
    places = (np.arange(grid) + 0.5) / grid - 0.5
    return np.argsort((places[:, None] ** 2 + places[None, :] ** 2).ravel(), kind="stable")


def with_random_weights(model: JointModel, parts: Sequence[str], seed: int) -> JointModel:
    """Return a copy of the model in which the weights of some parts are drawn again.

    Each tensor is drawn from a normal distribution with its own mean and spread, so that activations keep
    their size; running statistics stay.

    Parameters
    ----------
    model : JointModel
        The trained model; it stays as it is.
    parts : sequence of str
        ``head`` and fields, whose encoders they are.
    seed : int
        Of the weights.
    """
    shuffled = copy.deepcopy(model)
    random = torch.Generator().manual_seed(seed)
    for name in parts:
        part = shuffled.head if name == "head" else shuffled.encoders.get(name)
        if part is None:
            continue
        with torch.no_grad():
            for parameter in part.parameters():
                spread = parameter.float().std(unbiased=False) if parameter.numel() > 1 else torch.tensor(0.0)
                drawn = torch.randn(parameter.shape, generator=random).to(parameter)
                parameter.copy_(parameter.float().mean().to(parameter) + drawn * spread.to(parameter))
    return shuffled.requires_grad_(False).eval()
