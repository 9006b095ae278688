"""How fast a run scores posts by torch, ONNX Runtime and OpenVINO; side by side in one process.

    python benchmarks/engines.py RUN POSTS --repeats 5

Measured are the whole model on batches that are ready (posts per second), a single post from file to answer (p50), and
`cotune predict` on one post from a cold start. `eager` is torch as most people call it: images channels first. Reported
are medians, and the ratios to `eager` of the same repeat.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cotune.data.posts import read_posts
from cotune.encoders.image import ImageEncoder
from cotune.engines.sessions import installed
from cotune.environment import environment
from cotune.export.export_run import export_run
from cotune.export.graph import ExportGraph
from cotune.export.package import open_export
from cotune.export.predictor import ExportedPredictor
from cotune.predict import Predictor
from cotune.run import load_run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--n", type=int, default=128, help="posts with text and image")
    args = parser.parse_args()
    run = load_run(args.run)
    posts = read_posts(args.posts).dropna(subset=["text", "image"]).head(args.n).reset_index(drop=True)
    with tempfile.TemporaryDirectory() as folder:
        checks = export_run(run, Path(folder, "export"), posts, openvino="openvino" in installed())
        for check in checks:
            print(check)
        export = open_export(Path(folder, "export"))
        predictors: dict[str, Any] = {name: ExportedPredictor(export, engine=name) for name in installed()}
        passes = whole_model(run, posts, predictors, args.batch_size)
        report("whole model", "posts/s", rates(passes, len(posts), args.repeats), larger=True)
        scorers = {"torch": Predictor(run, device="cpu"), **predictors}
        singles = {name: single_posts(scorer, posts) for name, scorer in scorers.items()}
        report("one post, warm", "ms", latencies(singles, args.repeats), larger=False)
        starts = {"torch": [str(args.run), "--engine", "torch"]}
        starts |= {name: [str(Path(folder, "export")), "--engine", name] for name in installed()}
        image = str(posts["image"][0])
        commands = {
            name: ["predict", *start, "--text", "a lovely day", "--image", image] for name, start in starts.items()
        }
        report("one post, cold start", "s", cold(commands, args.repeats), larger=False)
    print({key: value for key, value in environment(0, "", "cpu").items() if key != "data_hash"})
    print({"torch threads": torch.get_num_threads(), "posts": len(posts), "batch": args.batch_size, **installed()})


def whole_model(run: Any, posts: Any, predictors: dict[str, Any], batch_size: int) -> dict[str, Callable[[], None]]:
    """Return functions that run the whole model over batches that are ready."""
    first = next(iter(predictors.values()))
    read = first.read(posts)
    order = np.array_split(np.arange(len(posts)), max(1, len(posts) // batch_size))
    batches = [first.arrays(read.inputs, read.present, rows) for rows in order]
    tensors = [{key: torch.from_numpy(value) for key, value in batch.items()} for batch in batches]
    graph = ExportGraph(run.model).eval()

    def torch_pass() -> None:
        with torch.inference_mode():
            for batch in tensors:
                graph(batch)

    networks = [encoder.model for encoder in run.model.encoders.values() if isinstance(encoder, ImageEncoder)]

    def eager() -> None:
        for parameter in run.model.parameters():
            parameter.data = parameter.data.contiguous()
        hooks = [network.register_forward_pre_hook(channels_first) for network in networks]
        torch_pass()
        for hook in hooks:
            hook.remove()

    def channels_last() -> None:
        run.model.to(memory_format=torch.channels_last)
        torch_pass()

    def session(name: str) -> Callable[[], None]:
        return lambda: [predictors[name].session.run(batch) for batch in batches] and None

    return {"eager": eager, "torch": channels_last, **{name: session(name) for name in predictors}}


def channels_first(_: torch.nn.Module, images: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Give a network its images channels first, whatever cotune does."""
    return tuple(image.contiguous() for image in images)


def rates(passes: dict[str, Callable[[], None]], n: int, repeats: int) -> dict[str, list[float]]:
    """Return posts per second of each repeat, after one pass to warm up."""
    found: dict[str, list[float]] = {name: [] for name in passes}
    for repeat in range(repeats + 1):
        for name, one in passes.items():
            started = time.perf_counter()
            one()
            if repeat:
                found[name].append(n / (time.perf_counter() - started))
    return found


def single_posts(scorer: Any, posts: Any, n: int = 40) -> Callable[[], list[float]]:
    """Return a function that gives the milliseconds of single posts, from file to answer."""

    def one_round() -> list[float]:
        times = []
        for i in range(min(n, len(posts))):
            post = posts.iloc[i : i + 1].reset_index(drop=True)
            started = time.perf_counter()
            scorer.frame(post)
            times.append(1000 * (time.perf_counter() - started))
        return times

    return one_round


def latencies(singles: dict[str, Callable[[], list[float]]], repeats: int) -> dict[str, list[float]]:
    """Return the median milliseconds of each repeat."""
    found: dict[str, list[float]] = {name: [] for name in singles}
    for repeat in range(repeats + 1):
        for name, one in singles.items():
            times = one()
            if repeat:
                found[name].append(statistics.median(times))
    return found


def cold(commands: dict[str, list[str]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds that each command takes."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    for _ in range(repeats):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "cotune", *arguments], env=variables, check=True, stdout=subprocess.DEVNULL
            )
            found[name].append(time.perf_counter() - started)
    return found


def report(title: str, unit: str, found: dict[str, list[float]], *, larger: bool) -> None:
    """Print the medians, and the ratio to the first."""
    first = next(iter(found))
    for name, values in found.items():
        ratios = [b / a if larger else a / b for a, b in zip(found[first], values, strict=True)]
        print(
            f"{title:<22} {name:<9} {statistics.median(values):8.2f} {unit:<8} {statistics.median(ratios):5.2f} times "
            f"{first} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
