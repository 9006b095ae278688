"""Are explanations true to the model? Deletion, insertion and random weights, on real posts.

    python benchmarks/faithfulness.py RUN POSTS [--limit 100] [--seed 0] [--out FILE.json] [--threads 1]

For each drawn post the class is the predicted one and its probability is followed while words or patches go
(deletion) or come (insertion), those that an explanation ranks first leading. Margins are differences to the
mean of random orders of the same post, signed so that more is better: random less method for deletion, method
less random for insertion. Intervals are percentile bootstraps over posts. "Left out" and "blurred away" measure
the first step of these very curves, one word or patch at a time; they show what can be reached and are no fair
rivals of methods that never saw a deletion. "Centre first" knows nothing but how photographs are composed.

The sanity check repeats a part of the posts with random weights in the head, and in head and encoders: the rank
correlation with the explanations of the trained model ought to be near zero.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cotune.data.posts import read_posts
from cotune.environment import environment
from cotune.errors import DataError
from cotune.explain.explainer import Explainer
from cotune.explain.faithfulness import (
    centre_first,
    curve_areas,
    patch_evaluator,
    random_orders,
    ranking,
    with_random_weights,
    word_evaluator,
)
from cotune.explain.pixels import GRID, explain_pixels, smooth_gradients, to_grid
from cotune.explain.segments import segment
from cotune.explain.target import Target
from cotune.explain.words import left_out, rank_correlation, word_gradients
from cotune.files import write_json
from cotune.progress import TerminalProgress
from cotune.run import load_run

STAGES = {"head": ("head",), "head and encoders": ("head", "text", "image")}
FEWEST_WORDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--limit", type=int, default=100, help="posts to draw")
    parser.add_argument("--orders", type=int, default=5, help="random orders per post")
    parser.add_argument("--sanity", type=int, default=30, help="posts for the check with random weights")
    parser.add_argument("--smooth", action="store_true", help="also smoothed integrated gradients over pixels (slow)")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    explainer = Explainer(load_run(args.run))
    posts = read_posts(args.posts)
    random = np.random.default_rng(args.seed)
    order = random.permutation(len(posts))
    areas: dict[str, list[dict[str, tuple[float, float]]]] = {"words": [], "patches": []}
    correlations: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in STAGES} for kind in areas}
    errors: list[float] = []
    shuffled = {name: with_random_weights(explainer.model, parts, args.seed) for name, parts in STAGES.items()}
    skipped = 0
    started = time.perf_counter()
    for done, at in enumerate(TerminalProgress().track(order[: args.limit], "posts", min(args.limit, len(order)))):
        post = posts.iloc[[int(at)]].reset_index(drop=True)
        try:
            target, batch = explainer.target(post, next(iter(explainer.model.encoders)))
        except DataError:
            skipped += 1
            continue
        for field in batch.inputs:
            target = Target(explainer.model, batch, field, target.index)
            checked = shuffled.items() if done < args.sanity else ()
            others = {name: Target(model, batch, field, target.index) for name, model in checked}
            if field == "text":
                errors += words(args, target, post["text"].iloc[0], others, areas, correlations, random)
            elif field == "image":
                patches(args, target, batch.inputs["image"]["pixels"], others, areas, correlations, random)
    report(args, explainer, areas, correlations, errors, skipped, time.perf_counter() - started)


def words(args, target, text, others, areas, correlations, random) -> list[float]:
    """Measure the words of one post; return the error of completeness."""
    parts = segment(target.text_encoder, text)
    if len(parts.words) < FEWEST_WORDS:
        return []
    gradients, *_, error, _ = word_gradients(target, parts)
    orders = {
        "random": random_orders(len(parts.words), args.orders, random),
        "integrated gradients": [ranking(gradients)],
        "left out": [ranking(left_out(target, parts))],
    }
    areas["words"].append(curve_areas(word_evaluator(target, parts), orders))
    for name, other in others.items():
        note(correlations["words"][name], gradients, word_gradients(other, parts, 32)[0])
    return [error]


def patches(args, target, pixels, others, areas, correlations, random) -> None:
    """Measure the patches of one post."""
    found = explain_pixels(target, pixels)
    orders = {
        "random": random_orders(GRID * GRID, args.orders, random),
        found.method: [ranking(found.patches)],
        "blurred away": [ranking(found.blurred)],
        "centre first": [centre_first()],
    }
    if args.smooth and found.method != "integrated gradients":
        orders["integrated gradients"] = [ranking(to_grid(smooth_gradients(target, pixels), GRID))]
    areas["patches"].append(curve_areas(patch_evaluator(target, pixels), orders))
    for name, other in others.items():
        note(correlations["patches"][name], found.patches, explain_pixels(other, pixels, blur=False).patches)


def note(into: list[float], a: np.ndarray, b: np.ndarray) -> None:
    value = rank_correlation(np.ravel(a), np.ravel(b))
    if value is not None:
        into.append(value)


def interval(values: np.ndarray, args) -> dict[str, Any]:
    """Return the mean with its bootstrap interval over posts."""
    if not len(values):
        return {"mean": None, "low": None, "high": None, "n": 0}
    draws = np.random.default_rng(args.seed).integers(0, len(values), (args.resamples, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


def margins(rows: list[dict[str, tuple[float, float]]], args) -> list[dict[str, Any]]:
    found = []
    for name in rows[0] if rows else ():
        pairs = np.asarray([row[name] for row in rows])
        chance = np.asarray([row["random"] for row in rows])
        found.append(
            {
                "method": name,
                "deletion": interval(pairs[:, 0], args),
                "insertion": interval(pairs[:, 1], args),
                "deletion_margin": interval(chance[:, 0] - pairs[:, 0], args),
                "insertion_margin": interval(pairs[:, 1] - chance[:, 1], args),
            }
        )
    return found


def report(args, explainer, areas, correlations, errors, skipped, seconds) -> None:
    """Print the tables and write them as JSON."""
    tables = {kind: margins(rows, args) for kind, rows in areas.items()}
    for kind, rows in tables.items():
        print(f"\n{kind}: {len(areas[kind])} posts, mean areas and margins over random with 95 % intervals")
        print(f"{'method':<22}{'deletion':>9}{'margin':>26}{'insertion':>11}{'margin':>26}")
        for row in rows:
            cells = [row["deletion"]["mean"], row["deletion_margin"], row["insertion"]["mean"], row["insertion_margin"]]
            first, second = (f"{c['mean']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})" for c in (cells[1], cells[3]))
            print(f"{row['method']:<22}{cells[0]:>9.3f}{first:>26}{cells[2]:>11.3f}{second:>26}")
    sanity = {
        kind: {
            name: {
                "correlation": interval(np.asarray(values), args),
                "size": interval(np.abs(np.asarray(values)), args),
            }
            for name, values in stages.items()
        }
        for kind, stages in correlations.items()
    }
    print("\nrank correlation with the explanations of random weights (mean, 95 % interval, mean size)")
    for kind, stages in sanity.items():
        for name, both in stages.items():
            c = both["correlation"]
            if c["n"]:
                print(
                    f"{kind:<9}{name:<20}{c['mean']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f})"
                    f"  {both['size']['mean']:.3f}  n={c['n']}"
                )
    if errors:
        print(f"\ncompleteness of word gradients: median error {np.median(errors):.4f}, worst {np.max(errors):.4f}")
    print(f"{skipped} posts could not be used; {seconds:.0f} s")
    if args.out:
        write_json(
            args.out,
            {
                "areas": tables,
                "sanity": sanity,
                "completeness": {"errors": errors},
                "limit": args.limit,
                "seed": args.seed,
                "random_orders": args.orders,
                "skipped": skipped,
                "seconds": seconds,
                "encoders": {name: encoder.spec for name, encoder in explainer.model.encoders.items()},
                "tune": explainer.run.config.tune,
                "environment": {**environment(args.seed, None, str(explainer.device)), "command": None},
            },
        )


if __name__ == "__main__":
    main()
