"""What text and image have to do with each other: known rules, whole tables, the additive projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from cotune.explain.emap import additive_outputs
from cotune.explain.explanation import verdict
from cotune.explain.table.explain_posts import explain_posts
from cotune.explain.table.second_pass import ExplainPlan
from cotune.explain.table.summary import Best, TableSummary, TopWords
from cotune.explain.words import Word, Words
from cotune.heads import Embeddings, FusionHead, make_head
from cotune.tasks.single_label import SingleLabel
from explained import explainer, ruled_posts, ruled_run
from tiny import Zoo

torch.set_num_threads(1)
RULES = {
    "text": lambda word, colour: word,
    "image": lambda word, colour: colour,
    "xor": lambda word, colour: word ^ colour,
}


@pytest.mark.parametrize("fusion", ["attention", "concat"])
@pytest.mark.parametrize("rule", list(RULES))
def test_shares_and_interaction_of_known_rules(zoo: Zoo, tmp_path: Path, rule: str, fusion: str) -> None:
    run = ruled_run(zoo, tmp_path, RULES[rule], fusion=fusion)
    new = ruled_posts(tmp_path / "posts", RULES[rule], 80, seed=1)
    frame = explainer(run).contribution_frame(new)
    assert (frame["label"] == frame["true"]).mean() > 0.95, "the rule was learned"
    share = frame["text_share"].astype(float)
    interaction = frame["interaction"].astype(float).abs().mean()
    main = (frame["text"].abs() + frame["image"].abs()).astype(float).mean()
    if rule == "text":
        assert share.mean() > 0.85
        assert interaction < 0.35 * main
    elif rule == "image":
        assert share.mean() < 0.15
        assert interaction < 0.35 * main
    else:
        assert 0.3 < share.mean() < 0.7
        # Of a pure interaction each modality gets half, so that the two parts together are as large as it is.
        assert interaction == pytest.approx(main, rel=0.25)
        assert frame["interaction"].astype(float).min() > 0, "together they say what neither says alone"
    kept = (frame["text_alone"] == frame["label"]).mean(), (frame["image_alone"] == frame["label"]).mean()
    if rule == "text":
        assert kept[0] > 0.95
        assert kept[1] < 0.8
    elif rule == "image":
        assert kept[1] > 0.95
        assert kept[0] < 0.8
    else:
        assert np.mean(kept) < 0.75


class Sum(FusionHead):
    """Class scores that are a sum of a part of each modality."""

    def __init__(self) -> None:
        super().__init__({"text": 4, "image": 3}, 2)
        self.text, self.image = nn.Linear(4, 2), nn.Linear(3, 2)

    def fuse(self, embeddings: Embeddings) -> Tensor:
        result: Tensor = self.text(embeddings["text"]) + self.image(embeddings["image"])
        return result


class Product(FusionHead):
    """Class scores that are a product, of which no sum says anything."""

    def __init__(self) -> None:
        super().__init__({"text": 1, "image": 1}, 2)

    def fuse(self, embeddings: Embeddings) -> Tensor:
        product = embeddings["text"] * embeddings["image"]
        return torch.cat([-product, product], dim=1)


def test_a_sum_is_its_own_projection() -> None:
    head = Sum().eval()
    present = torch.ones(7, 2, dtype=torch.bool)
    present[2, 0] = present[3, 1] = False
    given = Embeddings({"text": torch.randn(7, 4), "image": torch.randn(7, 3)}, present)
    with torch.no_grad():
        whole = head(given).numpy()
    for batch_size in (1, 20, 8192):
        assert np.allclose(additive_outputs(head, given, batch_size=batch_size), whole, atol=1e-5)


def test_of_a_product_nothing_is_left() -> None:
    sign = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    other = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    given = Embeddings({"text": sign, "image": other}, torch.ones(4, 2, dtype=torch.bool))
    assert np.allclose(additive_outputs(Product().eval(), given), 0)


def test_the_projection_is_the_nearest_sum() -> None:
    head = make_head("concat", {"text": 4, "image": 3}, 3, width=8).eval()
    text, image = torch.randn(6, 4) * 3, torch.randn(6, 3) * 3
    present = torch.ones(6, 2, dtype=torch.bool)
    with torch.no_grad():
        pairs = torch.stack(
            [head(Embeddings({"text": text[[i]].expand(6, -1), "image": image}, present)) for i in range(6)]
        )
    table = pairs.double().numpy()
    grid = table.mean(axis=1)[:, None] + table.mean(axis=0)[None] - table.mean(axis=(0, 1))
    # Least squares over indicators of texts and images, by another way.
    design = np.zeros((36, 12))
    for i in range(6):
        for j in range(6):
            design[i * 6 + j, [i, 6 + j]] = 1
    solved = design @ np.linalg.lstsq(design, table.reshape(36, 3), rcond=None)[0]
    assert np.allclose(solved.reshape(6, 6, 3), grid)
    given = Embeddings({"text": text, "image": image}, present)
    assert np.allclose(additive_outputs(head, given), grid[np.arange(6), np.arange(6)], atol=1e-5)
    assert additive_outputs(head, given.rows(torch.zeros(0, dtype=torch.long))).shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "image", "alone", "words"),
    [
        (1.0, 2.0, ("a", "a"), "both support a. Each alone would give the same class"),
        (3.0, -2.0, ("a", "b"), "The text supports a, the image opposes it. The text overturns the image, which"),
        (-3.0, 4.0, ("b", "a"), "The image overturns the text, which alone would give b"),
        (2.0, 2.0, ("b", "b"), "Only together do they give it: each alone would give b"),
        (2.0, 2.0, ("b", "c"), "the text alone would give b, the image alone c"),
        (-1.0, -1.0, ("a", "a"), "both oppose a, which is still the likeliest"),
        (1.0, 0.0, ("a", None), "The text decides alone"),
        (0.0, 1.0, (None, "a"), "The image decides alone"),
    ],
)  # fmt: skip
def test_verdicts(text: float, image: float, alone: tuple[str | None, str | None], words: str) -> None:
    by_field = dict(zip(("text", "image"), alone, strict=True))
    assert words in verdict("a", {"text": text, "image": image}, by_field)


def frame_of(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    usual: dict[str, Any] = {
        "id": [f"p{i}" for i in range(n)], "row": list(range(1, n + 1)), "label": ["a"] * n, "true": [None] * n,
        "confidence": [0.9] * n, "text_share": [0.5] * n, "image_share": [0.5] * n, "base": [0.0] * n,
        "text": [1.0] * n, "image": [1.0] * n, "interaction": [0.0] * n, "text_alone": ["a"] * n,
        "image_alone": ["a"] * n, "conflict": [0.0] * n, "error": [None] * n,
    }  # fmt: skip
    return pd.DataFrame({**usual, **columns})


def test_conflicts_are_ranked_and_only_those() -> None:
    summary = TableSummary(SingleLabel(["a", "b"]), ("text", "image"), 3)
    summary.add(frame_of(text=[1.0, 2, -3, 4], image=[-0.5, 2, 2, -4], conflict=[0.5, 0, 2, 4]))
    summary.add(frame_of(row=[5, 6], text=[1.0, 1], image=[-9.0, 1], conflict=[1.0, 0]))
    assert [row["row"] for row in summary.best["conflicts"].ranked()] == [4, 3, 5]
    assert summary.choose("conflicts", 2) == [4, 3]
    assert summary.to_dict()["of_posts_with_both"]["pull_apart"] == pytest.approx(4 / 6)


def test_flips_shares_and_mistakes_are_counted() -> None:
    summary = TableSummary(SingleLabel(["a", "b"]), ("text", "image"), 2)
    summary.add(
        frame_of(
            label=["a", "a", "b", None, "b"], true=["a", "b", "b", "a", "zzz"],
            text_alone=["a", "b", "b", None, "b"], image_alone=["b", "b", "b", None, None],
            text_share=[0.1, 0.6, 0.9, np.nan, 1.0], image_share=[0.9, 0.4, 0.1, np.nan, 0.0],
        )
    )  # fmt: skip
    found = summary.to_dict()
    assert (found["posts"], found["scored"], found["errors"], found["with_both"]) == (5, 4, 1, 3)
    assert (found["text_alone"], found["image_alone"]) == (1, 0)
    assert (found["labelled"], found["accuracy"]) == (3, pytest.approx(2 / 3)), (
        "a label that the run does not know is none"
    )
    parts = found["of_posts_with_both"]
    assert parts["flips_without_text"] == pytest.approx(2 / 3)
    assert parts["flips_without_image"] == pytest.approx(1 / 3)
    assert parts["only_together"] == pytest.approx(1 / 3)
    assert found["classes"]["a"]["posts"] == 2
    assert found["classes"]["a"]["mean"] == pytest.approx(0.35)
    assert sum(found["classes"]["b"]["histogram"]) == 1
    assert [row["row"] for row in summary.best["mistakes"].ranked()] == [2]
    assert [row["row"] for row in summary.best["image_driven"].ranked()] == [1, 2]
    assert [row["row"] for row in summary.best["text_driven"].ranked()] == [3, 2]


def test_an_empty_summary_has_no_numbers() -> None:
    found = TableSummary(SingleLabel(["a"]), ("text", "image"), 3).to_dict()
    assert found["accuracy"] is None
    assert found["text_share"]["mean"] is None
    assert found["of_posts_with_both"]["pull_apart"] is None


def test_best_keeps_the_earlier_of_equals() -> None:
    best = Best(2)
    for i in range(5):
        best.offer(1.0, {"row": i})
    best.offer(2.0, {"row": 9})
    assert [record["row"] for record in best.ranked()] == [9, 0]
    none = Best(0)
    none.offer(1.0, {})
    assert none.ranked() == []


def test_top_words_leave_out_links_and_lone_words() -> None:
    def words(**effects: float) -> Words:
        made = tuple(Word(text, 0, 1, value, 0.0) for text, value in effects.items())
        return Words(made, "", 0, 0.0, 0.0, 0.0, 1)

    top = TopWords()
    for _ in range(3):
        top.add("a", words(Good=1.0, bad=-1.0, **{"http://x.y": 9.0, "!!": 9.0, "\U0001f600": 0.5}))
    top.add("a", words(once=1.2))
    ranked = top.ranked(["a", "b"], most=2)
    assert [row["word"] for row in ranked["a"]] == ["good", "\U0001f600"]
    assert ranked["a"][0] == {"word": "good", "posts": 3, "mean": 1.0}
    assert ranked["b"] == []


def test_a_table_of_interactions_needs_both(zoo: Zoo, tmp_path: Path) -> None:
    run = ruled_run(zoo, tmp_path, RULES["xor"], fusion="concat")
    posts = ruled_posts(tmp_path / "posts", RULES["xor"], 40, seed=2)
    found = explain_posts(
        explainer(run), lambda: [posts[:20], posts[20:]], ExplainPlan(limit=2, word_posts=0), out=tmp_path / "out"
    )
    emap = found.summary["emap"]
    assert emap["posts"] == 40
    assert emap["accuracy"] > 0.95
    assert emap["additive_accuracy"] < 0.8, "what no sum can say is lost"
    assert emap["interaction_variance"] > 0.5
    plain = ruled_run(zoo, tmp_path / "plain", RULES["text"], fusion="concat")
    posts = ruled_posts(tmp_path / "plain" / "posts", RULES["text"], 40, seed=2)
    found = explain_posts(
        explainer(plain), lambda: [posts], ExplainPlan(limit=2, word_posts=0), out=tmp_path / "plain-out"
    )
    assert found.summary["emap"]["same_label"] > 0.95
    assert found.summary["emap"]["interaction_variance"] < 0.2
