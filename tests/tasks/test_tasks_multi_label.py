"""The multi-label task: names in a label, strata, loss, prior and thresholds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from cotune.errors import DataError
from cotune.settings import FitConfig
from cotune.tasks import make_task, restore_task
from cotune.tasks.multi_label import MultiLabel

CONFIG = FitConfig()
BALANCED = FitConfig(class_weights="balanced")
THREE = MultiLabel(["angry", "funny", "sad"])


def test_names_are_learned_sorted_and_without_blanks():
    assert MultiLabel.learn(["sad | funny", "|", " angry"]).outputs == ("angry", "funny", "sad")
    assert MultiLabel.learn(["10|2", "2"]).outputs == ("2", "10")


def test_labels_become_zeros_and_ones():
    targets = THREE.encode(["funny|sad", "|", " | ", "sad | angry", "angry"])
    assert targets.dtype == np.float32
    assert targets.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0]]
    assert THREE.encode([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("angry||sad", "empty name"),
        ("angry|", "empty name"),
        ("||", "empty name"),
        ("", "empty name"),
        ("angry|sad|angry", "'angry' twice"),
        ("angry|sad,funny", r"mixes the separators \| and ,"),
        ("angry;sad|funny", r"mixes the separators \| and ;"),
    ],
)
def test_a_label_of_bad_form_is_a_problem_and_cannot_be_learned(label, problem):
    with pytest.raises(DataError, match=problem) as raised:
        MultiLabel.learn(["angry|sad", label])
    assert f"the label {label!r} {THREE.problem(label)}" == str(raised.value)


@pytest.mark.parametrize("label", ["angry;sad", "sad, angry"])
def test_labels_joined_otherwise_than_in_other_cells_are_refused_with_their_row(label):
    assert MultiLabel.learn(["angry|sad", "angry", "Paris, France"]).outputs == ("Paris, France", "angry", "sad")
    with pytest.raises(DataError, match=rf"^row 7: the label '{label}' joins labels with [;,]; write \|"):
        make_task("multi-label", ["angry|sad", "angry", label], rows=[2, 5, 7])
    with pytest.raises(DataError, match="^row 9: the label '-' is not a finite number"):
        make_task("regression", ["-1", "2.5", "-"], rows=[1, 2, 9])
    with pytest.raises(DataError, match="^row 3: the label 'many' is not a finite number"):
        make_task("regression", ["1", "2.5", "many"], rows=[1, 2, 3])


def test_names_may_hold_commas():
    task = MultiLabel.learn(["happy, excited|sad", "sad", "Paris, France"])
    assert task.outputs == ("Paris, France", "happy, excited", "sad")
    assert task.problem("happy, excited|sad") is None


def test_unknown_names_are_a_problem_that_lists_the_known_ones():
    assert THREE.problem("funny|sad") is None
    assert THREE.problem("|") is None
    assert THREE.problem("funny|Sad") == "names 'Sad', which is not known (known are angry, funny, sad)"
    assert "'x', 'y', which are" in THREE.problem("x|funny|y")
    assert "2 posts" in THREE.note_on_unknown(["x|funny"], 2)


@pytest.mark.parametrize(("labels", "message"), [(["a", "|"], "name only 'a'"), (["|", "|"], "name none")])
def test_fewer_than_two_names_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        MultiLabel.learn(labels)


def test_auto_takes_joined_names_for_multi_label():
    assert make_task("auto", ["a|b", "a", "b"]).name == "multi-label"
    assert make_task("auto", ["a", "b", "|"]).name == "multi-label"
    assert make_task("auto", ["a", "b", "a"]).name == "single-label"


def test_labels_that_too_few_or_nearly_all_posts_have_are_refused_by_name():
    with pytest.raises(DataError, match=r"fewer than two usable posts have the label 'sad'"):
        THREE.refuse_untrainable(THREE.encode(["angry|sad", "angry|funny", "funny", "|"]))
    with pytest.raises(DataError, match=r"all usable posts but at most one have the label 'funny'"):
        THREE.refuse_untrainable(THREE.encode(["angry|sad|funny", "angry|funny|sad", "funny", "|"]))
    THREE.refuse_untrainable(THREE.encode(["angry|sad|funny", "angry|funny|sad", "|", "|"]))


def test_a_task_comes_back_from_json():
    task = MultiLabel(["a", "b"], [0.25, 0.5])
    again = restore_task({"name": task.name, "settings": json.loads(json.dumps(task.settings()))})
    assert again.settings() == {"classes": ["a", "b"], "thresholds": [0.25, 0.5]}
    assert MultiLabel(["a", "b"]).settings()["thresholds"] == [0.5, 0.5]
    with pytest.raises(DataError, match="as many thresholds"):
        MultiLabel(["a", "b"], [0.5])


names = st.lists(
    st.text(st.characters(exclude_characters="|,;", exclude_categories=["Cs"]), min_size=1, max_size=5),
    min_size=2,
    max_size=5,
)


@given(names, st.data())
def test_what_is_decoded_is_encoded_back(given_names, data):
    kept = list(dict.fromkeys(name.strip() for name in given_names if name.strip()))
    if len(kept) < 2:
        return
    task = MultiLabel.learn(kept)
    rows = data.draw(st.lists(st.lists(st.booleans(), min_size=len(kept), max_size=len(kept)), min_size=1, max_size=4))
    targets = np.array(rows, dtype=np.float32)
    labels = task.decode(targets)
    assert [task.problem(label) for label in labels] == [None] * len(rows)
    assert np.array_equal(task.encode(labels), targets)


@given(st.text("ab|,; ", max_size=8))
def test_a_label_without_a_problem_can_always_be_encoded(label):
    task = MultiLabel(["a", "b", "ab"])
    if task.problem(label) is None:
        assert task.problem(task.decode(task.encode([label]))[0]) is None


@given(st.integers(1, 300), st.integers(1, 6), st.integers(0, 100))
@settings(deadline=None)
def test_strata_are_never_tiny_unless_all_posts_are(n, k, seed):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < rng.random(k)).astype(np.float32)
    strata = MultiLabel([str(i) for i in range(k)]).strata(targets)
    sizes = np.bincount(strata)
    assert strata.shape == (n,)
    assert (sizes > 0).all()
    # All but the rest are large; a few posts alone are split by one label.
    assert (sizes < max(10, n / 50)).sum() <= 1 or len(sizes) == 2
    assert sizes.min() >= min(2, n)


def test_frequent_sets_have_their_own_strata_and_rare_ones_share_by_size():
    labels = ["angry"] * 20 + ["funny"] * 20 + ["angry|sad"] * 6 + ["funny|sad"] * 6 + ["|"] * 3
    strata = THREE.strata(THREE.encode(labels))
    groups = [set(strata[a:b]) for a, b in ((0, 20), (20, 40), (40, 52), (52, 55))]
    assert all(len(group) == 1 for group in groups)
    assert len(set.union(*groups)) == 4


def test_a_single_post_left_over_joins_the_largest_stratum():
    strata = THREE.strata(THREE.encode(["angry"] * 10 + ["funny"] * 12 + ["|"]))
    assert strata[-1] == strata[10]
    assert len(set(strata)) == 2


def test_a_few_posts_are_stratified_by_the_label_that_splits_them_most_evenly():
    targets = THREE.encode(["angry|funny", "angry", "angry", "angry|funny", "funny|sad", "sad|angry"])
    assert THREE.strata(targets).tolist() == [1, 0, 0, 1, 1, 0]
    assert THREE.strata(THREE.encode(["angry", "|"])).tolist() == [0, 0]


def test_the_loss_is_the_mean_over_labels_with_smoothing_and_weights():
    targets = THREE.encode(["angry", "funny|sad", "|", "angry|funny|sad"])
    true = torch.from_numpy(targets)
    outputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    plain = THREE.loss(CONFIG, targets)
    assert float(plain(outputs, true)) == pytest.approx(float(binary_cross_entropy_with_logits(outputs, true)))
    smooth = THREE.loss(FitConfig(label_smoothing=0.2), targets)(outputs, true)
    assert float(smooth) == pytest.approx(float(binary_cross_entropy_with_logits(outputs, true * 0.8 + 0.1)))
    weights = torch.tensor([2.0, 0.5, 1.0, 0.5])
    each = torch.stack([plain(outputs[i : i + 1], true[i : i + 1]) for i in range(4)])
    assert float(plain(outputs, true, weights)) == pytest.approx(float((each * weights).sum() / 4))
    assert float(plain(outputs, true, torch.ones(4))) == pytest.approx(float(plain(outputs, true)))


def test_balanced_weights_make_both_sides_of_a_label_count_alike():
    targets = THREE.encode(["angry", "|", "|", "|", "funny", "sad"])
    loss = THREE.loss(BALANCED, targets)
    assert loss.pos_weight.tolist() == [5, 5, 5]
    weights = np.array([1.0, 0.5, 0.5, 0.5, 0.5, 3.0])
    assert THREE.loss(BALANCED, targets, weights).pos_weight.tolist() == pytest.approx([5, 11, 1])
    assert "pos_weight" in dict(loss.named_buffers())  # so that it moves to the device


@pytest.mark.parametrize("config", [CONFIG, BALANCED])
@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.5, 0.5, 0.5, 0.5, 3.0])])
def test_no_constant_has_a_smaller_loss_than_the_prior(config, weights):
    targets = THREE.encode(["angry", "|", "angry|sad", "sad", "funny|sad", "sad"])
    prior = THREE.prior(config, targets, weights).requires_grad_()
    loss = THREE.loss(config, targets, weights)
    given_weights = None if weights is None else torch.from_numpy(weights)
    loss(prior.expand(6, 3), torch.from_numpy(targets), given_weights).backward()
    assert prior.grad.abs().max() < 1e-6


def test_a_label_that_no_post_or_every_post_has_stays_possible():
    targets = THREE.encode(["angry", "angry|funny", "angry"])
    assert torch.isfinite(THREE.prior(CONFIG, targets)).all()
    assert torch.isfinite(THREE.loss(BALANCED, targets).pos_weight).all()
    assert (THREE.loss(BALANCED, targets).pos_weight > 0).all()


def test_outputs_are_log_odds():
    outputs = torch.tensor([[0.0, 2.0, -3.0]])
    assert torch.equal(THREE.contribution_scale(outputs), outputs)
    assert torch.allclose(torch.logit(THREE.predictions(outputs)), outputs, atol=1e-5)
    assert THREE.explained(THREE.predictions(outputs)).tolist() == [1]


def test_decoding_uses_the_thresholds():
    task = MultiLabel(["a", "b"], [0.2, 0.9])
    assert task.decode(np.array([[0.2, 0.95], [0.1, 0.8], [0.5, 0.1]])) == ["a|b", "|", "a"]


def test_thresholds_are_chosen_where_posts_suffice():
    n = 20
    positive = np.arange(n) >= 10
    targets = np.stack([positive, positive, np.arange(n) >= n - 4], axis=1).astype(np.float32)
    low = np.where(positive, 0.3, 0.1)  # 0.5 finds none
    right = np.where(positive, 0.9, 0.1)  # 0.5 is as good as any
    task = MultiLabel(["low", "right", "rare"])
    task.choose_thresholds(targets, np.stack([low, right, low], axis=1).astype(np.float32))
    assert task.settings()["thresholds"] == pytest.approx([0.2, 0.5, 0.5])
    task.choose_thresholds(targets, np.full((n, 3), np.nan))
    assert task.settings()["thresholds"] == [0.5, 0.5, 0.5]


def test_predictions_outside_of_0_to_1_are_named():
    assert THREE.check_predictions(np.array([[0.2, 0.9, 1.0]])) is None
    for bad in (-0.1, 1.1, math.nan):
        assert "sigmoid" in THREE.check_predictions(np.array([[0.2, bad, 0.5]]))


def test_what_is_watched():
    targets = THREE.encode(["angry", "|"])
    found = THREE.watch(targets, np.array([[0.9, 0.1, 0.1], [0.2, 0.1, 0.1]]))
    assert found.score == 1
    assert found.loss == pytest.approx(-(math.log(0.9) * 5 + math.log(0.8)) / 6)
    alone = THREE.watch(targets[:1], np.full((1, 3), 0.5))
    assert (alone.score, alone.loss) == (None, pytest.approx(math.log(2)))
    lost = THREE.watch(targets, np.full((2, 3), np.nan))
    assert (lost.score, lost.loss) == (None, None)


def test_a_note_says_that_no_label_has_both_sides():
    assert "2 held-out posts" in THREE.note_on_held_out(THREE.encode(["angry", "angry"]))
    assert THREE.note_on_held_out(THREE.encode(["angry", "|"])) is None


def test_the_evaluation_is_json_with_a_table_of_labels():
    labels = ["angry", "funny|angry", "|", "funny"]
    targets = THREE.encode(labels)
    found = THREE.evaluate(targets, targets * 0.6 + 0.2, n_bootstrap=20).to_dict()
    json.dumps(found, allow_nan=False)
    assert found["classes"] == ["angry", "funny", "sad"]
    assert found["per_label"]["funny"]["f1"] == 1
    assert found["per_label"]["sad"]["auc"] is None
    assert found["scores"]["auc"]["value"] == found["scores"]["subset_accuracy"]["value"] == 1
    assert THREE.count(targets) == {"angry": 2, "funny": 2, "sad": 0}
    assert THREE.describe() == "multi-label, 3 labels: angry, funny, sad"


def test_a_temperature_divides_the_outputs_and_leaves_the_labels() -> None:
    uncalibrated = MultiLabel(["a", "b", "c"], [0.5, 0.2, 0.9])
    task = uncalibrated.at_temperature(2.5)
    again = restore_task({"name": task.name, "settings": task.settings()})
    outputs = torch.randn(300, 3, dtype=torch.float64) * 3
    for each in (task, again):
        torch.testing.assert_close(each.predictions(outputs), (outputs / 2.5).sigmoid())
        torch.testing.assert_close(each.from_scale(each.contribution_scale(outputs)), each.predictions(outputs))
        assert each.decode(each.predictions(outputs).numpy()) == uncalibrated.decode(outputs.sigmoid().numpy())
    assert task.thresholds[0] == 0.5
    np.testing.assert_allclose(task.at_temperature(1.0).thresholds, uncalibrated.thresholds)
    assert "temperature" not in uncalibrated.settings()
    ends = MultiLabel(["a", "b"], [0.0, 1.0]).at_temperature(0.5)
    assert ends.decode(np.array([[0.0001, 1.0], [0.3, 0.9999]])) == ["a|b", "a"]
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0"):
            MultiLabel(["a", "b"], temperature=wrong)
