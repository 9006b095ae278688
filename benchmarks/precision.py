"""Training in float32 against `--precision auto`: seconds, speed and AUC, side by side for several seeds.

    python benchmarks/precision.py posts.csv --out FILE.json [--tune top,joint] [--seeds 42,43,44] [--limit N]

Fold 1 of 10 grouped folds, that of `cotune bench`, is scored; the others are trained on. Both ways take turns seed by
seed, in alternating order, on activations and embeddings that were computed before. Reported are, for each way of
tuning, the seconds of fine-tuning, the ratio of the posts per second (median over seeds, with its range), the AUC and
its difference, mean over seeds. Every finished pair is written at once; pairs that FILE holds are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from cotune.benchmark.bench import Bench
from cotune.benchmark.folds import cut_posts, posts_of
from cotune.benchmark.plan import Plan
from cotune.data.posts import data_hash, read_posts
from cotune.environment import environment
from cotune.files import write_json
from cotune.progress import TerminalProgress
from cotune.settings import make_config
from cotune.tasks import Task
from cotune.training.precision import choose_precision


def main() -> None:
    """Train every pair in turn, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tune", default="top,joint")
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--limit", type=int, help="take a random part of the posts")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--against", default="auto", choices=["auto", "bf16"])
    args = parser.parse_args()
    posts = read_posts(args.posts, require_labels=True)
    if args.limit and args.limit < len(posts):
        posts = posts.sample(args.limit, random_state=42).reset_index(drop=True)
    chosen = choose_precision(args.against, "cpu")
    made_of = {"data": data_hash(posts), "epochs": args.epochs, "precision": chosen.name}
    result: dict[str, Any] = {**made_of, "environment": environment(42, None, "cpu"), "why": str(chosen), "pairs": []}
    if args.out.exists():
        earlier = json.loads(args.out.read_text(encoding="utf-8"))
        if {key: earlier.get(key) for key in made_of} != made_of:
            raise SystemExit(f"{args.out} holds figures of other posts, epochs or another precision; name another file")
        result["pairs"] = earlier["pairs"]
    print(f"{args.against}: {chosen}")
    for tune in args.tune.split(","):
        seeds = [int(seed) for seed in args.seeds.split(",")]
        done = {pair["seed"] for pair in result["pairs"] if pair["tune"] == tune}
        measure(posts, tune, [seed for seed in seeds if seed not in done], result, args)
    about = result["environment"]
    print(
        f"\n{about['processor']}, {about['threads']} threads, torch {about['packages']['torch']}, {len(posts):,} posts"
    )
    print(
        f"{'':<7}{'seconds 32':>12}{chosen.name:>8}{'speed':>8}{'range':>15}{'AUC 32':>9}{chosen.name:>8}{'diff.':>9}"
    )
    for tune in dict.fromkeys(pair["tune"] for pair in result["pairs"]):
        report(tune, [pair for pair in result["pairs"] if pair["tune"] == tune], chosen.name)


def measure(posts: Any, tune: str, seeds: list[int], result: dict[str, Any], args: argparse.Namespace) -> None:
    """Train and score the missing pairs of one way of tuning."""
    names = ("32", result["precision"])
    settings = {"tune": tune, "epochs": args.epochs, "min_epochs": args.epochs}
    configs = {name: make_config({**settings, "precision": name}) for name in names}
    pair = (configs["32"].text_encoder, configs["32"].image_encoder)
    plans = {name: Plan(("joint",), (pair,), seeds=(42,), emap=0, fit=config) for name, config in configs.items()}
    folds = cut_posts(posts, plans["32"])
    benches = {
        name: Bench(posts_of(posts, folds), folds, plan, progress=TerminalProgress()) for name, plan in plans.items()
    }
    for at, seed in enumerate(seeds):
        row: dict[str, Any] = {"tune": tune, "seed": seed}
        for name in sorted(names, reverse=bool(at % 2)):
            record = benches[name].run(plans[name].cell("joint", pair, 0, seed, None, 0))
            task, test = folds.task, folds.test(0)
            row[name] = {**figures(record.history, tune), **score(task, folds.targets[test], record.proba)}
            print(f"{tune:<6} seed {seed}  {name:<5} {row[name]}", flush=True)
        result["pairs"].append(row)
        write_json(args.out, result)


def figures(history: list[dict[str, Any]], tune: str) -> dict[str, float]:
    """Return seconds and posts per second of fine-tuning."""
    epochs = [row for row in history if row["stage"] == tune]
    return {
        "seconds": sum(row["seconds"] for row in epochs),
        "posts_per_second": statistics.median(row["posts_per_second"] for row in epochs),
    }


def score(task: Task, targets: Any, proba: Any) -> dict[str, float]:
    """Return the AUC."""
    return {"auc": task.evaluate(targets, proba, n_bootstrap=0).to_dict()["scores"]["auc"]["value"]}


def report(tune: str, pairs: list[dict[str, Any]], other: str) -> None:
    """Print the line of one way of tuning."""
    ratios = [pair[other]["posts_per_second"] / pair["32"]["posts_per_second"] for pair in pairs]
    seconds = [statistics.median(pair[name]["seconds"] for pair in pairs) for name in ("32", other)]
    aucs = [statistics.mean(pair[name]["auc"] for pair in pairs) for name in ("32", other)]
    print(
        f"{tune:<7}{seconds[0]:>12.1f}{seconds[1]:>8.1f}{statistics.median(ratios):>8.2f}"
        f"{f'{min(ratios):.2f} to {max(ratios):.2f}':>15}{aucs[0]:>9.4f}{aucs[1]:>8.4f}{aucs[1] - aucs[0]:>+9.4f}"
    )


if __name__ == "__main__":
    main()
