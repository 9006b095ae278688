"""Modality shares against their definition, and in the tables that explanations are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cotune.heads import HEADS, Embeddings, FusionHead, make_head
from cotune.heads.contributions import contributions, removed_state
from cotune.predict import Predictor
from cotune.run import load_run, save_run
from cotune.tasks.single_label import SingleLabel
from explained import explainer, random_run
from runs import tiny_fit
from tiny import PostsMaker, Zoo, stir

SIZES = {"text": 6, "image": 9}


def task(n: int) -> SingleLabel:
    return SingleLabel([f"c{i}" for i in range(n)])


def make(name: str, classes: int) -> FusionHead:
    torch.manual_seed(3)
    dims = {field: SIZES[field] for field in HEADS[name].reads({"text": "text", "image": "image"})}
    head = make_head(name, dims, classes, width=8, heads=2)
    stir(head, 2)
    return head


def embeddings(head: FusionHead, n: int = 5, *, size: float = 1.0, present: Tensor | None = None) -> Embeddings:
    random = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(n, dim, generator=random) * size for name, dim in SIZES.items()}
    here = torch.ones(n, 2, dtype=torch.bool) if present is None else present
    return Embeddings({name: drawn[name] for name in head.fields}, here[:, [list(SIZES).index(f) for f in head.fields]])


@pytest.mark.parametrize("name", ["attention", "concat", "reference"])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_parts_are_the_shapley_values_by_their_definition(name: str, classes: int) -> None:
    head, of = make(name, classes), task(classes)
    given = embeddings(head)
    with torch.no_grad():
        parts = contributions(head, of, given)

        def value(has_text: bool, has_image: bool) -> Tensor:
            present = torch.tensor([[has_text, has_image]]).expand(5, 2)
            return of.contribution_scale(head(given.with_present(present)))

        nothing, t, i, both = value(False, False), value(True, False), value(False, True), value(True, True)
    text, image = parts.parts["text"], parts.parts["image"]
    assert torch.allclose(text + image, both - nothing, atol=1e-5)
    # The mean over both orders in which the two players can enter.
    assert torch.allclose(text, ((t - nothing) + (both - i)) / 2, atol=1e-5)
    assert torch.allclose(image, ((i - nothing) + (both - t)) / 2, atol=1e-5)
    assert torch.allclose(parts.interactions["text", "image"], both - t - i + nothing, atol=1e-5)
    assert torch.allclose(parts.alone["text"], t, atol=1e-5)
    assert torch.allclose(parts.alone["image"], i, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "concat", "reference"])
def test_nothing_leaks_out_of_what_a_post_lacks(name: str) -> None:
    head = make(name, 3)
    present = torch.tensor([[True, True], [False, True], [True, False], [False, False], [True, True]])
    given = embeddings(head, present=present)
    given["text"][1], given["image"][2] = float("nan"), float("nan")
    with torch.no_grad():
        parts = contributions(head, task(3), given)
    shares = torch.stack(list(parts.shares().values()), dim=1)
    assert shares[1].tolist() == [0, 1]
    assert shares[2].tolist() == [1, 0]
    assert shares[3].tolist() == [0.5, 0.5]
    assert (parts.conflict()[1:4] == 0).all()
    found = (parts.base, *parts.parts.values(), *parts.interactions.values(), shares)
    assert all(torch.isfinite(part).all() for part in found)


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_head_of_one_modality_gives_it_the_whole_share(name: str) -> None:
    head = make(name, 3)
    with torch.no_grad():
        parts = contributions(head, task(3), embeddings(head), ("text", "image"))
    assert (parts.shares()["text"] == (1.0 if name == "text" else 0.0)).all()
    other = "image" if name == "text" else "text"
    assert (parts.parts[other] == 0).all()
    assert removed_state(head, ("text", "image"))[other] == "unused"


def test_conflict_is_the_smaller_of_two_opposite_parts() -> None:
    head = make("concat", 2)
    with torch.no_grad():
        parts = contributions(head, task(2), embeddings(head, 200, size=3.0))
    a, b = (parts.of_explained(part) for part in parts.parts.values())
    apart = a * b < 0
    assert 0 < int(apart.sum()) < 200
    assert torch.equal(parts.conflict() > 0, apart)
    assert torch.allclose(parts.conflict()[apart], torch.minimum(a.abs(), b.abs())[apart])


def test_what_stands_in_for_an_absent_modality_is_told(zoo: Zoo, tmp_path: Path) -> None:
    assert removed_state(make_head("reference", SIZES, 2), SIZES) == {"text": "zeros", "image": "zeros"}
    assert removed_state(make_head("attention", SIZES, 2), SIZES) == {"text": "zeros", "image": "zeros"}
    # The posts of this table lack a text or an image now and then, which teaches the head even without dropout.
    taught = tiny_fit(zoo, tmp_path, tune="frozen", modality_dropout=0.0, n=12)
    assert removed_state(taught.run.model.head, SIZES) == {"text": "learned", "image": "learned"}
    alone = tiny_fit(zoo, tmp_path / "alone", tune="frozen", fusion="text", n=12)
    assert removed_state(alone.run.model.head, SIZES) == {"text": "prior", "image": "unused"}


@pytest.mark.parametrize("fusion", ["attention", "reference", "image"])
def test_parts_are_counted_from_the_class_frequencies(zoo: Zoo, tmp_path: Path, fusion: str) -> None:
    run = tiny_fit(zoo, tmp_path, tune="frozen", fusion=fusion, classes=3).run
    counts = run.metrics["posts"]["labels"]
    shares = torch.tensor([counts[name] for name in run.classes]) / sum(counts.values())
    head = run.model.head
    drawn = {name: torch.randn(4, dim) for name, dim in head.dims.items()}
    parts = contributions(head, run.task, Embeddings(drawn, torch.ones(4, len(drawn), dtype=torch.bool)))
    assert torch.allclose(parts.base, (shares / (1 - shares)).log().expand(4, 3), atol=1e-5)
    saved = tmp_path / "saved"
    save_run(saved, run)
    assert torch.equal(load_run(saved).model.head.prior, head.prior)


def test_explanations_agree_with_predictions(zoo: Zoo, new_posts: PostsMaker) -> None:
    run = random_run(zoo)
    posts = new_posts(12)
    predicted = Predictor(run, device="cpu").frame(posts)
    frame = explainer(run).contribution_frame(posts)
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
