"""Nothing of the posts that are scored teaches: planted markers in them change no training, and planted leaks are caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench_tiny import tiny_plan
from cotune.benchmark import METHODS, Method, Outcome, Plan
from cotune.benchmark.bench import Bench
from cotune.benchmark.folds import Folds, cut_posts
from cotune.benchmark.methods import Trial, embeddings
from cotune.benchmark.records import Record
from cotune.data.seen import NEW, TRAINED, PostKeys, SeenPosts
from cotune.encoders.table import TableEncoder
from cotune.evaluation import evaluate_posts
from cotune.fields import DEFAULT_FIELDS
from cotune.predict import Predictor
from cotune.tasks.multi_label import MultiLabel
from cotune.training.build import build_model
from cotune.training.fit import fit_posts
from runs import tiny_config
from tiny import Zoo, make_posts, scene


def _posts(folder: Path, n: int = 36) -> pd.DataFrame:
    posts = make_posts(folder / "posts", n, gaps=False)
    posts["text"] = [f"{text} {'a' * (i % 7)} {'b' * (i // 7)}" for i, text in enumerate(posts["text"])]
    return posts


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return _posts(tmp_path_factory.mktemp("leaks"))


def standardised_on_all(trial: Trial) -> Outcome:
    """Classify by the nearest mean, on embeddings that are standardised with the test posts' figures too."""
    every = np.concatenate([trial.train, trial.test])
    table = np.nan_to_num(embeddings(trial.features, every))
    table = (table - table.mean(axis=0)) / (table.std(axis=0) + 1e-9)
    train, test = np.split(table, [len(trial.train)])
    centres = [train[trial.targets[trial.train] == k].mean(axis=0) for k in range(trial.task.n_outputs)]
    near = np.exp(-np.stack([np.abs(test - centre).mean(axis=1) for centre in centres], axis=1))
    return Outcome(near / near.sum(axis=1, keepdims=True), {})


def stopped_by_test(trial: Trial) -> Outcome:
    """Train with early stopping that watches the very posts that are scored."""
    method = METHODS["joint"].run
    assert method is not None
    return method(replace(trial, watched=trial.test))


@pytest.fixture(scope="module", autouse=True)
def planted() -> Iterator[None]:
    METHODS.add("all-standardised", Method("Leak", run=standardised_on_all))
    METHODS.add("test-stopped", Method("Leak", run=stopped_by_test))
    yield
    for name in ("all-standardised", "test-stopped"):
        del METHODS._items[name]


def score(posts: pd.DataFrame, folds: Folds, plan: Plan) -> Record:
    """Train and score the first fold."""
    cell = next(cell for cell in plan.cells() if cell.fold == 0 and METHODS[cell.method].run)
    return Bench(posts, folds, plan).run(cell)


def with_other_labels(folds: Folds) -> Folds:
    """Turn the labels of the posts that the first fold scores around."""
    targets = folds.targets.copy()
    targets[folds.test(0)] = 1 - targets[folds.test(0)]
    return replace(folds, targets=targets)


def steps(record: Record) -> list[Any]:
    """Return what is known of each epoch but its time."""
    return [{key: row[key] for key in row if key not in ("seconds", "posts_per_second")} for row in record.history]


STOPPED = {"stop": "validation", "epochs": 3, "min_epochs": 1, "lr_text": 0.01, "lr_image": 0.01}


@pytest.mark.parametrize(
    ("method", "leaks"), [("svm", False), ("probe", False), ("joint", False), ("test-stopped", True)]
)
def test_labels_of_scored_posts_change_no_training_and_no_stop(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, method: str, leaks: bool
) -> None:
    plan = tiny_plan(zoo, tmp_path / "cache", methods=(method,), emap=0, fit={"tune": "joint", **STOPPED})
    folds = cut_posts(posts, plan)
    first, second = score(posts, folds, plan), score(posts, with_other_labels(folds), plan)
    same = np.array_equal(first.proba, second.proba) and steps(first) == steps(second)
    assert same is not leaks


