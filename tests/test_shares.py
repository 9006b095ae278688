"""Modality shares against their definition, and in the tables that explanations are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cotune.heads import FusionHead, make_head
from cotune.heads.contributions import log_odds, modality_contributions, removed_state
from cotune.predict import Predictor
from cotune.run import load_run, save_run
from explained import explainer, random_run
from runs import tiny_fit
from tiny import PostsMaker, Zoo, stir

BOTH = torch.ones(5, 2, dtype=torch.bool)


def make(name: str, classes: int) -> FusionHead:
    torch.manual_seed(3)
    head = make_head(name, 6, 9, classes, width=8, heads=2)
    stir(head, 2)
    return head


def embeddings(n: int = 5) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=random), torch.randn(n, 9, generator=random)


@pytest.mark.parametrize("name", ["attention", "concat", "reference"])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_parts_are_the_shapley_values_by_their_definition(name: str, classes: int) -> None:
    head = make(name, classes)
    text, image = embeddings()
    with torch.no_grad():
        parts = modality_contributions(head, text, image, BOTH)

        def value(has_text: bool, has_image: bool) -> Tensor:
            return log_odds(head(text, image, torch.tensor([[has_text, has_image]]).expand(5, 2)))

        nothing, t, i, both = value(False, False), value(True, False), value(False, True), value(True, True)
    assert torch.allclose(parts.text + parts.image, both - nothing, atol=1e-5)
    # The mean over both orders in which the two players can enter.
    assert torch.allclose(parts.text, ((t - nothing) + (both - i)) / 2, atol=1e-5)
    assert torch.allclose(parts.image, ((i - nothing) + (both - t)) / 2, atol=1e-5)
    assert torch.allclose(parts.interaction, both - t - i + nothing, atol=1e-5)
    assert torch.allclose(parts.text_alone(), t, atol=1e-5)
    assert torch.allclose(parts.image_alone(), i, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "concat", "reference"])
def test_nothing_leaks_out_of_what_a_post_lacks(name: str) -> None:
    head = make(name, 3)
    text, image = embeddings()
    text[1], image[2] = float("nan"), float("nan")
    present = torch.tensor([[True, True], [False, True], [True, False], [False, False], [True, True]])
    with torch.no_grad():
        parts = modality_contributions(head, text, image, present)
    shares = torch.stack(parts.shares(), dim=1)
    assert shares[1].tolist() == [0, 1]
    assert shares[2].tolist() == [1, 0]
    assert shares[3].tolist() == [0.5, 0.5]
    assert (parts.conflict()[1:4] == 0).all()
    assert all(torch.isfinite(part).all() for part in (parts.base, parts.text, parts.image, parts.interaction, shares))


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_head_of_one_modality_gives_it_the_whole_share(name: str) -> None:
    head = make(name, 3)
    text, image = embeddings()
    text, image = (text, image[:, :0]) if name == "text" else (text[:, :0], image)
    with torch.no_grad():
        parts = modality_contributions(head, text, image, BOTH)
    assert (parts.shares()[0] == (1.0 if name == "text" else 0.0)).all()
    other = "image" if name == "text" else "text"
    assert (getattr(parts, other) == 0).all()
    assert removed_state(head)[other] == "unused"


def test_conflict_is_the_smaller_of_two_opposite_parts() -> None:
    head = make("concat", 2)
    random = torch.Generator().manual_seed(1)
    text, image = torch.randn(200, 6, generator=random) * 3, torch.randn(200, 9, generator=random) * 3
    with torch.no_grad():
        parts = modality_contributions(head, text, image, torch.ones(200, 2, dtype=torch.bool))
    a, b = parts.of_predicted()
    apart = a * b < 0
    assert 0 < int(apart.sum()) < 200
    assert torch.equal(parts.conflict() > 0, apart)
    assert torch.allclose(parts.conflict()[apart], torch.minimum(a.abs(), b.abs())[apart])


def test_what_stands_in_for_an_absent_modality_is_told(zoo: Zoo, tmp_path: Path) -> None:
    assert removed_state(make_head("reference", 6, 9, 2)) == {"text": "zeros", "image": "zeros"}
    assert removed_state(make_head("attention", 6, 9, 2)) == {"text": "zeros", "image": "zeros"}
    # The posts of this table lack a text or an image now and then, which teaches the head even without dropout.
    taught = tiny_fit(zoo, tmp_path, tune="frozen", modality_dropout=0.0, n=12)
    assert removed_state(taught.run.model.head) == {"text": "learned", "image": "learned"}
    alone = tiny_fit(zoo, tmp_path / "alone", tune="frozen", fusion="text", n=12)
    assert removed_state(alone.run.model.head) == {"text": "prior", "image": "unused"}


@pytest.mark.parametrize("fusion", ["attention", "reference", "image"])
def test_parts_are_counted_from_the_class_frequencies(zoo: Zoo, tmp_path: Path, fusion: str) -> None:
    run = tiny_fit(zoo, tmp_path, tune="frozen", fusion=fusion, classes=3).run
    counts = run.metrics["posts"]["labels"]
    shares = torch.tensor([counts[name] for name in run.classes]) / sum(counts.values())
    head = run.model.head
    text, image = (torch.randn(4, encoder.dim if encoder else 0) for encoder in (run.model.text, run.model.image))
    parts = modality_contributions(head, text, image, torch.ones(4, 2, dtype=torch.bool))
    assert torch.allclose(parts.base, (shares / (1 - shares)).log().expand(4, 3), atol=1e-5)
    saved = tmp_path / "saved"
    save_run(saved, run)
    assert torch.equal(load_run(saved).model.head.log_prior, head.log_prior)


def test_explanations_agree_with_predictions(zoo: Zoo, new_posts: PostsMaker) -> None:
    run = random_run(zoo)
    posts = new_posts(12)
    predicted = Predictor(run, device="cpu").frame(posts)
    frame = explainer(run).modality_frame(posts)
    assert frame["label"].tolist() == predicted["label"].tolist()
    for name in ("text_share", "image_share"):
        assert np.allclose(frame[name].astype(float), predicted[name].astype(float), atol=1e-6)
    proba = predicted[[f"p_{name}" for name in run.classes]].to_numpy(dtype=float)
    assert np.allclose(frame["confidence"].astype(float), proba.max(axis=1), atol=1e-6)
    of_top = frame["base"] + frame["text"] + frame["image"]
    assert np.allclose(of_top.astype(float), np.log(proba.max(axis=1) / (1 - proba.max(axis=1))), atol=1e-4)
    for i, label in enumerate(frame["label"]):
        assert frame[f"text:{label}"][i] == pytest.approx(frame["text"][i])
    no_text, no_image = posts["text"].isna(), posts["image"].isna()
    assert frame["text_alone"][no_text].isna().all()
    assert frame["image_alone"][no_image].isna().all()
    assert (frame["image_share"][no_text] == 1).all()
    assert (frame["text_share"][no_image] == 1).all()
