"""Where a step of training spends its time, in float32 and as `--precision auto` chooses, side by side.

    python benchmarks/profile_training.py [posts.csv] [--tune top,joint] [--limit 400] [--batches 6] [--repeats 5]
    OMP_NUM_THREADS=1 python benchmarks/profile_training.py posts.csv --cpu-time    # beside other work

Both take turns in one process on the same batches of 32, with copies of the same model, after one round to warm up.
Reported are milliseconds per batch: the median over the repeats with its range, and the median of the ratios 32 / auto
with theirs. `scoring` is a pass over the same posts without gradients; it is not part of `step`. With --cpu-time the
processor's time counts, not the clock's; with one thread that is nearly free of what other work on the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cotune.data.posts import read_posts
from cotune.demo import demo_posts_path
from cotune.environment import environment
from cotune.heads import Embeddings
from cotune.settings import make_config
from cotune.tasks import make_task
from cotune.training.build import build_model, compute_sources, open_encoders, prepare_posts, read_options
from cotune.training.features import Features, iterate
from cotune.training.parameters import parameter_groups, set_gradients, set_train_mode
from cotune.training.precision import choose_precision, encoding
from cotune.training.stages import READS


class Training:
    """One way to train, step by step."""

    def __init__(self, features: Features, task: Any, targets: np.ndarray, tune: str, precision: str) -> None:
        self.config = make_config({"tune": tune, "precision": precision})
        self.features, self.targets, self.precision = features, targets, precision
        torch.manual_seed(self.config.seed)
        self.rows = np.arange(len(targets))
        self.model = build_model(features, task, self.config, self.rows)
        self.source = compute_sources(features, self.model, self.config)[READS[tune]]
        set_gradients(self.model, tune, self.config)
        self.loss = task.loss(self.config, targets, None)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, tune, self.config), fused=True)

    def batches(self) -> Iterator[Any]:
        """Yield shuffled batches, the same ones at every call."""
        return iterate(self.features, self.rows, self.source, self.config.batch_size, targets=self.targets, seed=1)

    def train(self, n: int, timed: Callable[[str], Any]) -> None:
        """Train on `n` batches."""
        set_train_mode(self.model, frozen_norms=True)
        batches = self.batches()
        for _ in range(n):
            with timed("data"):
                batch = next(batches)
            parts = {}
            with encoding(self.precision, "cpu"):
                for at, name in enumerate(self.model.encoders):
                    with timed(f"forward, {name}"):
                        parts[name] = self.model._embed_one(batch, name, batch.present[:, at])
            with timed("forward, head"):
                pooled = {name: part.pooled for name, part in parts.items()}
                loss = self.loss(self.model.head(Embeddings(pooled, batch.present)), batch.targets, None)
            with timed("backward"):
                loss.backward()
            with timed("clipping"):
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
            with timed("optimizer"):
                self.optimizer.step()
                self.optimizer.zero_grad()

    def score(self, n: int, timed: Callable[[str], Any]) -> None:
        """Score the posts of `n` batches."""
        self.model.eval()
        batches = self.batches()
        with torch.inference_mode(), encoding(self.precision, "cpu"), timed("scoring"):
            for _ in range(n):
                self.model(next(batches))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path, nargs="?", default=demo_posts_path(), help="default: the demo posts")
    parser.add_argument("--tune", default="top,joint")
    parser.add_argument("--limit", type=int, default=400, help="posts that are prepared")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", default="auto", choices=["auto", "bf16"])
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    posts = read_posts(args.posts, require_labels=True)
    posts = posts.sample(min(args.limit, len(posts)), random_state=42).reset_index(drop=True)
    task = make_task("auto", posts["label"].tolist())
    chosen = choose_precision(args.against, "cpu")
    about = environment(42, None, "cpu")
    print(f"{args.against}: {chosen}. {about['processor']}, {about['threads']} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as cache:
        for tune in args.tune.split(","):
            config = make_config({"tune": tune, "cache": cache})
            features = prepare_posts(posts, open_encoders(config, posts), config, read_options(config))
            targets = task.encode(posts["label"].tolist())
            ways = {name: Training(features, task, targets, tune, name) for name in ("32", chosen.name)}
            report(tune, chosen.name, measure(ways, args.batches, args.repeats, clock))


def measure(ways: dict[str, Training], n: int, repeats: int, clock: Callable[[], float]) -> dict[str, list[Any]]:
    """Return for each way and repeat the milliseconds per batch of each part."""
    found: dict[str, list[Any]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            spent: dict[str, float] = defaultdict(float)

            @contextmanager
            def timed(part: str, spent: dict[str, float] = spent) -> Iterator[None]:
                started = clock()
                yield
                spent[part] += 1000 * (clock() - started) / n

            way.train(n, timed)
            spent["step"] = sum(spent.values())
            way.score(n, timed)
            if repeat:
                found[name].append(dict(spent))
    return found


def report(tune: str, other: str, found: dict[str, list[Any]]) -> None:
    """Print a table of one way of tuning."""
    print(f"\n{tune:<16}{'32, ms':>10}{'range':>20}{f'{other}, ms':>10}{'range':>20}{'ratio':>8}{'range':>16}")
    for part in found["32"][0]:
        one, two = ([repeat[part] for repeat in found[name]] for name in ("32", other))
        ratios = [a / b for a, b in zip(one, two, strict=True)]
        cells = [f"{statistics.median(values):>10.1f}{between(values, 1):>20}" for values in (one, two)]
        print(f"{part:<16}{''.join(cells)}{statistics.median(ratios):>8.2f}{between(ratios, 2):>16}", flush=True)


def between(values: list[float], digits: int) -> str:
    """Return the smallest and the largest value."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


if __name__ == "__main__":
    main()
