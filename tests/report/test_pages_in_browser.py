"""Every kind of page in Chromium, on a desk and a phone, light and dark: no barrier, no complaint, no sideways scrolling.

The page of the service is looked at where it is served, in ``tests/serve/test_page.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from axe import axe_source, barriers
from bench_tiny import made_up
from browser import Visit, check_fits
from cotune.benchmark import Plan
from cotune.benchmark.compare import Paired
from cotune.benchmark.results_store import write_failures
from cotune.evaluation import evaluate_posts
from cotune.explain.explanation import Explanation
from cotune.explain.table.explain_posts import explain_posts
from cotune.explain.table.second_pass import ExplainPlan
from cotune.metrics import Estimate
from cotune.model import JointModel
from cotune.predict import Predictor
from cotune.report.benchmark_report import write_all
from cotune.report.explain_report import page_name, post_page, set_page, with_neighbours
from cotune.report.posts_page import ShownPosts, posts_page
from cotune.report.run_report import evaluation_report, run_report
from cotune.report.tune_report import tune_report
from cotune.run import Run
from cotune.tasks import Task
from cotune.tasks.multi_label import MultiLabel
from cotune.tasks.regression import Regression
from cotune.tasks.single_label import SingleLabel
from cotune.tuning import TuneResult
from cotune.tuning.final import Compared
from cotune.tuning.results import FAILED, FINISHED, PRUNED, TrialResult
from explained import evil_posts, evil_run, explainer, random_run
from tiny import Zoo, make_posts
from tuned import tiny_plan

pytestmark = pytest.mark.browser
torch.set_num_threads(1)
LOOKS = ((1280, "light"), (390, "light"), (1280, "dark"), (390, "dark"))
#: axe-core takes half a second a page: each width and each scheme once.
SEARCHED = LOOKS[0], LOOKS[3]
LONG = "a-rather-long-name-of-a-run-" * 4


def test_axe_core_is_at_hand() -> None:
    try:
        assert "axe" in axe_source()
    except LookupError as reason:
        pytest.skip(f"barriers are not looked for: {reason}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def fitted(zoo: Zoo) -> Run:
    """A run with the metrics of a training in two stages, made up."""
    run = random_run(zoo)
    history = [
        {"stage": stage, "epoch": n + 1, "train_loss": 0.9 - 0.1 * n, "validation_loss": 0.8 + 0.02 * n,
         "validation_auc": 0.6 + 0.05 * n, "seconds": 1.0, "posts_per_second": 90.0}
        for stage, epochs in (("probe", 4), ("joint", 2)) for n in range(epochs)
    ]  # fmt: skip
    return Run(run.model, run.config, {**made_up_metrics(run.task), "history": history})


@pytest.fixture(scope="module")
def pages(zoo: Zoo, folder: Path, fitted: Run) -> dict[str, Path]:
    """Write a page of each kind."""
    made = {
        "run": run_report(fitted, name=LONG, posts_page="posts.html"),
        "multi-label": run_report(of_task(fitted, MultiLabel(["cat", "dog", "sun"])), name="labels"),
        "regression": run_report(of_task(fitted, Regression(2.0, 1.0)), name="values"),
        "tune": tune_report(search(zoo, folder)),
    }
    posts = make_posts(folder / "new", 15, gaps=False, classes=3, seed=4)
    result = evaluate_posts(Predictor(fitted, device="cpu"), [posts], n_bootstrap=30)
    made["evaluation"] = evaluation_report(fitted, result, name="mine", posts="new.csv")
    shown = ShownPosts(fitted.task, fitted.fields)
    shown.add(posts, result.predictions)
    made["posts"] = posts_page(shown, title="Posts of mine")
    paths = {name: folder / f"{name}.html" for name in made}
    for name, page in made.items():
        paths[name].write_text(page, encoding="utf-8")
    for name in ("benchmark", "grid"):
        paths[name] = benchmark(folder / name, grid=name == "grid")
    return {**paths, **explained(zoo, folder / "explained")}


def made_up_metrics(task: Task) -> dict[str, Any]:
    random = np.random.default_rng(0)
    labels = random.integers(0, task.n_outputs, 90) if task.target_type == "multiclass" else None
    targets = (random.random((90, task.n_outputs)) < 0.4) if labels is None else np.eye(task.n_outputs)[labels]
    guesses = np.clip(targets * 0.3 + random.random(targets.shape) * 0.7, 0, 1)
    guesses = guesses if labels is None else guesses / guesses.sum(axis=1, keepdims=True)
    true = (
        labels if labels is not None else targets.astype(float) if task.n_outputs > 1 else targets[:, 0].astype(float)
    )
    found = task.evaluate(true, guesses, n_bootstrap=20).to_dict()
    return {"validation": found, "posts": {"train": 60, "held_out": 90, "labels": {"low": 20, "high": 40}}}


def of_task(run: Run, task: Task) -> Run:
    """Return a run of another task, with made-up scores."""
    model = JointModel(run.model.encoders, run.model.head, SingleLabel(run.classes))
    model.task = task
    return Run(model, run.config, made_up_metrics(task))


def search(zoo: Zoo, folder: Path) -> TuneResult:
    """Return a finished search, made up."""
    states = [FINISHED, FINISHED, PRUNED, FAILED, *[FINISHED] * 9]
    trials = [
        TrialResult(
            i + 1, state, None if state == FAILED else 0.7 + 0.01 * i, 3, 2.0,
            {"probe_lr": 1e-3 * (i + 1), "width": [16, 32][i % 2], "dropout": 0.1}, "it broke" if state == FAILED else "",
        )
        for i, state in enumerate(states)
    ]  # fmt: skip
    scores = {name: Estimate(0.8, 0.7, 0.9) for name in ("auc", "accuracy", "macro_f1")}
    compared = Compared(scores, scores, Paired(0.02, -0.01, 0.05, 0.2, "paired bootstrap"), 40, (42, 7), False, 2)
    plan = tiny_plan(zoo, folder / "cache")
    return TuneResult(plan, SingleLabel(["no", "yes"]), trials, trials[-1], {"width": 0.7, "probe_lr": 0.3}, compared)


def benchmark(out: Path, *, grid: bool) -> Path:
    """Write the report of a made-up benchmark: of methods, or of pairs of encoders."""
    if grid:
        pairs = tuple((f"hf:a/{t}", f"timm:{i}") for t in ("small", "large") for i in ("x", "efficientnet-lite0"))
        plan = Plan(methods=("joint", "probe"), pairs=pairs, folds=2)
    else:
        methods = ("svm", "text", "image", "concat", "joint", "clip")
        plan = Plan(methods=methods, pairs=(("hf:a/t", "timm:i"),), folds=3, shots=(4, None), draws=2)
    made_up(out, plan, {"svm": 0.6, "text": 1.0, "concat": 2.4, "joint": 2.5})
    write_failures(out, {} if grid else {"image-t-i-fold2": "the image encoder diverged; train it with a lower rate"})
    write_all(out, paper=None if grid else "mvsa", n_bootstrap=40)
    return out / "report.html"


def explained(zoo: Zoo, out: Path) -> dict[str, Path]:
    """Write the pages of explained posts that are up to no good."""
    (out / "posts").mkdir(parents=True)
    explain, posts = explainer(evil_run(zoo), bad_images="text-only"), evil_posts(out / "table")
    made: dict[int, str] = {}

    def keep(row: int, result: Explanation) -> None:
        made[row] = post_page(result, row=row, run="r", index="../index.html")

    result = explain_posts(explain, lambda: [posts], ExplainPlan(limit=4), out=out, on_explanation=keep)
    rows = [(row, str(values["id"])) for row, values in result.explained.items()]
    assert len(rows) == 4
    for before, (row, _), after in zip([None, *rows], rows, [*rows[1:], None], strict=False):
        page = with_neighbours(made[row], before, after)
        (out / "posts" / page_name(row)).write_text(page, encoding="utf-8")
    (out / "index.html").write_text(set_page(result, run="r", posts="p"), encoding="utf-8")
    return {"explain": out / "index.html", "post": out / "posts" / page_name(rows[1][0])}


KINDS = ("run", "multi-label", "regression", "evaluation", "posts", "tune", "benchmark", "grid", "explain", "post")


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_no_barrier_and_fits_every_screen(
    pages: dict[str, Path], visit: Callable[..., Visit], kind: str
) -> None:
    page = visit().page
    page.goto(pages[kind].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    for width, scheme in LOOKS:
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        check_fits(page)
        if (width, scheme) in SEARCHED:
            assert barriers(page) == [], (width, scheme)
    drawn = page.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert all(drawn), "every image is drawn"


def test_what_is_printed_is_light_whatever_the_screen_and_fits_the_paper(
    pages: dict[str, Path], visit: Callable[..., Visit]
) -> None:
    page = visit(scheme="dark").page
    for kind in ("benchmark", "explain", "run"):
        page.goto(pages[kind].as_uri())
        # A4 within margins of 14 mm, at 96 pixels to the inch.
        page.set_viewport_size({"width": round((210 - 28) / 25.4 * 96), "height": 1017})
        page.emulate_media(media="print", color_scheme="dark")
        check_fits(page)
        style = page.locator("body").evaluate(
            "body => [getComputedStyle(body).color, getComputedStyle(body).backgroundColor]"
        )
        assert style == ["rgb(29, 31, 35)", "rgb(255, 255, 255)"], kind
        wide = page.locator("table").evaluate_all(
            "tables => tables.filter(t => t.getBoundingClientRect().right > innerWidth).map(t => t.innerText.slice(0, 80))"
        )
        assert wide == [], kind


def test_a_reader_can_click_through_explained_posts(pages: dict[str, Path], visit: Callable[..., Visit]) -> None:
    page = visit(390).page
    page.goto(pages["explain"].as_uri())
    assert page.title() == "r on p - cotune"
    closed = page.locator("details.list:not([open])")
    assert closed.count() > 0
    for _ in range(closed.count()):
        closed.first.locator("summary").click()
    assert page.get_by_role("heading", name="Most confident errors").is_visible(), (
        "headings are in the lists' summaries"
    )
    page.locator("nav a").last.click()
    assert page.evaluate("scrollY") > 100
    page.locator("#explained .who a").first.click()
    first = page.title()
    assert first.startswith("Post <script>document.title='owned'"), "a title is text"
    assert page.get_by_role("link", name="Previous").count() == 0
    page.get_by_role("link", name="Next").click()
    assert page.title() != first
    assert len(page.locator("figure img").all()) == 2
    page.get_by_role("link", name="Previous").click()
    assert page.title() == first
    page.get_by_role("link", name="All posts").click()
    assert page.title() == "r on p - cotune"


def test_an_id_is_never_broken_on_a_phone(pages: dict[str, Path], visit: Callable[..., Visit]) -> None:
    page = visit(390).page
    page.goto(pages["grid"].as_uri())
    heads = page.locator(".heat thead th").evaluate_all("heads => heads.map(head => head.getClientRects()[0].height)")
    assert max(heads) < 60, "headers of a matrix are on few lines"
    words = pd.Series(page.locator(".heat thead th").all_inner_texts())
    assert words.str.contains("efficientnet-lite0").any()


def test_every_box_that_scrolls_can_be_reached_and_has_a_name(
    pages: dict[str, Path], visit: Callable[..., Visit]
) -> None:
    page = visit(390).page
    for kind in KINDS:
        page.goto(pages[kind].as_uri())
        boxes = page.locator(".scroll, .cx-scroll")
        for box in boxes.evaluate_all(
            "all => all.map(b => [b.tabIndex, b.getAttribute('aria-label'), b.getAttribute('role')])"
        ):
            assert box[0] == 0
            assert box[1]
            assert box[2] in ("region", "group")


def test_a_cell_of_the_confusion_matrix_opens_its_posts(pages: dict[str, Path], visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.goto(pages["run"].as_uri())
    link = page.locator(".matrix a").first
    label = page.locator(".matrix tbody th").first.inner_text()
    link.click()
    assert page.title() == "Posts of mine - cotune"
    chosen = page.locator("#filters").evaluate("form => [form.elements.true.value, form.elements.label.value]")
    assert chosen == [label, label]


def test_predictions_are_looked_through_by_keyboard(pages: dict[str, Path], visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.goto(pages["posts"].as_uri())
    found, cards = page.locator("#found"), page.locator("#posts button")
    everything = cards.count()
    assert everything == 15
    assert found.inner_text().startswith("15 of 15 posts, ")
    errors = int(found.inner_text().split(", ")[1].split()[0])
    page.keyboard.press("e")
    assert cards.count() == errors
    page.keyboard.press("e")
    page.locator("#filters select[name=sort]").select_option("row")
    cards.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "row 2" in page.locator("#detail-body").inner_text()
    page.keyboard.press("ArrowRight")
    assert "row 3" in page.locator("#detail-body").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#detail").evaluate("dialog => dialog.open")
    page.locator('#posts button[data-at="2"]:focus').wait_for()  # where the reader was
    page.keyboard.press("/")
    page.keyboard.type("no such words")
    assert found.inner_text().startswith("0 of 15 posts")
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("15 of 15 posts").wait_for()
    page.locator("#filters input[name=least]").fill("99")
    assert cards.count() < everything
