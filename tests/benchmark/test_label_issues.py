"""Posts whose label is most likely wrong, and the out-of-fold predictions that tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotune.benchmark import label_issues
from cotune.benchmark.label_issues import find_label_issues, rank_labels
from cotune.benchmark.out_of_fold import untrained_encoders
from cotune.errors import ConfigError, DataError
from cotune.run import Run
from cotune.tasks.multi_label import MultiLabel
from cotune.tasks.regression import Regression
from cotune.tasks.single_label import SingleLabel
from runs import Told, tiny_fit
from tiny import Zoo, make_posts

pytest.importorskip("cleanlab", reason="wrong labels are looked for with the extra clean")


def predicted(targets: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Return probabilities that are right but for a little noise."""
    random = np.random.default_rng(seed)
    scores = np.eye(n)[targets] * 3 + random.normal(size=(len(targets), n))
    proba: np.ndarray = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return proba


def test_planted_labels_come_first() -> None:
    right = np.arange(300) % 3
    given = right.copy()
    planted = np.arange(0, 300, 13)
    given[planted] = (given[planted] + 1) % 3
    found = rank_labels(SingleLabel(("a", "b", "c")), given, predicted(right, 3))
    first = np.argsort(found.quality)[: len(planted)]
    assert len(set(first) & set(planted)) >= 0.8 * len(planted)
    assert found.wrong[planted].mean() > 0.6
    assert found.wrong.sum() < 2 * len(planted)
    assert [found.suggested[at] for at in planted[:3]] == [("a", "b", "c")[right[at]] for at in planted[:3]]


def test_a_class_without_posts_is_no_suggestion() -> None:
    given = np.asarray([0, 2] * 20)
    given[3] = 0
    proba = np.tile([0.1, 0.6, 0.3], (40, 1))
    found = rank_labels(SingleLabel(("a", "b", "c")), given, proba)
    assert set(found.suggested) <= {"a", "c"}


def test_single_names_of_several_labels() -> None:
    random = np.random.default_rng(0)
    right = (random.random((200, 3)) < [0.5, 0.4, 0.6]).astype(np.float32)
    given = right.copy()
    planted = np.arange(0, 200, 20)
    given[planted, 1] = 1 - given[planted, 1]
    proba = np.clip(right * 0.8 + 0.1 + random.normal(scale=0.05, size=right.shape), 0.01, 0.99)
    task = MultiLabel(("a", "b", "c"))
    found = rank_labels(task, given, proba)
    listed = np.flatnonzero(found.wrong)
    assert set(listed) <= set(planted)
    assert len(listed) >= 0.8 * len(planted)
    assert [task.encode([found.suggested[at]])[0].tolist() for at in listed] == right[listed].tolist()


def test_numbers_far_from_what_is_predicted() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=200)
    given = values.copy()
    given[[5, 50]] += 10
    found = rank_labels(Regression(0.0, 1.0), given, (values + random.normal(scale=0.1, size=200))[:, None])
    assert set(np.flatnonzero(found.wrong)) == {5, 50}
    assert set(np.argsort(found.quality)[:2]) == {5, 50}
    assert float(found.suggested[5]) == pytest.approx(values[5], abs=0.5)


def test_without_cleanlab_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'cotune\[clean\]'"):
        label_issues.need_cleanlab()


@pytest.fixture(scope="module")
def frozen(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("frozen"), n=48, tune="frozen", probe_epochs=12).run


def test_a_runs_own_training_posts_are_checked(frozen: Run, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 48, gaps=False)
    planted = [3, 20, 34]
    labels = posts["label"].tolist()
    for at in planted:
        labels[at] = f"class{1 - int(labels[at][-1])}"
    noisy = posts.assign(label=labels)
    noisy.loc[7, "label"] = None
    told = Told()
    found = find_label_issues(noisy, frozen, folds=3, progress=told)
    assert (found.checked, found.folds, found.left_out) == (47, 3, {"no label": 1})
    assert found.encoders == "the run's frozen encoders"
    assert found.note is None
    assert len({noisy["row"][at] for at in planted} & {issue.row for issue in found.issues[:6]}) >= 2
    worst = found.issues[0]
    assert worst.suggested != worst.given == noisy["label"][worst.row - 1]
    assert sum(worst.probabilities.values()) == pytest.approx(1, abs=1e-3)
    assert [issue.quality for issue in found.issues] == sorted(issue.quality for issue in found.issues)
    assert any("1 post is left out" in line for line in told.lines)
    assert find_label_issues(noisy, frozen, folds=3).to_dict() == found.to_dict(), "the same again"


def test_a_model_that_knows_nothing_is_no_judge() -> None:
    task = SingleLabel(("a", "b"))
    assert label_issues._weak(task, 0.85) is None
    assert "AUC 0.520 on posts" in str(label_issues._weak(task, 0.52))


def test_a_rare_label_is_refused_with_the_flag_that_helps(frozen: Run, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 12, gaps=False)
    posts.loc[[0, 2], "label"] = "rare"
    with pytest.raises(DataError, match="give --folds at most 2"):
        find_label_issues(posts, frozen, folds=3)


def test_fine_tuned_encoders_are_opened_as_they_were_before(frozen: Run, zoo: Zoo, tmp_path: Path) -> None:
    tuned: dict[str, Any] = {"tune": "joint"}
    run = Run(frozen.model, frozen.config.model_copy(update=tuned), frozen.metrics)
    encoders, which, note = untrained_encoders(run, make_posts(tmp_path / "posts", 4))
    assert encoders["text"] is not frozen.model.encoders["text"]
    assert "before fine-tuning" in which
    assert note is None
    gone = run.config.model_copy(update={"text_encoder": "hf:nobody/has-this"})
    encoders, which, note = untrained_encoders(Run(frozen.model, gone), make_posts(tmp_path / "posts", 4))
    assert encoders is frozen.model.encoders
    assert note is not None
    assert "know the labels" in note
