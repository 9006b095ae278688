"""What it costs to decode images in processes of their own, against decoding them in the program itself.

Decoding alone, of the images of a table and of large photos made of them, by processes that run already; ``cotune
check`` of the whole table and ``cotune predict`` of a part of it, from their start to their end. Both ways run right
after each other, in alternating order; what is reported is the ratio of each pair, of wall time and of processor time
with that of all processes::

    python benchmarks/decode_worker.py posts.csv --check --run RUN --pairs 5 --out decode_worker.json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from cotune.data.images.decoder_pool import VARIABLE, end_decoders, in_worker
from cotune.data.images.load import decode_bytes, read_bytes
from cotune.data.posts import read_posts

WAYS = ("inline", "worker")
_SIDE = 448  # twice that of a usual image encoder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path, help="posts table with images")
    parser.add_argument("--run", type=Path, help="run to predict with, to measure `cotune predict` as well")
    parser.add_argument("--check", action="store_true", help="measure `cotune check` of the whole table as well")
    parser.add_argument("--images", type=int, default=500, help="images to decode, and posts to predict")
    parser.add_argument("--photos", type=int, default=24, help="large photos to decode")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    every = read_posts(args.posts, allow_outside=True)
    posts = every.dropna(subset=["image"]).head(args.images)
    small = [read_bytes(image) for image in posts["image"]]
    large = [photo(data) for data in small[: args.photos]]
    found: dict[str, Any] = {"threads": args.threads, "pairs": args.pairs}
    for name, images, side in (
        ("images of the table, in full", small, None),
        (f"images of the table, to {_SIDE} pixels", small, _SIDE),
        ("photos of 12 million pixels, in full", large, None),
        (f"photos of 12 million pixels, to {_SIDE} pixels", large, _SIDE),
    ):
        decoding = Decoding(images, side, args.threads)
        found[name] = {"n": len(images), "bytes": sum(map(len, images)) // len(images), **compare(decoding, args.pairs)}
        print(name, json.dumps(found[name]), flush=True)
    with TemporaryDirectory() as folder:
        part = Path(folder) / "posts.csv"
        posts.drop(columns=["row", "error"]).to_csv(part, index=False)
        commands = {}
        if args.check:
            commands["check"] = (len(every), Command("check", args.posts, "--json"))
        if args.run is not None:
            out = part.with_name("predictions.csv")
            commands["predict"] = (len(posts), Command("predict", args.run, part, "--out", out))
        for name, (n, command) in commands.items():
            found[name] = {"n": n, **compare(command, args.pairs)}
            print(name, json.dumps(found[name]), flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def photo(data: bytes) -> bytes:
    """Return a JPEG of 4000 x 3000 pixels that shows an image."""
    buffer = io.BytesIO()
    decode_bytes(data, "image").resize((4000, 3000), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


class Decoding:
    """Decodes images in threads."""

    def __init__(self, images: list[bytes], side: int | None, threads: int) -> None:
        self.images, self.side, self.threads = images, side, threads

    def __call__(self) -> tuple[float, float]:
        """Decode them all; return the seconds and the processor seconds that it took, without those of starting."""
        self._decode(self.images[: self.threads])
        end_decoders()
        used = processor_seconds()
        self._decode(self.images[: self.threads])
        end_decoders()  # their processor time counts once they have ended
        starting = processor_seconds() - used
        self._decode(self.images[: self.threads])
        started, used = time.perf_counter(), processor_seconds()
        self._decode(self.images)
        seconds = time.perf_counter() - started
        end_decoders()
        return seconds, processor_seconds() - used - (starting if in_worker() else 0)

    def _decode(self, images: list[bytes]) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            for _ in pool.map(lambda data: decode_bytes(data, "image", min_side=self.side).size, images):
                pass


class Command:
    """A command of cotune on images that lie anywhere."""

    def __init__(self, *words: str | Path) -> None:
        self.command = [sys.executable, "-m", "cotune", *map(str, words), "--allow-outside"]

    def __call__(self) -> tuple[float, float]:
        """Run the command; return its seconds and processor seconds."""
        started, used = time.perf_counter(), processor_seconds()
        subprocess.run(
            self.command,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "COTUNE_ENGINE": "torch"},
        )
        return time.perf_counter() - started, processor_seconds() - used


def compare(act: Callable[[], tuple[float, float]], pairs: int) -> dict[str, Any]:
    """Return seconds of both ways, and the ratios of the pairs: median, least and most."""
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for pair in range(pairs + 1):  # the first warms up
        for way in WAYS if pair % 2 else WAYS[::-1]:
            os.environ[VARIABLE] = way
            found = act()
            if pair:
                taken[way].append(found)
    answer: dict[str, Any] = {}
    for at, what in enumerate(("wall", "processor")):
        for way in WAYS:
            answer[f"{what}_seconds_{way}"] = round(statistics.median(each[at] for each in taken[way]), 3)
        ratios = [b[at] / a[at] for a, b in zip(taken["inline"], taken["worker"], strict=True)]
        answer[f"{what}_ratio"] = [round(f(ratios), 3) for f in (statistics.median, min, max)]
    return answer


def processor_seconds() -> float:
    """Return what this process and its children that have ended used."""
    uses = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


if __name__ == "__main__":
    main()
