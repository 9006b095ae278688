"""Read the words in the images of a posts table, for the lever `image_text` of `benchmarks/levers.py`.

    pip install rapidocr onnxruntime
    nice -n 19 python benchmarks/read_image_text.py posts.csv --out image_text.csv

Writes the columns `id` and `image_text` (empty where no text was found), a line as soon as an image is read, so that
the same command resumes where it was stopped. One thread, a tenth of a second for an image of 256 pixels; `--side`
sets to how many pixels the shorter side is enlarged before text is looked for: fewer are faster and miss small print.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.images.load import load_image
from cotune.data.posts import read_posts
from cotune.errors import CotuneError

MOST_PIXELS = 640
"""Longer side of an image that is read; larger ones are reduced."""

SURE = 0.8
"""Lines of text below this confidence of the reader are left out."""


def main() -> None:
    """Read, and print how far it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=384)
    args = parser.parse_args()
    read_all(read_posts(args.posts), args.out, reader(args.side))


def reader(side: int) -> Callable[[np.ndarray], str]:
    """Return what turns an image, uint8 of shape (height, width, 3) in RGB, into the text on it."""
    from rapidocr import RapidOCR

    engine: Any = RapidOCR(
        params={
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Global.use_cls": False,
            "Global.log_level": "error",
            "Global.text_score": SURE,
            "Det.limit_type": "min",
            "Det.limit_side_len": side,
        }
    )

    def read(pixels: np.ndarray) -> str:
        lines = engine(np.ascontiguousarray(pixels[:, :, ::-1])).txts or ()
        return " ".join(" ".join(line for line in lines if len(line) > 1).split())

    return read


def read_all(posts: pd.DataFrame, out: Path, read: Callable[[np.ndarray], str]) -> None:
    """Append what stands on each image that `out` does not list yet; an image that cannot be opened has no text."""
    done = set(pd.read_csv(out, dtype=str)["id"]) if out.is_file() else set()
    left = posts[~posts["id"].astype(str).isin(done) & posts["image"].notna()]
    print(f"{len(done):,} images read, {len(left):,} to go", flush=True)
    started, found = time.perf_counter(), 0
    with out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not done and not file.tell():
            writer.writerow(["id", "image_text"])
        for n, (identity, image) in enumerate(zip(left["id"], left["image"], strict=True), 1):
            try:
                loaded = load_image(image, min_side=MOST_PIXELS)
                loaded.thumbnail((MOST_PIXELS, MOST_PIXELS))
                text = read(np.asarray(loaded))
            except CotuneError:
                text = ""
            writer.writerow([identity, text])
            file.flush()
            found += bool(text)
            if not n % 100 or n == len(left):
                seconds = time.perf_counter() - started
                print(f"{n:,} of {len(left):,}, text on {found / n:.0%}, {seconds / n:.2f} s an image", flush=True)


if __name__ == "__main__":
    main()
