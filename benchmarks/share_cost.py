"""What `text_share` and `image_share` cost in `predict`: its time with them over its time without.

    python benchmarks/share_cost.py RUN POSTS [--limit 512] [--rounds 5] [--out FILE.json] [--threads 1]

Both ways read the same posts from the table, decode the same pictures and run the same encoders; one then asks
the head once for the probabilities, the other for the four passes that the exact Shapley values need. They take
turns in one process, in an order that changes from round to round, so that whatever else the machine does hits
both alike. The ratio is that of each round's pair; the median over rounds is reported with its range. The head
is timed alone as well, on embeddings that are there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd
import torch

from cotune.data.posts import read_posts
from cotune.environment import environment
from cotune.explain.explainer import Explainer
from cotune.files import write_json
from cotune.heads.contributions import contributions
from cotune.predict import Predictor
from cotune.run import load_run


def without_shares(predictor: Predictor, posts: pd.DataFrame) -> int:
    """Do what ``predict`` does, but for the shares; return the number of posts scored."""
    features, rows, _ = predictor.read(posts)
    scored = 0
    for _, embeddings in predictor.embedded(features, rows):
        with torch.inference_mode():
            outputs = predictor.model.head(embeddings)
            scored += len(predictor.run.task.predictions(outputs).double().cpu().numpy())
    return scored


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--limit", type=int, default=512, help="posts in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    predictor = Predictor(load_run(args.run))
    posts = read_posts(args.posts).head(args.limit).reset_index(drop=True)
    ways = {"with": lambda: predictor.scores(posts), "without": lambda: without_shares(predictor, posts)}
    small = posts.head(64)
    predictor.scores(small)
    without_shares(predictor, small)
    rounds = []
    for number in range(args.rounds):
        names = ["with", "without"] if number % 2 else ["without", "with"]
        rounds.append({name: timed(ways[name]) for name in names})
        print(f"round {number + 1}  with {rounds[-1]['with']:.2f} s  without {rounds[-1]['without']:.2f} s", flush=True)
    ratios = [found["with"] / found["without"] for found in rounds]
    head = head_cost(predictor, posts)
    print(f"\nratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) over {len(posts)} posts")
    print(f"the head alone: {head['one_pass']:.2f} ms a thousand posts for one pass, {head['shares']:.2f} ms for all")
    if args.out:
        write_json(
            args.out,
            {
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "rounds": rounds,
                "head_ms_per_thousand_posts": head,
                "posts": len(posts),
                "environment": {**environment(0, None, str(predictor.device)), "command": None},
            },
        )


def head_cost(predictor: Predictor, posts: pd.DataFrame, repeats: int = 50) -> dict[str, float]:
    """Return milliseconds per thousand posts in the head: one pass, and all that the shares need."""
    found = Explainer(predictor.run).complete_embeddings(posts.head(64))
    assert found is not None
    head, task, embeddings = predictor.model.head, predictor.run.task, found[0]
    n = embeddings.n_posts
    ways = {"one_pass": lambda: head(embeddings), "shares": lambda: contributions(head, task, embeddings).shares()}
    with torch.inference_mode():
        return {
            name: statistics.median(timed(work) for _ in range(repeats)) * 1e6 / n
            for name, work in ways.items()
        }  # fmt: skip


if __name__ == "__main__":
    main()