def marked(posts: pd.DataFrame, folds: Folds, folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Give every other post that the first fold scores a marker for text and image; return where the others stand."""
    test = folds.test(0)
    found = posts.copy()
    for at in test[1::2]:
        scene(int(at)).point(lambda level: 255 - level // 9).save(folder / f"marker{at}.png")
        found.loc[at, "text"] = "hate hate hate hate hate bad"
        found.loc[at, "image"] = str(folder / f"marker{at}.png")
    return found, np.arange(0, len(test), 2)


@pytest.mark.parametrize(("method", "leaks"), [("svm", False), ("joint", False), ("all-standardised", True)])
def test_markers_in_scored_posts_change_nothing_for_the_others(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame, method: str, leaks: bool
) -> None:
    plan = tiny_plan(zoo, tmp_path / "cache", methods=(method,), emap=0, fit={"tune": "frozen"})
    folds = cut_posts(posts, plan)
    changed, rest = marked(posts, folds, tmp_path)
    gap = np.abs(score(posts, folds, plan).proba - score(changed, folds, plan).proba).max(axis=1)
    assert bool(gap[rest].max() > 1e-3) is leaks
    assert gap.max() > 1e-3, "the markers do change the posts that have them"


def test_columns_of_a_table_are_scaled_and_named_by_training_posts(
    zoo: Zoo, tmp_path: Path, posts: pd.DataFrame
) -> None:
    fields = [{"name": "text", "kind": "text"}, {"name": "table", "kind": "table", "columns": ["price", "colour"]}]
    random = np.random.default_rng(0)
    cells = [{"price": float(random.normal(i % 2)), "colour": ["red", "blue"][i % 2]} for i in range(len(posts))]
    table = posts.assign(table=pd.Series(cells, dtype=object))
    plan = tiny_plan(zoo, tmp_path / "cache", methods=("concat",), emap=0,
                     fit={"tune": "frozen", "fields": fields, "fusion": "concat"})  # fmt: skip
    folds = cut_posts(table, plan)
    test = folds.test(0)
    changed = table.copy()
    for at in test[1::2]:
        changed.at[at, "table"] = {"price": 1e6, "colour": "blue"}
    first, second = score(table, folds, plan), score(changed, folds, plan)
    assert np.abs(first.proba - second.proba)[0::2].max() < 1e-6
    assert np.abs(first.proba - second.proba).max() > 1e-3
    assert steps(first) == steps(second)
    # A value that no training post has is known by name, and no weight is trained for it.
    changed.at[test[1], "table"] = {"price": 1e6, "colour": "green"}
    features = Bench(changed, folds, plan).features(plan.pairs[0])
    encoder = build_model(features, folds.task, METHODS["concat"].configure(plan.fit), folds.train(0)).encoders["table"]
    assert isinstance(encoder, TableEncoder)
    assert [column.values for column in encoder.columns] == [(), ("blue", "green", "red")]
    assert encoder.network.seen.tolist() == [True, False, True]
    assert abs(float(encoder.network.mean[0])) < 10


def test_thresholds_of_labels_stay_when_others_are_scored(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 60, gaps=False)
    posts["label"] = [("a|b" if i % 3 else "a") if label == "class0" else "b" for i, label in enumerate(posts["label"])]
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", task="multi-label", validation=0.5)
    run = fit_posts(posts, config).run
    assert isinstance(run.task, MultiLabel)
    before = run.task.thresholds.copy()
    others = make_posts(tmp_path / "others", 20, gaps=False, seed=4).assign(label="a")
    evaluate_posts(Predictor(run, device="cpu"), [others], n_bootstrap=0)
    assert np.array_equal(run.task.thresholds, before)


@pytest.mark.parametrize(("protocol", "leaks"), [("grouped", False), ("paper", True)])
def test_near_duplicates_across_folds_are_kept_together(zoo: Zoo, tmp_path: Path, protocol: str, leaks: bool) -> None:
    posts = _posts(tmp_path, 24)
    for i in range(24):
        scene(i).save(tmp_path / f"{i}.png")
        posts.loc[i, "image"] = str(tmp_path / f"{i}.png")
    for i in range(0, 8, 2):  # a retweet, and the same image again, smaller and compressed
        posts.loc[i + 8, "text"] = f"RT @you {posts.loc[i, 'text'].upper()} https://t.co/{i}"
        scene(i + 1).resize((100, 80)).save(tmp_path / f"copy{i}.jpg", quality=70)
        posts.loc[i + 9, "image"] = str(tmp_path / f"copy{i}.jpg")
    folds = cut_posts(posts, tiny_plan(zoo, tmp_path / "cache", protocol=protocol))
    across = 0
    for fold in range(folds.n_folds):
        train, test = (PostKeys.of(posts.iloc[rows], DEFAULT_FIELDS) for rows in (folds.train(fold), folds.test(fold)))
        seen = SeenPosts(train, np.full(len(train), TRAINED), ("text", "image"))
        across += int((seen.compare(test)[0] != NEW).sum())
    assert (across > 0) is leaks
