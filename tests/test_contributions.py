"""Shares of text and image: exact Shapley values, whatever the head and whatever is missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cotune.heads import HEADS, FusionHead, make_head
from cotune.heads.contributions import log_odds, modality_contributions

PRESENT = torch.tensor([[True, True], [True, False], [False, True], [False, False]] * 3)


def dims(name: str) -> tuple[int, int]:
    """Return the sizes of both embeddings, 0 for one that the head does not use."""
    uses = HEADS[name].uses
    return 6 * ("text" in uses), 8 * ("image" in uses)


def stirred(name: str, n_classes: int) -> FusionHead:
    torch.manual_seed(1)
    text_dim, image_dim = dims(name)
    head = make_head(name, text_dim, image_dim, n_classes, width=8, heads=2)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return head.eval()


def posts(name: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    text_dim, image_dim = dims(name)
    return torch.randn(len(PRESENT), text_dim), torch.randn(len(PRESENT), image_dim)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("name", list(HEADS))
def test_contributions_add_up_and_the_absent_give_nothing(name: str, n_classes: int) -> None:
    head = stirred(name, n_classes)
    text, image = posts(name)
    with torch.inference_mode():
        parts = modality_contributions(head, text, image, PRESENT)
        logits = head(text, image, PRESENT)
    torch.testing.assert_close(parts.proba, torch.softmax(logits, dim=1))
    torch.testing.assert_close(parts.base + parts.text + parts.image, log_odds(logits), atol=1e-4, rtol=1e-4)
    assert not parts.text[~PRESENT[:, 0]].any()
    assert not parts.image[~PRESENT[:, 1]].any()
    assert not parts.interaction[~PRESENT.all(1)].abs().gt(1e-4).any()
    a, b = parts.shares()
    torch.testing.assert_close(a + b, torch.ones(len(a)))
    assert ((a >= 0) & (a <= 1)).all()
    both_used = len(head.uses) == 2
    if both_used:
        assert (a[1::4] == 1).all(), "the text is there alone"
        assert (a[2::4] == 0).all(), "the image is there alone"
    assert (a[3::4] == 0.5).all(), "nothing is there"


class Additive(FusionHead):
    """Each modality adds its own logits, so that the Shapley values are known."""

    def __init__(self) -> None:
        super().__init__(1, 1, 2)
        self.weight = nn.Parameter(torch.tensor([2.0, -3.0]))

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        score = text * self.weight[0] + image * self.weight[1]
        return torch.cat([torch.zeros_like(score), score], dim=1)


def test_an_additive_head_gives_each_modality_its_own_part() -> None:
    text, image = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [-1.0]])
    with torch.inference_mode():
        parts = modality_contributions(Additive().eval(), text, image, torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(parts.text[:, 1], torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(parts.image[:, 1], torch.tensor([-3.0, 3.0]))
    torch.testing.assert_close(parts.interaction, torch.zeros(2, 2))
    torch.testing.assert_close(parts.shares()[0], torch.tensor([0.4, 4 / 7]))


def test_log_odds_do_not_overflow() -> None:
    logits = torch.tensor([[1000.0, -1000.0, 0.0], [0.0, 0.0, 0.0]])
    odds = log_odds(logits)
    assert torch.isfinite(odds).all()
    torch.testing.assert_close(odds[1], torch.full((3,), -0.6931472))
    proba = torch.tensor([[0.2, 0.5, 0.3]])
    torch.testing.assert_close(log_odds(proba.log()), torch.log(proba / (1 - proba)))
