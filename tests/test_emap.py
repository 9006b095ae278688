from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cotune.benchmark.emap import Embedded, additive_logits, embed_rows, softmax
from cotune.heads import make_head
from cotune.heads.base import FusionHead
from cotune.training.loop import predict_rows
from cotune.training.recipe import fit_rows, prepare_posts
from runs import tiny_config
from tiny import Zoo, labels_of, make_posts


class Sum(FusionHead):
    """No interaction at all."""

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        return torch.cat([text[:, :1] + image[:, :1], text[:, 1:2].sin() - image[:, 1:2] ** 2], dim=1)


class Product(FusionHead):
    """Nothing but interaction, as the inputs have a mean of zero."""

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        product = text[:, :1] * image[:, :1]
        return torch.cat([product, -product], dim=1)


def posts(n: int = 11, *, gaps: bool = False) -> Embedded:
    random = torch.Generator().manual_seed(0)
    text, image = (torch.randn(n, 3, generator=random, dtype=torch.float64) for _ in range(2))
    present = torch.ones((n, 2), dtype=torch.bool)
    if gaps:
        present[2, 0] = present[4, 1] = False
    return Embedded(text - text.mean(0), image - image.mean(0), present)


def test_an_additive_model_loses_nothing() -> None:
    head, some = Sum(3, 3, 2), posts()
    assert np.allclose(additive_logits(head, some), some.logits(head))


def test_pure_interaction_is_averaged_out() -> None:
    assert np.allclose(additive_logits(Product(3, 3, 2), posts()), 0)


@pytest.mark.parametrize("batch_size", [1, 7, 25, 1000])
def test_it_is_the_definition_whatever_the_batches(batch_size: int) -> None:
    torch.manual_seed(0)
    head = make_head("attention", 3, 3, 4, width=8, heads=2).double().eval()
    some = posts(gaps=True)
    n = len(some)
    with torch.no_grad():
        table = torch.stack(
            [
                torch.cat(
                    [
                        head(
                            some.text[i : i + 1],
                            some.image[j : j + 1],
                            torch.stack([some.present[i, 0], some.present[j, 1]])[None],
                        )
                        for j in range(n)
                    ]
                )
                for i in range(n)
            ]
        ).numpy()
    expected = table.mean(axis=1) + table.mean(axis=0) - table.mean(axis=(0, 1))
    assert np.allclose(additive_logits(head, some, batch_size=batch_size), expected)


def test_embeddings_come_in_the_order_of_the_rows(zoo: Zoo, tmp_path: Path) -> None:
    table = make_posts(tmp_path / "posts", 20)
    config = tiny_config(zoo, tmp_path / "cache", tune="top", epochs=1)
    features = prepare_posts(table, zoo.pair(), config)
    trained = fit_rows(features, labels_of(table), np.arange(12), 2, config)
    rows = np.asarray([19, 3, 14, 4, 5, 12])
    embedded: Any = embed_rows(trained.model, features, rows, trained.source, batch_size=2)
    expected = predict_rows(trained.model, features, rows, trained.source)
    assert np.allclose(softmax(embedded.logits(trained.model.head)), expected, atol=1e-6)
    assert np.array_equal(embedded.present.numpy(), features.present[rows])
    assert torch.equal(embedded.subset(np.asarray([1, 2])).text, embedded.text[1:3])


def test_softmax_of_large_numbers() -> None:
    assert np.allclose(softmax(np.asarray([[1e4, 1e4], [0.0, -1e4]])), [[0.5, 0.5], [1.0, 0.0]])
