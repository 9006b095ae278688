"""Make a corpus of hostile posts: images, texts, tables and raw data sets that are broken, odd, or meant to harm.

    python scripts/make_hostile_posts.py OUT [--count 11000] [--tables 350] [--rows 1000000] [--seed 0]

Written are, in the new folder OUT (and beside it OUT-outside, which links and paths of the corpus lead to):

- `images/` with one file for each hostile image, and `images.csv`, which has a row for each;
- `texts.jsonl` with hostile texts and `places.jsonl` with hostile image cells (paths, links, devices, URLs, base64);
- `tables/` with whole files where a posts table should be, `raw/mvsa` and `raw/hateful_memes` for the importers;
- `many_rows.csv`, of as many short posts as `--rows` says;
- `posts.csv`, sound posts to train on;
- `manifest.jsonl`: for each input `file` and `row` (none for a whole file), its `id`, the `kind` of fault, and what is
  `expected`: "read" (it can be used), "named" (refused, by its row or file), "either".

The same seed gives the same files, as far as the same Pillow encodes the same bytes. Nothing in the corpus runs by
itself; bombs are some MB on disk and gigabytes once unpacked. `benchmarks/hostile.py` takes all of it through cotune.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from hostile.cases import CellCase, ImageCase
from hostile.images import encoded, image_cases, mutants, photo
from hostile.places import make_places
from hostile.raw import write_hateful_memes, write_mvsa
from hostile.tables import as_csv, good_rows, mutated_tables, table_cases, write_many_rows, write_odd_files
from hostile.texts import random_texts, text_cases

_TEXT, _LABELS = "good happy sun day", ("pos", "neg")


def main() -> None:
    """Read the options and write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=11_000, help="images and texts that are changed at random")
    parser.add_argument("--tables", type=int, default=350, help="tables that are changed at random")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of many_rows.csv; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    kinds = make_corpus(args.out, count=args.count, tables=args.tables, rows=args.rows, seed=args.seed)
    for kind, number in sorted(kinds.items()):
        print(f"{number:>7,}  {kind}")
    print(f"{sum(kinds.values()):>7,}  inputs in {args.out}")


def make_corpus(
    out: Path, *, count: int, tables: int, rows: int, seed: int = 0, longest: int = 10_000_000, bomb: int = 2**28
) -> Counter[str]:
    """Write the corpus; return how many inputs there are of each kind.

    Parameters
    ----------
    out : Path
        A folder that does not exist yet.
    count : int
        Images and texts that are changed at random, nine in ten of them images.
    tables : int
        Tables that are changed at random.
    rows : int
        Rows of the large table; 0 for none.
    seed : int
        Of everything random.
    longest : int
        Characters of the longest texts.
    bomb : int
        Bytes that packed tables unpack to.
    """
    (out / "images").mkdir(parents=True)
    (out / "tables").mkdir()
    manifest = _Manifest(out)
    made = [*image_cases(seed), *mutants(seed, count * 9 // 10)]
    texts = [*text_cases(seed, longest=longest), *random_texts(seed, count - count * 9 // 10)]
    _write_images(out, made, manifest)
    manifest.cells("texts.jsonl", "text", texts)
    manifest.cells("places.jsonl", "image", make_places(out / "places", seed))
    sound, folder = "good.png", out / "tables"
    (folder / sound).write_bytes(encoded(photo(seed), "PNG"))
    for case in (*table_cases(sound, seed, bomb=bomb), *mutated_tables(sound, seed, tables)):
        (folder / case.name).write_bytes(case.data)
        manifest.add(f"tables/{case.name}", None, case.name, case.kind, case.expected)
    for case in write_odd_files(folder, good_rows(sound)):
        manifest.add(f"tables/{case.name}", None, case.name, case.kind, case.expected)
    some = [*made[:400], *islice(made, 400, None, 40)]
    short = [case for case in texts if not isinstance(case.value, str) or len(case.value) <= longest // 100]
    for name, write in (("mvsa", write_mvsa), ("hateful_memes", write_hateful_memes)):
        for row in range(write(out / "raw" / name, some, short)):
            manifest.add(f"raw/{name}", row + 1, None, f"raw data set: {name}", "either")
    _write_sound(out, seed)
    if rows:
        write_many_rows(out / "many_rows.csv", rows, [f"sound/{i}.png" for i in range(6)])
        manifest.add("many_rows.csv", None, None, "table: many rows", "read")
    return manifest.write()


class _Manifest:
    """Gathers what the corpus holds."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.lines: list[dict[str, Any]] = []

    def add(self, file: str, row: int | None, identity: str | None, kind: str, expected: str) -> None:
        self.lines.append({"file": file, "row": row, "id": identity, "kind": kind, "expected": expected})

    def cells(self, file: str, field: str, cases: Iterable[CellCase]) -> None:
        """Write a table of cells of one field; half of the posts have the other field as well."""
        other = {"text": "image", "image": "text"}[field]
        sound = {"text": _TEXT, "image": "places/good.png"}[other]
        with (self.out / file).open("w", encoding="utf-8", newline="\n") as handle:
            for row, case in enumerate(cases, start=1):
                post = {
                    "id": case.name,
                    field: case.value,
                    other: sound if row % 2 else None,
                    "label": _LABELS[row // 2 % 2],
                }
                handle.write(json.dumps(post) + "\n")
                self.add(file, row, case.name, case.kind, case.expected)

    def write(self) -> Counter[str]:
        with (self.out / "manifest.jsonl").open("w", encoding="utf-8", newline="\n") as handle:
            handle.writelines(json.dumps(line) + "\n" for line in self.lines)
        return Counter(line["kind"] for line in self.lines)


def _write_images(out: Path, cases: Iterable[ImageCase], manifest: _Manifest) -> None:
    rows = []
    for row, case in enumerate(cases, start=1):
        (out / "images" / case.name).write_bytes(case.data)
        text = f"{_TEXT} {row}" if row % 2 else ""
        rows.append({"id": case.name, "text": text, "image": f"images/{case.name}", "label": _LABELS[row // 2 % 2]})
        manifest.add("images.csv", row, case.name, case.kind, case.expected)
    (out / "images.csv").write_bytes(as_csv(rows))


def _write_sound(out: Path, seed: int) -> None:
    """Write posts to train a first model on, which nothing is wrong with."""
    (out / "sound").mkdir()
    rows = good_rows("", 60)
    for i, row in enumerate(rows):
        row["image"] = f"sound/{i}.png"
        (out / row["image"]).write_bytes(encoded(photo(seed + 1_000 + i), "PNG"))
    (out / "posts.csv").write_bytes(as_csv(rows))


if __name__ == "__main__":
    main()
