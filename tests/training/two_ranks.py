"""Run by test_ranks.py as each of several processes: trains as a plan says; the first one writes what came out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from cotune.settings import make_config
from cotune.tasks.single_label import SingleLabel
from cotune.training.build import open_encoders, prepare_posts
from cotune.training.callbacks import CheckpointCallback
from cotune.training.model_rows import predict_rows
from cotune.training.ranks import join_ranks, leave_ranks, ranks
from cotune.training.stages import Stage, StageState
from cotune.training.trainer import Trainer
from cotune.training.training_data import HeldOut, TrainingData


class Stopped(Exception):
    """Ends a training after its first epoch of fine-tuning."""


class StopAfterOne(CheckpointCallback):
    """Keeps that epoch, and raises."""

    def on_epoch_end(self, stage: Stage, state: StageState, history: Any) -> None:
        super().on_epoch_end(stage, state, history)
        if stage.name != "probe":
            raise Stopped


def train(plan: dict, out: Path) -> None:
    """Train on every post but the last four, which are held out, and write losses, predictions and weights."""
    config = make_config(plan["settings"])
    posts = pd.read_json(plan["posts"], orient="records", dtype={"text": str, "image": str, "label": str})
    posts = posts.astype(object).where(posts.notna(), None)
    task = SingleLabel(sorted(set(posts["label"])))
    encoders = open_encoders(config)
    for encoder in encoders.values():  # every rank draws its own
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    features = prepare_posts(posts, encoders, config)
    targets, n = task.encode(posts["label"].tolist()), len(posts)
    rows = pd.RangeIndex(n).to_numpy()
    weights = 1.0 + rows % 3 if plan.get("weighted") else None
    data = TrainingData(features, targets, rows[:-4], weights, HeldOut(features, targets, rows[-4:]))
    kept = []
    if "kept" in plan:
        kept = [
            StopAfterOne(Path(plan["kept"])) if plan["begins"] else CheckpointCallback(Path(plan["kept"]), resume=True)
        ]
        kept[0].on_begin({})
    try:
        trained = Trainer(data, task, config, callbacks=kept).fit()
    except Stopped:
        return
    found = predict_rows(trained.model, task, features, rows, dict.fromkeys(encoders, "raw"))
    if ranks().first:
        history = [{key: row[key] for key in ("stage", "train_loss", "validation_loss")} for row in trained.history]
        out.with_suffix(".json").write_text(json.dumps({"history": history, "predictions": found.tolist()}))
        save_file({name: p.contiguous().clone() for name, p in trained.model.state_dict().items()}, out)


def main() -> None:
    """Train everything in the plan that the command line names."""
    path = Path(sys.argv[1])
    plans = json.loads(path.read_text())
    for name, plan in plans.items():
        join_ranks(make_config(plan["settings"]))
        train(plan, path.parent / f"{name}-{ranks().count}.safetensors")
    leave_ranks()


if __name__ == "__main__":
    main()
