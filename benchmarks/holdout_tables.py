"""Cut a posts table into train.csv and test.csv, the same grouped 80/20 split as `holdout_split.py` uses.

    python benchmarks/holdout_tables.py posts.csv DIR

Near-duplicates (text and perceptual hash) never straddle the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cotune.data.duplicates import near_duplicate_groups
from cotune.data.posts import read_posts
from cotune.data.splits import holdout_split


def main() -> None:
    """Write both tables; their pictures stay where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    posts = read_posts(args.posts, require_labels=True)
    labels = posts["label"].astype("category").cat.codes.to_numpy()
    parts = holdout_split(labels, fraction=0.2, seed=42, groups=near_duplicate_groups(posts))
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "test"), parts, strict=True):
        posts.iloc[rows].to_csv(args.folder / f"{name}.csv", index=False)
        print(f"{len(rows):,} posts in {args.folder / name}.csv")


if __name__ == "__main__":
    main()
