"""Shares of text and image: exact Shapley values, whatever the head and whatever is missing."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor, nn

from cotune.heads import HEADS, Embeddings, FusionHead, make_head
from cotune.heads.contributions import contributions
from cotune.tasks.single_label import SingleLabel

PRESENT = torch.tensor([[True, True], [True, False], [False, True], [False, False]] * 3)
SIZES = {"text": 6, "image": 8, "table": 4}
HEAD_NAMES = [name for name in HEADS if name != "table"]


def task(n: int) -> SingleLabel:
    return SingleLabel([f"c{i}" for i in range(n)])


def stirred(name: str, n_classes: int, fields: tuple[str, ...] = ("text", "image")) -> FusionHead:
    torch.manual_seed(1)
    reads = HEADS[name].reads({field: field for field in fields})
    head = make_head(name, {field: SIZES[field] for field in reads}, n_classes, width=8, heads=2)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return head.eval()


def posts(head: FusionHead, present: Tensor = PRESENT) -> Embeddings:
    torch.manual_seed(2)
    at = [["text", "image"].index(name) for name in head.fields]
    return Embeddings({name: torch.randn(len(present), size) for name, size in head.dims.items()}, present[:, at])


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("name", HEAD_NAMES)
def test_contributions_add_up_and_the_absent_give_nothing(name: str, n_classes: int) -> None:
    head, of = stirred(name, n_classes), task(n_classes)
    given = posts(head)
    with torch.inference_mode():
        parts = contributions(head, of, given, ("text", "image"))
        outputs = head(given)
    text, image = parts.parts["text"], parts.parts["image"]
    torch.testing.assert_close(parts.predictions, torch.softmax(outputs, dim=1))
    torch.testing.assert_close(parts.base + text + image, of.contribution_scale(outputs), atol=1e-4, rtol=1e-4)
    assert not text[~PRESENT[:, 0]].any()
    assert not image[~PRESENT[:, 1]].any()
    assert not parts.interactions["text", "image"][~PRESENT.all(1)].abs().gt(1e-4).any()
    a, b = parts.shares().values()
    torch.testing.assert_close(a + b, torch.ones(len(a)))
    assert ((a >= 0) & (a <= 1)).all()
    if len(head.fields) == 2:
        assert (a[1::4] == 1).all(), "the text is there alone"
        assert (a[2::4] == 0).all(), "the image is there alone"
    assert (a[3::4] == 0.5).all(), "nothing is there"


def many(n_fields: int) -> tuple[FusionHead, Embeddings]:
    torch.manual_seed(n_fields)
    dims = {f"f{i}": 3 + i for i in range(n_fields)}
    head = make_head("concat", dims, 3, width=8).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.5)
    present = torch.rand(9, n_fields) < 0.75
    present[0], present[1], present[2] = True, False, torch.arange(n_fields) == 1
    return head, Embeddings({name: torch.randn(9, dim) for name, dim in dims.items()}, present)


@pytest.mark.parametrize("n_fields", [1, 3, 4])
def test_values_of_many_fields_are_the_mean_over_all_orders(n_fields: int) -> None:
    head, given = many(n_fields)
    of = task(3)

    def value(fields: tuple[int, ...]) -> Tensor:
        left = torch.tensor([i in fields for i in range(n_fields)])
        return of.contribution_scale(head(given.with_present(given.present & left)))

    with torch.inference_mode():
        parts = contributions(head, of, given)
        expected = [torch.zeros(9, 3) for _ in range(n_fields)]
        orders = list(permutations(range(n_fields)))
        for order in orders:
            for at, field in enumerate(order):
                expected[field] += (value(order[: at + 1]) - value(order[:at])) / len(orders)
        whole = value(tuple(range(n_fields)))
    for field, part in enumerate(parts.parts.values()):
        torch.testing.assert_close(part, expected[field], atol=1e-4, rtol=1e-4)
        assert not part[~given.present[:, field]].any(), "an absent field gives a plain 0"
    torch.testing.assert_close(parts.base + sum(parts.parts.values()), whole, atol=1e-4, rtol=1e-4)
    shares = torch.stack(list(parts.shares().values()), dim=1)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(9))
    some = given.present.any(dim=1)
    assert n_fields == 1 or not given.present[some].all(), "some posts lack a field"
    assert (shares[some][~given.present[some]] == 0).all(), "what is not there has no share"
    torch.testing.assert_close((shares * given.present)[some].sum(dim=1), torch.ones(int(some.sum())))
    if n_fields > 1:
        assert torch.equal(shares[2], (torch.arange(n_fields) == 1).float()), "a field alone has the whole share"


def test_the_interaction_of_two_fields_is_what_no_sum_of_them_says() -> None:
    head, given = many(2)
    of = task(3)

    def value(*fields: int) -> Tensor:
        left = torch.tensor([i in fields for i in range(2)])
        return of.contribution_scale(head(given.with_present(given.present & left)))

    with torch.inference_mode():
        found = contributions(head, of, given).interactions
        expected = value(0, 1) - value(0) - value(1) + value()
    assert list(found) == [("f0", "f1")]
    torch.testing.assert_close(found["f0", "f1"], expected, atol=1e-4, rtol=1e-4)
    assert expected[given.present.all(dim=1)].abs().max() > 0.1, "there is an interaction to be found"


def test_pairwise_interactions_of_three_fields_are_the_index_by_its_definition() -> None:
    head, given = many(3)
    of = task(3)

    def value(*fields: int) -> Tensor:
        left = torch.tensor([i in fields for i in range(3)])
        return of.contribution_scale(head(given.with_present(given.present & left)))

    with torch.inference_mode():
        parts = contributions(head, of, given)
        for (i, j), found in zip(combinations(range(3), 2), parts.interactions.values(), strict=True):
            (k,) = {0, 1, 2} - {i, j}
            without = value(i, j) - value(i) - value(j) + value()
            with_it = value(i, j, k) - value(i, k) - value(j, k) + value(k)
            torch.testing.assert_close(found, (without + with_it) / 2, atol=1e-4, rtol=1e-4)


class Additive(FusionHead):
    """Each modality adds its own outputs, so that the Shapley values are known."""

    def __init__(self) -> None:
        super().__init__({"text": 1, "image": 1}, 2)
        self.weight = nn.Parameter(torch.tensor([2.0, -3.0]))

    def fuse(self, embeddings: Embeddings) -> Tensor:
        score = embeddings["text"] * self.weight[0] + embeddings["image"] * self.weight[1]
        return torch.cat([torch.zeros_like(score), score], dim=1)


def test_an_additive_head_gives_each_modality_its_own_part() -> None:
    text, image = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [-1.0]])
    given = Embeddings({"text": text, "image": image}, torch.ones(2, 2, dtype=torch.bool))
    with torch.inference_mode():
        parts = contributions(Additive().eval(), task(2), given)
    torch.testing.assert_close(parts.parts["text"][:, 1], torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(parts.parts["image"][:, 1], torch.tensor([-3.0, 3.0]))
    torch.testing.assert_close(parts.interactions["text", "image"], torch.zeros(2, 2))
    torch.testing.assert_close(parts.shares()["text"], torch.tensor([0.4, 4 / 7]))


def test_log_odds_do_not_overflow() -> None:
    logits = torch.tensor([[1000.0, -1000.0, 0.0], [0.0, 0.0, 0.0]])
    odds = task(3).contribution_scale(logits)
    assert torch.isfinite(odds).all()
    torch.testing.assert_close(odds[1], torch.full((3,), -0.6931472))
    proba = torch.tensor([[0.2, 0.5, 0.3]])
    torch.testing.assert_close(task(3).contribution_scale(proba.log()), torch.log(proba / (1 - proba)))
