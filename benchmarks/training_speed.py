"""Samples per second of `joint` and `top` against the same encoders trained as the paper's code trains them.

    python benchmarks/training_speed.py [posts.csv] [--limit N] [--batches 12] [--rounds 3] [--out FILE.json]

The baseline pads every text to 512 tokens, keeps the contiguous memory layout, lets batch norms learn, and
decodes every image again. All three train the attention head and use batches of 32 in float32. They take
turns in one process, round by round, so that whatever else the machine does hits all alike; the median over
rounds is reported with its range. What `top` computes once, before its first epoch, is timed beside it.

Memory: the attention maps of 32 texts of 512 tokens alone take some 10 GB, so the baseline's batches of 32 are
computed in parts of `--part` posts whose gradients add up to one step; batch norms see the parts.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cotune.data.images.load import load_image
from cotune.data.posts import read_posts
from cotune.demo import demo_posts_path
from cotune.environment import environment
from cotune.heads import make_head
from cotune.model import Batch, JointModel
from cotune.release_memory import release_memory
from cotune.settings import FitConfig
from cotune.tasks.single_label import SingleLabel
from cotune.training.build import open_encoders, prepare_posts
from cotune.training.features import iterate
from cotune.training.parameters import cut_for_top, parameter_groups, set_gradients, set_train_mode


def reference_batches(posts, model, labels, config, part: int) -> Iterator[Batch]:
    """Yield parts of batches as the paper's code makes them: random order, 512 tokens, pictures decoded now."""
    order = np.random.default_rng(config.seed).permutation(len(posts))
    for start in range(0, len(order), part):
        rows = order[start : start + part]
        words = model.encoders["text"].tokenizer(
            [posts["text"].iloc[i] for i in rows],
            padding="max_length",
            truncation=True,
            max_length=512,
            return_tensors="pt",
        )
        images = [model.encoders["image"].preprocessor(load_image(posts["image"].iloc[i])) for i in rows]
        pixels = model.encoders["image"].normalise(torch.from_numpy(np.stack(images))).contiguous()
        inputs = {
            "text": {key: words[key] for key in ("input_ids", "attention_mask")},
            "image": {"pixels": pixels},
        }
        present = torch.ones((len(rows), 2), dtype=torch.bool)
        yield Batch(present, ("text", "image"), inputs, torch.from_numpy(labels[rows]))


def timed(
    model: JointModel, batches: Iterator[Batch], config: FitConfig, n: int, *, frozen_norms: bool, parts: int = 1
) -> float:
    """Train on `n` batches of some `parts`, after one for warming up; return posts per second, loading included."""
    optimizer = torch.optim.AdamW(parameter_groups(model, "joint", config))
    loss_function = nn.CrossEntropyLoss()
    set_train_mode(model, frozen_norms=frozen_norms)
    posts, started = 0, 0.0
    for i, batch in enumerate(batches):
        if i == parts:
            posts, started = 0, time.perf_counter()
        (loss_function(model(batch), batch.targets) / parts).backward()
        posts += len(batch)
        if (i + 1) % parts:
            continue
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (i + 1) // parts == n + 1:
            break
    rate = posts / (time.perf_counter() - started)
    model.zero_grad()
    release_memory()  # what the baseline leaves in the heap is not to count as the next one's
    return rate


def build(config: FitConfig, encoders, n_classes: int, *, contiguous: bool = False) -> JointModel:
    """Return a fresh model on fresh encoders."""
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    head = make_head("attention", dims, n_classes, **config.head_settings())
    model = JointModel(encoders, head, SingleLabel([str(k) for k in range(n_classes)]))
    if contiguous:
        model.encoders["image"].model.to(memory_format=torch.contiguous_format)
    return model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path, nargs="?", default=demo_posts_path(), help="default: the demo posts")
    parser.add_argument("--limit", type=int, help="take a random part of the posts")
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--reference-batches", type=int, default=3)
    parser.add_argument(
        "--part", type=int, default=8, choices=(1, 2, 4, 8, 16, 32), help="posts of the baseline at once"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    posts = read_posts(args.posts)
    if args.limit and args.limit < len(posts):
        posts = posts.sample(args.limit, random_state=42).reset_index(drop=True)
    classes = sorted(posts["label"].dropna().unique())
    labels = posts["label"].map({label: i for i, label in enumerate(classes)}).to_numpy()
    with tempfile.TemporaryDirectory() as cache:
        measure(args, posts, labels, len(classes), FitConfig(cache=cache))


def measure(args, posts, labels, n_classes: int, config: FitConfig) -> None:
    """Time the three ways in turn."""
    rows = np.arange(len(posts))
    once: dict[str, float] = {}
    started = time.perf_counter()
    features = prepare_posts(posts, open_encoders(config), config)
    once["tokens and pixels"] = time.perf_counter() - started
    reference = build(config, open_encoders(config), n_classes, contiguous=True)
    joint = build(config, open_encoders(config), n_classes)
    top = build(config, open_encoders(config), n_classes)
    cut_for_top(top, config)
    for name, encoder in top.encoders.items():
        started = time.perf_counter()
        features.compute(name, "hidden", encoder)
        once[f"{name} activations"] = time.perf_counter() - started
    for model in (reference, joint, top):
        set_gradients(model, "joint", config)

    def source(kind: str) -> dict[str, str]:
        return dict.fromkeys(("text", "image"), kind)

    def batches(kind: str, seed: int) -> Iterator[Batch]:
        return iterate(features, rows, source(kind), config.batch_size, targets=labels, seed=seed)

    ways: dict[str, Callable[[int], float]] = {
        "reference": lambda _: timed(
            reference,
            reference_batches(posts, reference, labels, config, args.part),
            config,
            args.reference_batches,
            frozen_norms=False,
            parts=config.batch_size // args.part,
        ),
        "joint": lambda seed: timed(joint, batches("raw", seed), config, args.batches, frozen_norms=True),
        "top": lambda seed: timed(top, batches("hidden", seed), config, 3 * args.batches, frozen_norms=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(args.rounds):
        for name, run in ways.items():
            rates[name].append(run(round_))
            print(f"round {round_ + 1}  {name:<10} {rates[name][-1]:7.2f} posts/s", flush=True)
    report(args, posts, rates, once, config)


def report(args, posts, rates: dict[str, list[float]], once: dict[str, float], config: FitConfig) -> None:
    """Print the table and write it as JSON."""
    base = statistics.median(rates["reference"])
    print(f"\n{len(posts):,} posts, {platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'way':<12}{'posts/s':>9}{'range':>18}{'ratio':>8}")
    for name, values in rates.items():
        middle = statistics.median(values)
        print(f"{name:<12}{middle:>9.2f}{f'{min(values):.2f} to {max(values):.2f}':>18}{middle / base:>8.1f}")
    for name, seconds in once.items():
        print(f"once: {name} {seconds:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory {peak:.1f} GB")
    if args.out:
        result = {
            "rates": rates,
            "ratios": {name: statistics.median(values) / base for name, values in rates.items()},
            "once_seconds": once,
            "n_posts": len(posts),
            "environment": {**environment(config.seed, None, "cpu"), "command": None},
        }
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
