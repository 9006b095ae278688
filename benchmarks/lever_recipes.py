"""The levers of `levers.py`: what each changes of the recipe of ``cotune fit``, and the parts that cotune lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cotune.benchmark.methods import Trial
from cotune.benchmark.methods import fit as fit_trial
from cotune.data.splits import make_folds
from cotune.errors import ConfigError, did_you_mean
from cotune.fields import DEFAULT_FIELDS, Field
from cotune.model import Batch, JointModel
from cotune.settings import make_config
from cotune.tasks.losses import Loss
from cotune.training.stages import PROBE, Stage, StageState
from cotune.training.trainer import Trainer

BASELINE = "baseline"
VADER = ("vader_neg", "vader_neu", "vader_pos", "vader_compound")

#: Given a trial, the posts to train on and, if some count more, the weights of all posts.
Choose = Callable[[Trial], "tuple[np.ndarray, np.ndarray | None]"]


@dataclass(frozen=True)
class Lever:
    """One row of the table.

    Attributes
    ----------
    title : str
        What is done.
    settings : mapping
        Settings that differ from the defaults.
    text : str
        The column that the text is read from.
    more : tuple of Field
        Fields besides text and image.
    views : tuple of str
        How images are seen in training; of several each post shows one at random in each batch.
    test_views : tuple of str
        The views whose predictions are averaged; those of training if empty.
    model : type of JointModel
        What computes the loss of a batch in fine-tuning.
    choose : callable, optional
        Which posts are trained on, and how much each counts; all alike by default.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    text: str = "text"
    more: tuple[Field, ...] = ()
    views: tuple[str, ...] = ("crop",)
    test_views: tuple[str, ...] = ()
    model: Callable[..., JointModel] = JointModel
    choose: Choose | None = None

    @property
    def fields(self) -> tuple[Field, ...]:
        """What a model reads of a post."""
        text, image = DEFAULT_FIELDS
        return (text.model_copy(update={"columns": (self.text,)}), image, *self.more)

    @property
    def columns(self) -> set[str]:
        """The columns that it needs besides those of every posts table."""
        return {column for one in self.fields for column in one.columns} - {"text", "image"}

    @property
    def seen(self) -> tuple[str, ...]:
        """All its views, those of training first."""
        return tuple(dict.fromkeys([*self.views, *self.test_views]))

    @property
    def trained(self) -> Lever:
        """What decides the training: levers that have this alike are trained once."""
        return replace(self, title="", test_views=())

    def joined(self, other: Lever) -> Lever:
        """Return a lever that does both.

        Raises
        ------
        ConfigError
            If the two change the same thing in different ways.
        """
        plain, both = Lever(""), {"title": f"{self.title}; {other.title}"}
        for name in (one.name for one in fields(Lever) if one.name != "title"):
            mine, its = getattr(self, name), getattr(other, name)
            if name == "settings":
                clash = [key for key in mine if key in its and mine[key] != its[key]]
                both[name] = {**mine, **its}
            elif name == "more":
                clash, both[name] = [], tuple(dict.fromkeys([*mine, *its]))
            else:
                clash = [name] if getattr(plain, name) not in (mine, its) and mine != its else []
                both[name] = its if mine == getattr(plain, name) else mine
            if clash:
                raise ConfigError(f"{self.title!r} and {other.title!r} both change {clash[0]}; combine others")
        return Lever(**both)


def lever(name: str) -> Lever:
    """Return the lever of a name, or what several joined by ``+`` make together.

    Raises
    ------
    ConfigError
        If there is no such lever, or two of them contradict one another.
    """
    found: Lever | None = None
    for part in name.split("+"):
        if part not in LEVERS:
            raise ConfigError(f"there is no lever {part!r}{did_you_mean(part, LEVERS)}; `levers.py list` names them")
        found = LEVERS[part] if found is None else found.joined(LEVERS[part])
    assert found is not None
    return found


# ---- R-Drop and sharpness-aware steps ----------------------------------------------------------------------------


class FineTuned(JointModel):
    """A model with a loss of its own in fine-tuning; the probe and predictions are as ever."""

    tuning = False

    def forward(self, batch: Batch, loss: Loss | None = None) -> Tensor:
        if loss is None or not self.training or not self.tuning:
            return super().forward(batch, loss)
        return self.tuned(batch, loss)

    def tuned(self, batch: Batch, loss: Loss) -> Tensor:
        """Return the loss of a batch."""
        raise NotImplementedError

    def before_step(self) -> None:
        """Learn that gradients are complete, and weights are about to move."""


