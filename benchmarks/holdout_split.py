"""AUC of frozen, `top` and `joint` on one grouped 80/20 split of a posts table, several training seeds.

    python benchmarks/holdout_split.py posts.csv --out FILE.json [--seeds 42,43,44] [--only TEXT]

Near-duplicates never straddle the split, which is the same for all seeds (42). Every finished row is written at
once; with --only, just the rows whose name holds TEXT are measured, and the others in FILE, of the same posts, stay.
Nothing is chosen on the held-out posts: all runs use the defaults and a fixed number of epochs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from cotune.data.duplicates import near_duplicate_groups
from cotune.data.posts import data_hash, read_posts
from cotune.data.splits import holdout_split
from cotune.environment import environment
from cotune.progress import TerminalProgress
from cotune.settings import FitConfig, make_config
from cotune.tasks import make_task
from cotune.training.build import open_encoders, prepare_posts, read_options
from cotune.training.model_rows import predict_rows
from cotune.training.trainer import Trainer
from cotune.training.training_data import TrainingData


def main() -> None:
    """Train every row of the table in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--only", default="", metavar="TEXT")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rows: list[tuple[str, dict[str, Any]]] = []
    rows += [("frozen attention", {"tune": "frozen", "seed": seed}) for seed in seeds]
    rows += [("frozen reference", {"tune": "frozen", "fusion": "reference", "seed": seed}) for seed in seeds]
    rows += [("top attention", {"tune": "top", "seed": seed}) for seed in seeds]
    rows += [("joint, 1 epoch", {"tune": "joint", "epochs": 1, "min_epochs": 1, "seed": seeds[0]})]
    rows += [("joint attention", {"tune": "joint", "seed": seeds[0]})]
    measure(args.posts, [row for row in rows if args.only in row[0]], args.out)


def measure(table: Path, rows: list[tuple[str, dict[str, Any]]], out: Path) -> None:
    """Fit, score and write."""
    progress = TerminalProgress()
    posts = read_posts(table, require_labels=True)
    task = make_task("single-label", posts["label"].tolist())
    y = task.encode(posts["label"].tolist())
    train, test = holdout_split(y, fraction=0.2, seed=42, groups=near_duplicate_groups(posts))
    base = FitConfig()
    features = prepare_posts(posts, open_encoders(base), base, read_options(base, progress=progress))
    result: dict[str, Any] = {
        "train": len(train),
        "test": len(test),
        "environment": {**environment(42, data_hash(posts), "cpu"), "command": None},
        "rows": [],
    }
    if out.exists():
        earlier = json.loads(out.read_text(encoding="utf-8"))
        if earlier["environment"]["data_hash"] != result["environment"]["data_hash"]:
            raise SystemExit(f"{out} holds figures of other posts; name another file")
        measured = {name for name, _ in rows}
        result["rows"] = [row for row in earlier["rows"] if row["name"] not in measured]
    for name, settings in rows:
        started = time.perf_counter()
        trained = Trainer(TrainingData(features, y, train), task, make_config(settings), progress=progress).fit()
        proba = predict_rows(trained.model, task, features, test, trained.source)
        scores = task.evaluate(y[test], proba).to_dict()["scores"]
        row = {"name": name, **settings, "seconds": time.perf_counter() - started}
        row |= {key: scores[key] for key in ("auc", "accuracy", "macro_f1")}
        result["rows"].append(row)
        auc, seconds = scores["auc"]["value"], row["seconds"]
        print(f"{name:<18} seed {settings['seed']}  AUC {auc:.4f}  {seconds:.0f} s", flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name in dict.fromkeys(row["name"] for row in result["rows"]):
        values = [row["auc"]["value"] for row in result["rows"] if row["name"] == name]
        print(f"{name:<18} mean AUC {np.mean(values):.4f}  from {min(values):.4f} to {max(values):.4f}")


if __name__ == "__main__":
    main()
