"""Posts tables for the tasks beside classes: several labels a post, and numbers.

    python benchmarks/task_tables.py --mvsa RAW --out DIR
    cotune bench DIR/two_labels.csv --out DIR/two_labels --methods joint,text,image,svm --folds 5 --emap 0
    cotune bench DIR/ratings.csv --out DIR/ratings --methods joint,text,image,svm --emap 0

``two_labels.csv`` holds MVSA's two annotations of each post as one target of four labels: whether the text is positive,
whether it is negative, and the same for the image; contradicting posts are in it. ``ratings.csv`` holds the demo's
tweets, each with its emoji, and as the target the mean of twenty people's ratings of the tweet (VADER).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import pandas as pd

from cotune.demo.posts import demo_posts_path


def two_labels(raw: Path) -> pd.DataFrame:
    """Return MVSA-Single with both annotations as labels; posts whose text or image file is missing are left out."""
    rows = []
    for line in (raw / "labelResultAll.txt").read_text(encoding="utf-8").splitlines()[1:]:
        number, _, votes = line.partition("\t")
        annotations = dict(zip(("text", "image"), votes.strip().split(","), strict=True))
        text, image = (raw / "data" / f"{number}.{kind}" for kind in ("txt", "jpg"))
        if text.is_file() and image.is_file():
            labels = [f"{of} {word}" for of, word in annotations.items() if word != "neutral"]
            words = text.read_bytes().decode("utf-8", "replace").strip()
            rows.append({"id": number, "text": words, "image": str(image.resolve()), "label": "|".join(labels) or "|"})
    return pd.DataFrame(rows)


def ratings() -> pd.DataFrame:
    """Return the demo's posts with the ratings of their tweets as labels."""
    path = demo_posts_path()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return pd.DataFrame(
        {
            "id": [row["id"] for row in rows],
            "text": [row["text"] for row in rows],
            "image": [str(path.parent / row["image"]) for row in rows],
            "label": [row["text_rating"] for row in rows],
            "group": [row["group"] for row in rows],
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mvsa", type=Path, help="folder of the raw MVSA-Single; without it ratings.csv alone is made")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {"ratings": ratings()} | ({} if args.mvsa is None else {"two_labels": two_labels(args.mvsa)})
    for name, table in tables.items():
        table.to_csv(args.out / f"{name}.csv", index=False)
        print(f"{args.out / name}.csv: {len(table):,} posts")


if __name__ == "__main__":
    main()