class RDrop(FineTuned):
    """Two passes that differ in what is dropped, and a penalty on how far their predictions are apart.

    Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021: the mean of the two losses, and
    `weight` times the mean of the two Kullback-Leibler divergences.
    """

    def __init__(self, *parts: Any, weight: float = 1.0) -> None:
        super().__init__(*parts)
        self.weight = weight

    def tuned(self, batch: Batch, loss: Loss) -> Tensor:
        both = [JointModel.forward(self, batch).float() for _ in range(2)]
        mean = sum(loss(outputs, batch.targets, batch.weights) for outputs in both) / 2
        a, b = (functional.log_softmax(outputs, dim=1) for outputs in both)
        apart = ((a.exp() - b.exp()) * (a - b)).sum(dim=1).mean() / 2
        return mean + self.weight * apart


class Sharp(FineTuned):
    """Gradients taken where the loss is highest nearby: sharpness-aware minimisation.

    Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021; `adaptive` scales
    each weight's step by its size, as in Kwon et al., "ASAM", ICML 2021.
    """

    def __init__(self, *parts: Any, reach: float = 0.05, adaptive: bool = False) -> None:
        super().__init__(*parts)
        self.reach, self.adaptive = reach, adaptive
        self.moved: tuple[list[Tensor], list[Tensor]] = ([], [])

    def tuned(self, batch: Batch, loss: Loss) -> Tensor:
        there = [parameter for parameter in self.parameters() if parameter.requires_grad]
        slopes = torch.autograd.grad(JointModel.forward(self, batch, loss), there, allow_unused=True)
        pairs = [(p, slope) for p, slope in zip(there, slopes, strict=True) if slope is not None]
        weights, steps = [p for p, _ in pairs], [slope for _, slope in pairs]
        with torch.no_grad():
            sizes = torch._foreach_abs([p.detach() for p in weights]) if self.adaptive else []
            if sizes:
                steps = list(torch._foreach_mul(steps, sizes))
            norm = torch.stack(torch._foreach_norm(steps)).norm()  # stays on the device
            if sizes:
                steps = list(torch._foreach_mul(steps, sizes))
            steps = list(torch._foreach_mul(steps, self.reach / (norm + 1e-12)))
            torch._foreach_add_(weights, steps)
        self.moved = (weights, steps)
        return JointModel.forward(self, batch, loss)

    def before_step(self) -> None:
        weights, steps = self.moved
        if weights:
            with torch.no_grad():
                torch._foreach_sub_(weights, steps)
        self.moved = ([], [])


class LeverTrainer(Trainer):
    """The trainer of ``cotune fit``, on a model that may have a loss of its own."""

    def __init__(self, *parts: Any, model: Callable[..., JointModel], **more: Any) -> None:
        self._made = model
        super().__init__(*parts, **more)

    def _build(self) -> JointModel:
        built = super()._build()
        return built if self._made is JointModel else self._made(built.encoders, built.head, built.task)

    def _train_epoch(self, step: Any, stage: Stage, state: StageState) -> float:
        if not isinstance(self.model, FineTuned):
            return super()._train_epoch(step, stage, state)
        self.model.tuning = stage.name != PROBE
        hook = step.parallel.plain.register_step_pre_hook(lambda *_: self.model.before_step())
        try:
            return super()._train_epoch(step, stage, state)
        finally:
            hook.remove()


# ---- labels that may be wrong --------------------------------------------------------------------------------------


def out_of_fold(trial: Trial, parts: int = 5) -> np.ndarray:
    """Return how likely a frozen probe that did not see a training post finds its label, shape (len(train), C)."""
    labels = trial.task.strata(trial.targets)[trial.train]
    groups = np.arange(len(labels)) if trial.groups is None else trial.groups[trial.train]
    found = np.zeros((len(labels), trial.task.n_predictions))
    config = make_config({**trial.config.model_dump(), "tune": "frozen"})
    for test in make_folds(labels, n_folds=parts, protocol="grouped", seed=trial.config.seed, groups=groups):
        left = np.setdiff1d(np.arange(len(labels)), test)
        part = replace(trial, train=trial.train[left], test=trial.train[test], config=config, emap=0)
        found[test] = fit_trial(part).predictions
    return found


