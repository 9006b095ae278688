"""Several trainings of one model: members, what they teach a student, and a soup of their weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cotune.errors import ConfigError
from cotune.settings import FitConfig, make_config
from cotune.tasks import Task
from cotune.tasks.links import TaughtLoss, mean_outputs, probabilities
from cotune.tasks.losses import CrossEntropy
from cotune.tasks.single_label import SingleLabel
from cotune.training.build import open_encoders, prepare_posts
from cotune.training.distillation import cut_parts, distilled, out_of_fold_taught, student
from cotune.training.members import mean_of_members, predictions, train_members
from cotune.training.model_rows import output_rows, predict_rows
from cotune.training.soup import keep_apart, soup, soup_members
from cotune.training.trainer import Trainer
from cotune.training.training_data import HeldOut, TrainingData
from tiny import Zoo, labels_of, make_posts, same_weights, weights_of

# ---- means and losses --------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "identity"])
def test_the_mean_of_members_is_that_of_their_probabilities(link: Any) -> None:
    outputs = torch.randn(4, 6, 3, dtype=torch.float64) * 5
    mean = mean_outputs(link, outputs)
    assert torch.allclose(probabilities(link, mean), probabilities(link, outputs).mean(dim=0))
    assert torch.allclose(probabilities(link, mean_outputs(link, outputs[:1])), probabilities(link, outputs[0]))


def test_far_outputs_have_a_finite_mean() -> None:
    for link in ("softmax", "sigmoid"):
        assert mean_outputs(link, torch.tensor([[[300.0, -300.0]], [[-300.0, 300.0]]])).isfinite().all()


def test_what_is_taught_counts_by_its_weight_where_there_is_any() -> None:
    outputs, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    plain = CrossEntropy(None, 0.0)
    each = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    own = torch.nn.functional.one_hot(targets, 3).float()  # the targets as probabilities teach the same
    assert float(TaughtLoss(plain, "softmax", 0.3)(outputs, targets, None, own)) == pytest.approx(float(each.mean()))
    taught = torch.full((4, 3), 1 / 3)
    taught[2] = torch.nan
    soft = -torch.log_softmax(outputs, dim=1).mean(dim=1)
    expected = torch.where(torch.arange(4) == 2, each, 0.7 * each + 0.3 * soft)
    found = TaughtLoss(plain, "softmax", 0.3)(outputs, targets, None, taught)
    assert float(found) == pytest.approx(float(expected.mean()), rel=1e-5)
    weights = torch.tensor([2.0, 0.5, 1.0, 0.5])
    found = TaughtLoss(plain, "softmax", 0.3)(outputs, targets, weights, taught)
    assert float(found) == pytest.approx(float((expected * weights).mean()), rel=1e-5)


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "identity"])
def test_the_soft_loss_is_least_at_what_is_taught(link: Any) -> None:
    outputs = torch.randn(5, 3, dtype=torch.float64).requires_grad_()
    loss = TaughtLoss(CrossEntropy(None, 0.0), link, 1.0)
    taught = probabilities(link, outputs.detach())
    loss(outputs, torch.zeros(5, dtype=torch.long), None, taught).backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert outputs.grad.abs().max() < 1e-9


# ---- trainings ---------------------------------------------------------------------------------------


class Bench:
    """Prepared posts with a held-out part, and settings that fit them."""

    def __init__(self, zoo: Zoo, folder: Any) -> None:
        posts = make_posts(folder / "posts", 20)
        self.names = {"text_encoder": str(zoo("distilbert")), "image_encoder": str(zoo("timm-resnet"))}
        config = self.config()
        features = prepare_posts(posts, open_encoders(config), config)
        targets = labels_of(posts)
        self.task: Task = SingleLabel(["class0", "class1"])
        held = HeldOut(features, targets, np.arange(16, 20))
        self.data = TrainingData(features, targets, np.arange(16), held_out=held)

    def config(self, **settings: Any) -> FitConfig:
        small: dict[str, Any] = {
            "width": 8, "heads": 2, "batch_size": 8, "probe_batch_size": 8, "probe_epochs": 2, "epochs": 1,
            "min_epochs": 1, "device": "cpu",
        }  # fmt: skip
        return make_config({**self.names, **small, **settings})


@pytest.fixture(scope="module")
def bench(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(zoo, tmp_path_factory.mktemp("members"))


def test_members_differ_and_the_first_is_the_single_training(bench: Bench) -> None:
    one, two = train_members(bench.data, bench.task, bench.config(), 2)
    alone = Trainer(bench.data, bench.task, bench.config()).fit()
    assert same_weights(weights_of(one.model), weights_of(alone.model))
    assert not same_weights(weights_of(one.model), weights_of(two.model))
    rows, features = bench.data.held_out.rows, bench.data.features  # type: ignore[union-attr]
    mean = predictions(bench.task, mean_of_members([one, two], features, rows))
    both = [predict_rows(each.model, bench.task, features, rows, each.source) for each in (one, two)]
    assert np.allclose(mean, np.mean(both, axis=0), atol=1e-6)


def test_each_post_is_taught_by_members_that_have_not_seen_it(bench: Bench) -> None:
    groups = np.arange(20) // 2
    parts = cut_parts(bench.data, bench.task, 3, groups=groups, seed=1)
    assert set(parts) == {0, 1, 2}
    assert all(len(set(parts[groups[bench.data.rows] == group])) == 1 for group in set(groups[bench.data.rows]))
    config = bench.config(tune="frozen")
    members = train_members(bench.data, bench.task, config, 4, parts=parts)
    found = out_of_fold_taught(members, parts, bench.data, bench.task)
    # Members 0 and 3 leave out the first part, and alone teach it.
    for part, own in ((0, (0, 3)), (1, (1,)), (2, (2,))):
        rows = bench.data.rows[parts == part]
        outputs = [output_rows(members[i].model, bench.data.features, rows, members[i].source) for i in own]
        expected = np.mean([torch.from_numpy(each).softmax(dim=1).numpy() for each in outputs], axis=0)
        assert np.allclose(found.taught[rows], expected, atol=1e-6)
    assert np.isnan(found.taught[16:]).all(), "held-out posts teach nobody"
    assert len(found.held_out) == 4
    lacking = replace(bench.data, rows=bench.data.rows[parts != 0])
    first = Trainer(lacking, bench.task, config).fit()
    assert same_weights(weights_of(first.model), weights_of(members[0].model))


def test_a_student_is_of_the_usual_size_and_learns_from_the_members(bench: Bench) -> None:
    config = bench.config()
    trained, taught = distilled(bench.data, bench.task, config, 2)
    alone = Trainer(bench.data, bench.task, config).fit()
    assert trained.model.parameter_counts() == alone.model.parameter_counts()
    assert not same_weights(weights_of(trained.model), weights_of(alone.model))
    nothing = np.full_like(taught.taught, np.nan)
    same = student(bench.data, bench.task, config, nothing)
    assert same_weights(weights_of(same.model), weights_of(alone.model))


def test_a_soup_is_a_mean_of_weights_that_is_not_worse(bench: Bench) -> None:
    config = bench.config(lr_text=1e-3, lr_image=1e-3)
    members = soup_members(bench.data, bench.task, config, 3)
    before = [weights_of(member.model) for member in members]
    assert not same_weights(before[0], before[1])
    data, held = keep_apart(bench.data, bench.task)
    assert data is bench.data
    found = soup(members, bench.task, held)
    assert found.score >= max(found.scores)
    for name, tensor in weights_of(found.trained.model).items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, torch.stack([before[i][name] for i in found.kept]).mean(dim=0), atol=1e-6)


def test_without_held_out_posts_a_tenth_chooses_the_soup(bench: Bench) -> None:
    alone = replace(bench.data, held_out=None)
    data, held = keep_apart(alone, bench.task, seed=3)
    assert data.held_out is None
    assert sorted([*data.rows, *held.rows]) == sorted(alone.rows)
    assert 0 < len(held.rows) <= 4


def test_settings_that_make_no_sense_together_are_refused() -> None:
    for settings, words in (
        ({"members": 0}, "members"),
        ({"distill": True}, "distill needs several trainings"),
        ({"soup": True, "members": 1}, "soup needs several trainings"),
        ({"soup": True, "distill": True, "members": 3}, "choose one"),
        ({"soup": True, "members": 3, "tune": "frozen"}, "tune frozen trains none"),
        ({"members": 2, "devices": 2}, "one device"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_config(settings)
