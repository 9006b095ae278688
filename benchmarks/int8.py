"""What INT8 gains and loses: eager torch, single precision and INT8 side by side, on posts that are new to the model.

    python benchmarks/int8.py POSTS --repeats 5

Without `--run` a model is trained first, frozen encoders, on a part of POSTS; it is calibrated and scored on the others
(`--held-out`), of which no post does both. `eager` is torch as most people call it: images channels first. Reported are
medians of posts per second of the whole model on batches that are ready, the ratios to `eager` of the same repeat, and
the score that INT8 loses with its 95 % interval (paired bootstrap).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from cotune.data.posts import read_posts
from cotune.data.splits import holdout_split
from cotune.engines.sessions import installed, open_session
from cotune.environment import environment
from cotune.export.export_run import export_run
from cotune.export.package import GRAPH, open_export
from cotune.export.predictor import ExportedPredictor
from cotune.export.quantize import Int8, split_posts
from cotune.progress import TerminalProgress
from cotune.report.terminal import checks_table
from cotune.run import Run, load_run
from cotune.settings import make_config
from cotune.training.fit import fit_posts
from engines import rates, report, whole_model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--run", type=Path, help="a run that was not trained on POSTS")
    parser.add_argument("--held-out", type=float, default=0.4, help="part of POSTS that no model is trained on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--n", type=int, default=128, help="posts with text and image that speed is measured on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    posts = read_posts(args.posts, require_labels=True)
    run, posts = (load_run(args.run), posts) if args.run else train(posts, args.held_out, args.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "export")
        checks = export_run(run, folder, posts, int8=Int8(max_loss=1.0, seed=args.seed), progress=TerminalProgress())
        Console(width=120).print(checks_table([asdict(check) for check in checks], run.task.main_title))
        export = open_export(folder)
        predictors = {f"{name} fp32": ExportedPredictor(export, engine=name, session=open_session(folder / GRAPH, name))
                      for name in installed()}  # fmt: skip
        predictors["openvino int8"] = ExportedPredictor(export, engine="openvino", bad_images="text-only")
        _, scored = split_posts(posts, run.task, args.seed)
        print(interval(run, predictors["onnx fp32"], predictors["openvino int8"], scored, args.seed))
        timed = scored.dropna(subset=["text", "image"]).head(args.n).reset_index(drop=True)
        passes = whole_model(run, timed, predictors, args.batch_size)
        report("whole model", "posts/s", rates(passes, len(timed), args.repeats), larger=True)
    print({key: value for key, value in environment(args.seed, "", "cpu").items() if key != "data_hash"})
    print({"torch threads": torch.get_num_threads(), "posts": len(timed), "batch": args.batch_size, **installed()})


def train(posts: Any, held_out: float, seed: int) -> tuple[Run, Any]:
    """Return a run trained on a part of the posts, and the others."""
    kept, others = holdout_split(posts, fraction=held_out, seed=seed)
    config = make_config({"tune": "frozen", "seed": seed})
    run = fit_posts(posts.iloc[kept].reset_index(drop=True), config, progress=TerminalProgress()).run
    return run, posts.iloc[others].reset_index(drop=True)


def interval(run: Run, single: Any, int8: Any, posts: Any, seed: int, resamples: int = 2000) -> str:
    """Return in one line what INT8 loses of the score on the same posts, with its interval."""
    single.bad_images = "text-only"
    before, after = (scorer.scores(posts).predictions for scorer in (single, int8))
    known = ~np.isnan(before[:, 0])
    targets = run.task.encode(posts["label"][known].tolist())
    counts = np.random.default_rng(seed).multinomial(len(targets), np.full(len(targets), 1 / len(targets)), resamples)
    one, two = (run.task.scores[run.task.main_score](run.task.sheet(targets, found[known]), counts.astype(float))
                for found in (before, after))  # fmt: skip
    low, high = np.nanpercentile(one - two, [2.5, 97.5])
    return f"{run.task.main_title} lost in INT8, 95 % interval over {len(targets):,} posts: {low:.4f} to {high:.4f}"


if __name__ == "__main__":
    main()
