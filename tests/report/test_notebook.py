"""Results in a notebook: escaped, in the notebook's colours, and with no style that reaches beyond them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotune import JointClassifier, JointRegressor
from cotune.evaluation import evaluate_posts
from cotune.explain.explainer import Explainer
from cotune.explain.table.explain_posts import explain_posts
from cotune.explain.table.second_pass import ExplainPlan
from cotune.predict import Predictor
from cotune.report.notebook import tables_html, themed
from cotune.report.pages import style_sheet
from cotune.report.terminal import add_row, new_table
from explained import random_run
from pages import Balanced
from runs import tiny_settings
from tiny import Zoo, make_posts


def check(html: str) -> None:
    """Check that a piece of HTML is well-formed, needs nothing else, and styles elements of its own alone."""
    parser = Balanced()
    parser.feed(html)
    assert not parser.faults
    assert not parser.open
    assert not re.search(r"""(?:src|href|url)\s*[=(]|@import|<script|<link|http""", html)
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    rules = re.findall(r"(?:^|\})\s*([^{}@]+)\{", style)
    assert rules
    assert all(".cotune-nb" in selector for rule in rules for selector in rule.split(", "))


def test_all_that_a_table_holds_is_escaped() -> None:
    table = new_table("a <b>title</b>", "name <i>", "value", right=("value",))
    add_row(table, "<script>alert(1)</script>", "1 & 2")
    html = tables_html([table], folded=[table], notes=["<note>"])
    check(html)
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "<p>&lt;note&gt;</p>" in html
    assert "a &lt;b&gt;title&lt;/b&gt; (1)</summary>" in html
    assert '<td class="cotune-num">1 &amp; 2</td>' in html


def test_evaluations_and_explained_tables_render(zoo: Zoo, tmp_path: Path) -> None:
    run = random_run(zoo, classes=2)
    posts = make_posts(tmp_path, 12)
    posts.loc[0, "text"] = "<b>good</b> day"
    posts.loc[1, "label"] = None
    found = evaluate_posts(Predictor(run), [posts], n_bootstrap=20)
    html = found._repr_html_()
    check(html)
    assert "Scores on 11 posts" in html
    assert "Confusion matrix" in html
    assert "left out: 1 post with no label" in html
    plan = ExplainPlan(3, None, False, False, 0, 0, 0)
    table = explain_posts(Explainer(run), lambda: [posts], plan)
    html = table._repr_html_()
    check(html)
    assert "Posts with text and image, by predicted class" in html
    assert "<summary>Posts whose text and image disagree most (3)</summary>" in html
    assert "<b>good" not in html


def test_an_explanation_follows_the_theme_of_the_notebook(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path, 2, gaps=False)
    html = Explainer(random_run(zoo, classes=2)).explain(posts.iloc[[0]], words=False, pixels=False)._repr_html_()
    css = style_sheet("explanation.css")
    dark = re.findall(
        r"--cx-[\w-]+", css.partition("@media screen and (prefers-color-scheme: dark)")[2].partition("}")[0]
    )
    for theme in ("true", "false"):
        rule = re.search(rf'\[data-jp-theme-light="{theme}"\][^{{]*\) \.cx \{{([^}}]*)\}}', html)
        assert rule is not None
        assert re.findall(r"--cx-[\w-]+", rule[1].replace("var(", "")) == dark, "every colour, once"
    assert "--cx-card: #ffffff" in html.partition('[data-jp-theme-light="true"]')[2]


def test_only_variables_with_a_dark_value_are_set_again() -> None:
    css = ".x { --a: 1; --b: 2; color: red; }\n@media screen and (prefers-color-scheme: dark) { .x { --a: 3; } }\n.x p { margin: 0; }"
    more = themed(css, ".x").removeprefix(css)
    assert re.findall(r"\.x \{ ([^}]*) \}", more) == ["--a: 3;", "--a: 1;"]


@pytest.mark.parametrize("face", [JointClassifier, JointRegressor])
def test_the_diagram_shows_encoders_and_head(zoo: Zoo, tmp_path: Path, face: Any) -> None:
    posts = make_posts(tmp_path / "posts", 18, gaps=False)
    settings = tiny_settings(zoo, tmp_path / "cache", tune="frozen", probe_epochs=1)
    model = face(**settings)
    before = model._repr_html_()
    for words in (settings["text_encoder"], settings["image_encoder"], "attention head", "tune: frozen"):
        assert words in before
    assert "parameters" not in before.partition("attention head")[2]
    labels = posts["label"] if face is JointClassifier else np.arange(18.0)
    model.fit(posts[["text", "image"]], labels)
    after = model._repr_html_()
    counts = model.run_.model.parameter_counts()
    for count in (counts["text"], counts["image"], counts["head"]):
        assert f"{count:,} parameters" in after
    assert model.run_.task.describe().replace("'", "&#x27;") in after


def test_the_diagram_names_what_the_head_reads_alone(zoo: Zoo) -> None:
    html = JointClassifier(text_encoder="bundled:a-text", image_encoder="bundled:an-image", fusion="text")._repr_html_()
    diagram = html[html.rindex('<div class="sk-parallel">') : html.rindex("<script>")]
    assert "bundled:a-text" in diagram
    assert "bundled:an-image" not in diagram
    assert "text head" in diagram
    assert JointClassifier(tune="none of these")._repr_html_(), "settings that are wrong are shown as well"
