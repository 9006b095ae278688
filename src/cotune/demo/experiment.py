"""The demo: one small experiment on the posts that ship with the package, from images to predictions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.posts import data_hash
from cotune.demo.posts import read_demo_posts
from cotune.environment import environment
from cotune.errors import clip
from cotune.metrics import AucComparison, Evaluation, paired_bootstrap_auc
from cotune.progress import Progress
from cotune.run import Run
from cotune.scoring import predictions_table
from cotune.settings import make_config
from cotune.tasks.single_label import SingleLabel
from cotune.training.build import open_encoders, prepare_posts, read_options
from cotune.training.device import training_device
from cotune.training.model_rows import predict_rows
from cotune.training.shares import predict_shares
from cotune.training.trainer import Trained, Trainer
from cotune.training.training_data import TrainingData

NOTE = (
    "The pairing is synthetic: real tweets with human ratings beside real emoji images, joined by a seeded draw; "
    "the label is the sign of both sentiments together. It shows how the tool works, not how well it does on real "
    "posts."
)
# The single modalities are fine-tuned as the joint model is, so that its lead is not that of fine-tuning alone.
_TOP: dict[str, Any] = {"tune": "top", "image_top": 1}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "text only": ("head, upper text layers", {"fusion": "text", **_TOP}),
    "image only": ("head, last image stage", {"fusion": "image", **_TOP}),
    "concatenation": ("head alone", {"fusion": "concat", "tune": "frozen"}),
    "joint": ("head, upper layers of both", {"fusion": "attention", **_TOP}),
}
JOINT = "joint"


@dataclass(frozen=True)
class DemoResult:
    """What one of the demo's models scored on the held-out posts.

    Attributes
    ----------
    name, trained : str
        What it is, and what of it was trained.
    evaluation : Evaluation
        Its scores with intervals.
    behind : AucComparison or None
        The joint model's AUC against this one's, on the same resamples; None for the joint model itself.
    seconds : float
        How long training took.
    """

    name: str
    trained: str
    evaluation: Evaluation
    behind: AucComparison | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "name": self.name,
            "trained": self.trained,
            "scores": self.evaluation.to_dict()["scores"],
            "joint_minus_this": None if self.behind is None else self.behind.to_dict(),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Demo:
    """All that the demo found: the joint model, scores, the held-out posts with its predictions, a few of them."""

    run: Run
    results: list[DemoResult]
    held_out: tuple[pd.DataFrame, pd.DataFrame]
    examples: pd.DataFrame


def run_demo(
    *,
    settings: dict[str, Any] | None = None,
    n_examples: int = 6,
    progress: Progress | None = None,
    on_result: Callable[[str, float, float], None] | None = None,
) -> Demo:
    """Train four models on the demo posts, score them on its held-out part, and predict a few posts.

    Parameters
    ----------
    settings : dict, optional
        Settings for all four, on top of the defaults.
    n_examples : int
        Held-out posts to predict, sampled by the seed.
    progress : Progress, optional
        Progress reporter.
    on_result : callable, optional
        Called with name, AUC and seconds as soon as a model is scored.
    """
    progress = progress or Progress()
    posts = read_demo_posts()
    task = SingleLabel.learn(posts["label"].tolist())
    targets = task.encode(posts["label"].tolist())
    train, test = (np.flatnonzero(posts["split"] == part) for part in ("train", "test"))
    configs = {name: make_config({**(settings or {}), **own}) for name, (_, own) in METHODS.items()}
    both = configs[JOINT]
    device = training_device(both)
    features = prepare_posts(posts, open_encoders(both), both, read_options(both, progress=progress))
    fitted: dict[str, tuple[Trained, np.ndarray, float]] = {}
    for name, config in configs.items():
        started = time.perf_counter()
        trained = Trainer(TrainingData(features, targets, train), task, config, progress=progress).fit()
        proba = predict_rows(trained.model, task, features, test, trained.source)
        fitted[name] = trained, proba, time.perf_counter() - started
        if on_result is not None:
            on_result(name, task.score(targets[test], proba)["auc"], fitted[name][2])
    joint, joint_proba, seconds = fitted[JOINT]
    results = [
        DemoResult(
            name,
            METHODS[name][0],
            task.evaluate(targets[test], proba, seed=both.seed),
            None if name == JOINT else paired_bootstrap_auc(targets[test], joint_proba, proba, seed=both.seed),
            took,
        )
        for name, (_, proba, took) in fitted.items()
    ]
    held_out = results[-1].evaluation.to_dict()
    metrics: dict[str, Any] = {
        "status": "finished",
        "posts": {
            "read": len(posts),
            "train": len(train),
            "held_out": len(test),
            "labels": task.count(targets[train]),
            "unlabelled": 0,
            "unreadable_images": len(features.faults),
        },
        "seconds": seconds,
        "history": joint.history,
        "validation": held_out,
        "demo": {"note": NOTE, "models": [result.to_dict() for result in results]},
    }
    run = Run(joint.model, both, metrics, environment(both.seed, data_hash(posts), device.type))
    posts = posts.iloc[test]
    scores = predict_shares(joint.model, task, features, test, joint.source)
    table = predictions_table(task, ("text", "image"), posts["id"], scores)
    examples = _examples(posts, table, n_examples, both.seed)
    # The model card shows them: unlike a user's posts they are public.
    metrics["demo"]["samples"] = [
        {"text": clip(row["text"]), "image": row["image"], "true": row["true"], "predicted": row["label"]}
        for row in examples.to_dict("records")
    ]
    return Demo(run, results, (posts, table), examples)


def _examples(posts: pd.DataFrame, table: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Return some held-out posts with their predictions, sampled at random so that the mistakes are among them."""
    drawn = posts.reset_index(drop=True).sample(min(n, len(posts)), random_state=seed)
    found = table.iloc[drawn.index].reset_index(drop=True)
    found.insert(1, "true", drawn["label"].to_numpy())
    found.insert(2, "text", drawn["text"].to_numpy())
    found.insert(3, "image", [Path(image).name for image in drawn["image"]])
    return found
