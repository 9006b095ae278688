"""How fast an export predicts JPEG files end to end, beside inference alone and reading alone.

    python benchmarks/predict_pipeline.py EXPORT POSTS --n 512 --repeats 5
    python benchmarks/predict_pipeline.py EXPORT POSTS --n 128 --side 1024  # large images
    python benchmarks/predict_pipeline.py EXPORT POSTS --n 128 --side 1024 --decoders

Measured alternately, in one process: reading (decoding, tokenising), inference on what was read, and all of it from
files to a parquet table. If reading and inference share all cores, the most that can be reached is
1 / (1 / reading + 1 / inference); that is printed beside it, with the time of each step. `--decoders` instead compares
ways of decoding: milliseconds an image, and the largest change of a prediction against decoding at full size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cotune.data.images.load import load_image
from cotune.data.images.pixels import not_too_long
from cotune.data.posts import read_posts
from cotune.data.predictions import predictions_writer
from cotune.engines.sessions import installed
from cotune.environment import environment
from cotune.export.inputs import ImageReader
from cotune.export.package import open_export
from cotune.export.predictor import ExportedPredictor


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--n", type=int, default=512, help="posts with text and image")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chunk-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--side", type=int, help="put images together to squares of this side")
    parser.add_argument("--decoders", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    posts = read_posts(args.posts).dropna(subset=["text", "image"])
    posts = posts.drop_duplicates(["text", "image"]).sample(min(args.n, len(posts)), random_state=args.seed)
    posts = posts.reset_index(drop=True)
    with tempfile.TemporaryDirectory() as name:
        if args.side:
            posts = posts.assign(image=put_together(list(posts["image"]), args.side, Path(name)))
        with ExportedPredictor(open_export(args.export), engine=args.engine, batch_size=args.batch_size) as predictor:
            (decoders if args.decoders else pipeline)(predictor, posts, args)
    print({key: value for key, value in environment(args.seed, "", "cpu").items() if key != "data_hash"})
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print({"posts": len(posts), "side": args.side, "chunk": args.chunk_size, "batch": args.batch_size, "load": load,
           "cores": os.cpu_count(), **installed()})  # fmt: skip


def put_together(images: list[str], side: int, folder: Path) -> list[str]:
    """Write large JPEG files, each of several images side by side, so that they hold detail in every pixel."""
    names = []
    for i in range(len(images)):
        whole = Image.new("RGB", (side, side))
        for k in range((-(-side // 256)) ** 2):
            tile = load_image(images[(i + k) % len(images)]).resize((256, 256))
            whole.paste(tile, (256 * (k % -(-side // 256)), 256 * (k // -(-side // 256))))
        names.append(str(folder / f"{i}.jpg"))
        whole.save(names[-1], quality=90)
    return names


def pipeline(predictor: ExportedPredictor, posts: pd.DataFrame, args: argparse.Namespace) -> None:
    """Compare reading, inference, and both."""
    chunks = [posts.iloc[i : i + args.chunk_size].reset_index(drop=True) for i in range(0, len(posts), args.chunk_size)]

    def end_to_end() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "p.parquet"
            with predictions_writer(out, predictor.columns(), predictor.text_columns()) as write:
                for frame in predictor.stream(chunks):
                    with predictor.timed("write"):
                        write(frame)

    read = [predictor.read(chunk) for chunk in chunks]
    steps: dict[str, Callable[[], Any]] = {
        "reading": lambda: [predictor.read(chunk) for chunk in chunks],
        "inference": lambda: [predictor.score(each) for each in read],
        "end to end": end_to_end,
    }
    rates: dict[str, list[float]] = {name: [] for name in steps}
    seconds: dict[str, list[float]] = {}
    for repeat in range(args.repeats + 1):
        for name, step in steps.items():
            predictor.seconds.clear()
            started = time.perf_counter()
            step()
            taken = time.perf_counter() - started
            if repeat:  # the first is to warm up
                rates[name].append(len(posts) / taken)
        if repeat:
            for name, value in predictor.seconds.items():
                seconds.setdefault(name, []).append(value)
    for name, values in rates.items():
        print(f"{name:<22} {statistics.median(values):8.1f} posts/s  ({min(values):.1f} to {max(values):.1f})")
    pairs = list(zip(rates["reading"], rates["inference"], rates["end to end"], strict=True))
    for name, ratios in (
        ("end to end / inference", [both / inference for _, inference, both in pairs]),
        (
            "most possible / inference",
            [1 / (1 / reading + 1 / inference) / inference for reading, inference, _ in pairs],
        ),
    ):
        print(f"{name:<26} {statistics.median(ratios):5.3f}  ({min(ratios):.3f} to {max(ratios):.3f})")
    print("\nseconds end to end; reading and inference overlap, `wait` is inference waiting for reading")
    for name, values in seconds.items():
        print(f"{name:<10} {statistics.median(values):8.3f}")


def decoders(predictor: ExportedPredictor, posts: pd.DataFrame, args: argparse.Namespace) -> None:
    """Compare ways of decoding, in one thread."""
    name, reader = next((name, each) for name, each in predictor.readers.items() if isinstance(each, ImageReader))
    side = max(reader.steps.size)
    ways: dict[str, Callable[[bytes], Image.Image]] = {
        "Pillow, full size": lambda data: load_image(data),
        "Pillow, draft to 2 x": lambda data: load_image(data, min_side=2 * side),
        "Pillow, draft to 1.5 x": lambda data: load_image(data, min_side=3 * side // 2),
        "Pillow, draft to 1.15 x": lambda data: load_image(data, min_side=round(1.15 * side)),
        **_others(),
    }
    files = [Path(image).read_bytes() for image in posts[name]]
    first = None
    for way, decode in ways.items():
        times = {"decode": 0.0, "resize": 0.0}
        rows = []
        for data in files:
            started = time.thread_time()
            image = not_too_long(decode(data))
            between = time.thread_time()
            rows.append(reader.steps(image))
            times["decode"] += between - started
            times["resize"] += time.thread_time() - between
        read = predictor.read(posts)
        read.inputs[name].rows[:] = rows
        found = predictor.score(read).predictions
        first = found if first is None else first
        cost = "  ".join(f"{step} {1000 * taken / len(files):6.2f} ms" for step, taken in times.items())
        changes = np.abs(found - first).max(axis=1)
        same = (found.argmax(axis=1) == first.argmax(axis=1)).mean()
        print(f"{way:<26} {cost}  change: median {np.median(changes):.5f}, largest {changes.max():.5f}; "
              f"same label {same:.1%}")  # fmt: skip


def _others() -> dict[str, Callable[[bytes], Image.Image]]:
    """Return other decoders, of those that are installed."""
    found: dict[str, Callable[[bytes], Image.Image]] = {}
    try:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        def by_torchvision(data: bytes) -> Image.Image:
            pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
            return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())

        found["torchvision"] = by_torchvision
    except (ImportError, RuntimeError):
        pass
    try:
        import cv2

        def by_opencv(data: bytes) -> Image.Image:
            return Image.fromarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))

        found["OpenCV"] = by_opencv
    except ImportError:
        pass
    try:
        import simplejpeg

        found["simplejpeg"] = lambda data: Image.fromarray(simplejpeg.decode_jpeg(data))
        found["simplejpeg, to 2 x"] = lambda data: Image.fromarray(
            simplejpeg.decode_jpeg(data, min_height=448, min_width=448)
        )
    except ImportError:
        pass
    return found


if __name__ == "__main__":
    main()
