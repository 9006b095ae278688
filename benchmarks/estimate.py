"""How near the estimate of `cotune fit` without held-out posts comes to the scores on posts that were kept apart.

    python benchmarks/estimate.py posts.csv [--tune frozen,top] [--seeds 42,43,44] [--part 0.2]

For each seed a grouped part of the posts is kept apart. The others train a run, whose estimate is compared with the AUC
of that very run on the part kept apart; seconds are those of training and of the estimate, on cached embeddings.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from cotune.benchmark.estimate import estimate_scores
from cotune.data.duplicates import near_duplicate_groups
from cotune.data.posts import read_posts
from cotune.data.splits import holdout_split
from cotune.environment import environment
from cotune.evaluation import evaluate_posts
from cotune.predict import Predictor
from cotune.settings import make_config
from cotune.training.fit import fit_posts


def main() -> None:
    """Train, estimate, evaluate, and print a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--tune", default="frozen,top")
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--part", type=float, default=0.2)
    args = parser.parse_args()
    posts = read_posts(args.posts, require_labels=True)
    posts = posts[posts["label"].notna()].reset_index(drop=True)
    groups = near_duplicate_groups(posts)
    print(
        "| tuning | seed | estimate [95 %] | posts kept apart [95 %] | estimate - apart | training, s | estimate, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for tune in args.tune.split(","):
        gaps = []
        for seed in map(int, args.seeds.split(",")):
            train, test = holdout_split(posts["label"], fraction=args.part, seed=seed, groups=groups)
            config = make_config({"tune": tune, "seed": seed})
            started = time.perf_counter()
            mine = posts.iloc[train].reset_index(drop=True)
            run = fit_posts(mine, config).run
            trained = time.perf_counter()
            guess = estimate_scores(mine, run)["scores"]["auc"]
            done = time.perf_counter()
            apart = evaluate_posts(Predictor(run), [posts.iloc[test]]).to_dict()["scores"]["auc"]
            gaps.append(guess["value"] - apart["value"])
            cells = [f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" for row in (guess, apart)]
            seconds = f"{trained - started:.0f} | {done - trained:.0f}"
            print(f"| {tune} | {seed} | {' | '.join(cells)} | {gaps[-1]:+.4f} | {seconds} |", flush=True)
        print(
            f"| {tune} | mean | | | {statistics.mean(gaps):+.4f} ({min(gaps):+.4f} to {max(gaps):+.4f}) | | |",
            flush=True,
        )
    about = environment(42, None, "cpu")
    packages = ", ".join(f"{name} {about['packages'][name]}" for name in ("torch", "transformers", "timm"))
    print(f"\n{about['processor']}, {about['threads']} threads; {packages}; {len(posts):,} posts, seeds {args.seeds}")


if __name__ == "__main__":
    main()