def _given(trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """Return out-of-fold probabilities of the classes of the training posts, and those of their own, 1 for none."""
    found = trial.task.of_classes(out_of_fold(trial))
    own = trial.targets[trial.train]
    return found, np.where(own < 0, 1.0, found[np.arange(len(found)), own])


def small_loss(trial: Trial, share: float) -> tuple[np.ndarray, None]:
    """Leave out the `share` of training posts whose label a probe that did not see them finds least likely."""
    _, own = _given(trial)
    return trial.train[np.sort(np.argsort(-own, kind="stable")[: round(len(own) * (1 - share))])], None


def confident(trial: Trial) -> tuple[np.ndarray, None]:
    """Leave out as many posts as confident learning finds mislabelled, those of the least likely labels.

    Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70 (2021): a post
    counts as mislabelled if, of the classes that it is as likely of as their own posts are on average, the likeliest
    is another one.
    """
    found, own = _given(trial)
    labels = trial.targets[trial.train]
    usual = np.asarray([own[labels == k].mean() if (labels == k).any() else np.inf for k in range(found.shape[1])])
    above = np.where(found >= usual, found, -1.0)
    wrong = int(((labels >= 0) & (above.max(axis=1) >= 0) & (above.argmax(axis=1) != labels)).sum())
    return trial.train[np.sort(np.argsort(own, kind="stable")[wrong:])], None


def weighted(trial: Trial, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Let a post count by how likely a probe that did not see it finds its label, to a power."""
    _, own = _given(trial)
    weights = np.ones(len(trial.targets))
    weights[trial.train] = np.maximum(own, 0.02) ** power
    return trial.train, weights


# ---- the table ------------------------------------------------------------------------------------------------------

_TABLE = (Field(name="table", kind="table", columns=VADER),)
_IMAGE_TEXT = (Field(name="image_text", kind="text", shared="text"),)
_ALL = ("crop", "whole", "flip", "whole-flip")


def _set(title: str, **settings: Any) -> Lever:
    return Lever(title, settings)


LEVERS: dict[str, Lever] = {
    BASELINE: Lever("`joint` as it is"),
    "whole": Lever("whole image instead of its crop", views=("whole",)),
    "flip": Lever("crop and its mirror image", views=("crop", "flip")),
    "views": Lever("crop, whole and mirror images", views=_ALL),
    "views-train": Lever("the same, tested on the crop", views=_ALL, test_views=("crop",)),
    "views-test": Lever("the same, trained on the crop", test_views=_ALL),
    "crop-whole": Lever("crop and whole image", views=("crop", "whole")),
    "hashtags": Lever("hashtags split into words", text="text_hashtags"),
    "emoji": Lever("emoji in words", text="text_emoji"),
    "words": Lever("hashtags split, emoji in words", text="text_words"),
    "vader": Lever("VADER's scores as a table field", more=_TABLE),
    "image-text": Lever("text in the image as a second text field", more=_IMAGE_TEXT),
    "image-text-joined": Lever("text in the image after the post's text", text="text_image_text"),
    "r-drop": Lever("R-Drop, weight 1", model=RDrop),
    "r-drop-weak": Lever("R-Drop, weight 0.3", model=partial(RDrop, weight=0.3)),
    "sam": Lever("sharpness-aware steps, reach 0.05", model=Sharp),
    "asam": Lever("sharpness-aware steps, adaptive, reach 0.5", model=partial(Sharp, reach=0.5, adaptive=True)),
    "small-loss-5": Lever("5 % least likely labels left out", choose=partial(small_loss, share=0.05)),
    "small-loss-10": Lever("10 % least likely labels left out", choose=partial(small_loss, share=0.1)),
    "small-loss-20": Lever("20 % least likely labels left out", choose=partial(small_loss, share=0.2)),
    "confident": Lever("labels left out that confident learning finds wrong", choose=confident),
    "weights": Lever("posts weighted by the likelihood of their label", choose=partial(weighted, power=1.0)),
    "weights-root": Lever("the same, by its square root", choose=partial(weighted, power=0.5)),
    "smoothing": _set("label smoothing 0.1", label_smoothing=0.1),
    "ema": _set("averaged weights, 0.99", ema=0.99),
    "epochs-4": _set("4 epochs", epochs=4, min_epochs=4),
    "epochs-5": _set("5 epochs", epochs=5, min_epochs=5),
    "epochs-2": _set("2 epochs", epochs=2, min_epochs=2),
    "dropout-3": _set("dropout 0.3", dropout=0.3),
    "dropout-1": _set("dropout 0.1", dropout=0.1),
    "batch-16": _set("batches of 16", batch_size=16),
    "rate-double": _set("learning rates doubled", lr_head=6e-4, lr_text=2e-4, lr_image=6e-4),
    "rate-half": _set("learning rates halved", lr_head=1.5e-4, lr_text=5e-5, lr_image=1.5e-4),
    "text-double": _set("text learning rate doubled", lr_text=2e-4),
    "text-half": _set("text learning rate halved", lr_text=5e-5),
    "image-double": _set("image learning rate doubled", lr_image=6e-4),
    "image-half": _set("image learning rate halved", lr_image=1.5e-4),
    "no-decay": _set("no layer-wise decay", layer_decay=1.0),
    "weight-decay": _set("weight decay 0.1", weight_decay=0.1),
    "text-top-4": _set("4 text layers trained (3)", text_top=4),
    "text-top-5": _set("5 text layers trained (3)", text_top=5),
    "image-top-3": _set("3 image stages trained (2)", image_top=3),
    "image-top-4": _set("4 image stages trained (2)", image_top=4),
    "no-modality-dropout": _set("no modality dropout", modality_dropout=0.0),
    "probe-3": _set("probe of 3 epochs (10)", probe_epochs=3),
    "width-256": _set("head twice as wide", width=256),
    "concat": _set("plain concatenation", fusion="concat"),
}
