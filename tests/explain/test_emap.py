from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cotune.benchmark.methods import embed_rows
from cotune.explain.emap import additive_outputs, can_project
from cotune.heads import Embeddings, FusionHead, make_head
from cotune.tasks.single_label import SingleLabel
from cotune.training.build import prepare_posts
from cotune.training.model_rows import predict_rows
from cotune.training.trainer import Trainer
from cotune.training.training_data import TrainingData
from runs import tiny_config
from tiny import Zoo, labels_of, make_posts

SIZES = {"text": 3, "image": 3}


class Sum(FusionHead):
    """No interaction at all."""

    def fuse(self, embeddings: Embeddings) -> Tensor:
        text, image = embeddings["text"], embeddings["image"]
        return torch.cat([text[:, :1] + image[:, :1], text[:, 1:2].sin() - image[:, 1:2] ** 2], dim=1)


class Product(FusionHead):
    """Nothing but interaction, as the inputs have a mean of zero."""

    def fuse(self, embeddings: Embeddings) -> Tensor:
        product = embeddings["text"][:, :1] * embeddings["image"][:, :1]
        return torch.cat([product, -product], dim=1)


def posts(n: int = 11, *, gaps: bool = False) -> Embeddings:
    random = torch.Generator().manual_seed(0)
    text, image = (torch.randn(n, 3, generator=random, dtype=torch.float64) for _ in range(2))
    present = torch.ones((n, 2), dtype=torch.bool)
    if gaps:
        present[2, 0] = present[4, 1] = False
    return Embeddings({"text": text - text.mean(0), "image": image - image.mean(0)}, present)


def test_an_additive_model_loses_nothing() -> None:
    head, some = Sum(SIZES, 2).eval(), posts()
    assert np.allclose(additive_outputs(head, some), head(some).detach().numpy())


def test_pure_interaction_is_averaged_out() -> None:
    assert np.allclose(additive_outputs(Product(SIZES, 2).eval(), posts()), 0)


@pytest.mark.parametrize("batch_size", [1, 7, 25, 1000])
def test_it_is_the_definition_whatever_the_batches(batch_size: int) -> None:
    torch.manual_seed(0)
    head = make_head("attention", SIZES, 4, width=8, heads=2).double().eval()
    some = posts(gaps=True)
    n = some.n_posts
    with torch.no_grad():
        table = torch.stack(
            [
                torch.cat(
                    [
                        head(
                            Embeddings(
                                {"text": some["text"][i : i + 1], "image": some["image"][j : j + 1]},
                                torch.stack([some.present[i, 0], some.present[j, 1]])[None],
                            )
                        )
                        for j in range(n)
                    ]
                )
                for i in range(n)
            ]
        ).numpy()
    expected = table.mean(axis=1) + table.mean(axis=0) - table.mean(axis=(0, 1))
    assert np.allclose(additive_outputs(head, some, batch_size=batch_size), expected)


def test_embeddings_come_in_the_order_of_the_rows(zoo: Zoo, tmp_path: Path) -> None:
    table = make_posts(tmp_path / "posts", 20)
    config = tiny_config(zoo, tmp_path / "cache", tune="top", epochs=1)
    features = prepare_posts(table, zoo.pair(), config)
    task = SingleLabel(["class0", "class1"])
    trained = Trainer(TrainingData(features, labels_of(table), np.arange(12)), task, config).fit()
    rows = np.asarray([19, 3, 14, 4, 5, 12])
    embedded = embed_rows(trained.model, features, rows, trained.source, batch_size=2)
    expected = predict_rows(trained.model, task, features, rows, trained.source)
    with torch.inference_mode():
        found = task.predictions(trained.model.head(embedded))
    assert np.allclose(found.numpy(), expected, atol=1e-6)
    assert np.array_equal(embedded.present.numpy(), features.present[rows])
    some = embedded.rows(torch.tensor([1, 2]))
    assert torch.equal(some["text"], embedded["text"][1:3])
    assert torch.equal(some.present, embedded.present[1:3])


def test_heads_that_cannot_be_projected() -> None:
    assert can_project(make_head("concat", SIZES, 2))
    assert not can_project(make_head("text", {"text": 3}, 2))
    assert not can_project(make_head("concat", {**SIZES, "table": 2}, 2))
