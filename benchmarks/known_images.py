"""How well `--known` finds images again after changes, and how often it takes one image for another.

    python benchmarks/known_images.py posts.csv --out known --sample 1000 --seed 0

Of a sample of the images each is changed in several ways, encoded again, and looked for among the hashes of all images;
found means that its own image, or one that is a near-duplicate of it, is the nearest within the distance. False
matches are pairs of different images: both with a telling hash, and in no common group of near-duplicates by image,
text or chain (at 4 bits; copies that differ more count as false, and the nearest pairs are shown). Then the time to
look for an image among a million hashes, with a loop over all for comparison.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps

from cotune.data.duplicates import Fingerprint, fingerprints, near_duplicate_groups
from cotune.data.hash_index import HashIndex, popcount
from cotune.data.images.appearance import NO_HASH, Appearance
from cotune.data.images.load import ImageFault, load_image
from cotune.data.known_images import telling_look
from cotune.data.posts import read_posts
from cotune.environment import environment
from cotune.files import write_json
from cotune.progress import TerminalProgress

DISTANCES = (0, 2, 4, 6, 8, 10, 12, 16)


def _cropped(image: Image.Image, part: float) -> Image.Image:
    across, down = round(image.width * part / 2), round(image.height * part / 2)
    return image.crop((across, down, image.width - across, image.height - down))


def _captioned(image: Image.Image) -> Image.Image:
    bar = max(24, image.height // 6)
    found = Image.new("RGB", (image.width, image.height + bar), "white")
    found.paste(image, (0, bar))
    ImageDraw.Draw(found).text((10, bar // 3), "when you see it again", fill="black", font_size=max(10, bar // 2))
    return found


def _written_on(image: Image.Image) -> Image.Image:
    found = image.copy()
    size = max(10, image.height // 10)
    ImageDraw.Draw(found).text((image.width // 10, image.height - 2 * size), "WHEN YOU SEE IT AGAIN", fill="white",
                               stroke_width=2, stroke_fill="black", font_size=size)  # fmt: skip
    return found


def _at(image: Image.Image, long: int) -> Image.Image:
    scale = long / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "the same file format, quality 95": (lambda image: image, 95),
    "JPEG quality 30": (lambda image: image, 30),
    "resized to 320 pixels": (lambda image: _at(image, 320), 85),
    "resized to 128 pixels": (lambda image: _at(image, 128), 85),
    "squeezed to a square": (lambda image: image.resize((300, 300)), 85),
    "grey": (lambda image: image.convert("L").convert("RGB"), 85),
    "brighter by a quarter": (lambda image: image.point(lambda value: min(255, value * 5 // 4)), 85),
    "words written on it": (_written_on, 85),
    "cropped by 2 %": (lambda image: _cropped(image, 0.02), 85),
    "cropped by 5 %": (lambda image: _cropped(image, 0.05), 85),
    "cropped by 10 %": (lambda image: _cropped(image, 0.10), 85),
    "border of 5 %": (lambda image: ImageOps.expand(image, round(max(image.size) * 0.05), "black"), 85),
    "caption bar above": (_captioned, 85),
    "mirrored": (ImageOps.mirror, 85),
    "turned by 3 degrees": (lambda image: image.rotate(3), 85),
}


def changed(image: Image.Image, how: Callable[[Image.Image], Image.Image], quality: int) -> bytes:
    """Return a changed image as a JPEG file."""
    file = io.BytesIO()
    how(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for known_images.json")
    parser.add_argument("--sample", type=int, default=1000, help="images that are changed; 0 to measure time alone")
    parser.add_argument("--known", type=int, default=1_000_000, help="hashes that time is measured with")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(given)
    random = np.random.default_rng(args.seed)
    if not args.sample:
        print(_times(args.known, random.integers(1, 2**64, 200, dtype=np.uint64), random))
        return
    posts = read_posts(args.posts)
    progress = TerminalProgress()
    with progress.counter("reading images") as step:
        marks = fingerprints(posts["image"], progress=step)
    groups = near_duplicate_groups(posts, hashes=marks)
    looks = np.asarray([telling_look(mark) for mark in marks], dtype=np.uint64)
    there = np.flatnonzero(looks != NO_HASH)
    some = np.sort(random.choice(there, min(args.sample, len(there)), replace=False))
    found = _recall(posts, looks, groups, there, some, progress)
    false = _false(looks[there], groups[there], posts["id"].to_numpy()[there])
    timed = _times(args.known, looks[some], random)
    about = {k: v for k, v in environment(args.seed, "", "cpu").items() if k != "data_hash"}
    result = {"images": int(sum(mark is not None for mark in marks)), "telling": len(there), "sampled": len(some),
              "found": found, "false": false, "time": timed, "environment": about}  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "known_images.json", result)
    print(f"{result['images']:,} images, {len(there):,} with a telling hash; {len(some):,} changed")
    print(f"| found within | {' | '.join(map(str, DISTANCES))} |\n|---|{'---|' * len(DISTANCES)}")
    for how, parts in found.items():
        print(f"| {how} | {' | '.join(f'{part:.1%}' for part in parts)} |")
    print(f"| false pairs of {false['pairs']:,} | {' | '.join(f'{n:,}' for n in false['counts'])} |")
    print(f"| images with a false match | {' | '.join(f'{n:.2%}' for n in false['images'])} |")
    print(f"nearest false pairs: {false['nearest']}\n{timed}\n{about}")


def _recall(
    posts: pd.DataFrame, looks: np.ndarray, groups: np.ndarray, there: np.ndarray, some: np.ndarray, progress: Any
) -> dict[str, list[float]]:
    """Return by change the share that is found within each distance."""
    index = HashIndex(looks[there], DISTANCES[-1])
    hits = {how: np.zeros(len(DISTANCES)) for how in CHANGES}
    for row in progress.track(some.tolist(), "changing images", len(some)):
        try:
            image = load_image(posts["image"].iloc[row]).convert("RGB")
        except ImageFault:
            continue
        for how, (change, quality) in CHANGES.items():
            with Image.open(io.BytesIO(changed(image, change, quality))) as file:
                look = telling_look(Fingerprint.of("", Appearance.of(file.convert("RGB"))))
            if look == NO_HASH:
                continue
            place, apart = index.nearest(np.asarray([look], dtype=np.uint64))
            if place[0] >= 0 and groups[there[place[0]]] == groups[row]:
                hits[how] += apart[0] <= np.asarray(DISTANCES)
    return {how: (found / len(some)).tolist() for how, found in hits.items()}


def _false(looks: np.ndarray, groups: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    """Count pairs of different images within each distance."""
    counts, images = np.zeros(len(DISTANCES), int), np.zeros((len(DISTANCES), len(looks)), bool)
    nearest, pairs = [], 0
    for i in range(len(looks)):
        other = np.flatnonzero(groups != groups[i])
        apart = popcount(looks[other] ^ looks[i])
        later = other > i
        pairs += int(later.sum())
        for at, distance in enumerate(DISTANCES):
            counts[at] += int((apart[later] <= distance).sum())
            images[at, i] = bool((apart <= distance).any())
        close = np.flatnonzero(later & (apart <= 8))
        nearest += [(int(apart[j]), str(ids[i]), str(ids[other[j]])) for j in close]
    return {"pairs": pairs, "counts": counts.tolist(), "images": images.mean(axis=1).tolist(),
            "nearest": sorted(nearest)[:12]}  # fmt: skip


def _times(n: int, looks: np.ndarray, random: np.random.Generator) -> dict[str, float]:
    """Return milliseconds to look for one image among `n` hashes."""
    hashes = random.integers(1, 2**64, n, dtype=np.uint64)
    looks = looks[:200]
    found = {}
    for distance in (4, 8, 12):
        started = time.perf_counter()
        index = HashIndex(hashes, distance)
        found["index, s"] = round(time.perf_counter() - started, 2)
        found[f"{distance} bits"] = _best(lambda index=index: index.nearest(looks), len(looks))  # type: ignore[misc]
    found["all one by one"] = _best(lambda: [popcount(hashes ^ look).argmin() for look in looks[:20]], 20)
    return found


def _best(run: Callable[[], object], n: int) -> float:
    """Return milliseconds for each of `n`, the best of five times: other work on the machine only adds to them."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) / n * 1000)
    return round(min(times), 3)


if __name__ == "__main__":
    main()
