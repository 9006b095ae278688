"""Do texts without images help? Labelled ones as further posts, unlabelled ones to adapt the text encoder.

    python benchmarks/more_texts.py prepare posts.csv --texts MVSA_Multiple --out other.csv
    python benchmarks/more_texts.py train posts.csv --also other.csv --out DIR --seeds 42,43 [--workers 4]
    python benchmarks/more_texts.py table DIR

`prepare` makes a table for `--also` of the texts of MVSA-Multiple: `label:text` has the votes of its three annotators.
Texts that stand among the posts are left out. `train` trains each row on grouped folds cut with seed 7, not those of
the figures that are reported, and keeps the predictions of each fold in DIR; a stopped run goes on. Rows are joined
with `+` of `plain`, `texts` (all of them), `agreed` (those on which all annotators agree), each perhaps with a weight
as in `texts@0.2`, and `mlm` (the text encoder adapted by masked language modelling first, see adapt_texts.py).
Posts may have labels of fields (`cotune import mvsa --annotations`, with `--set rule=xu-mao`) or a class alone.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from adapt_texts import adapt, texts_of
from cells import Cell, Cells, run, table

from cotune.benchmark.bench import computed
from cotune.cli.settings import key_values
from cotune.data.also import is_own, with_also
from cotune.data.duplicates import text_key
from cotune.data.posts import ColumnNames, data_hash, read_posts
from cotune.files import write_text
from cotune.progress import Progress
from cotune.settings import FitConfig, make_config
from cotune.tasks import Task
from cotune.training.build import open_encoders, prepare_posts
from cotune.training.device import training_device
from cotune.training.features import Features
from cotune.training.fit import learn_task
from cotune.training.model_rows import predict_rows
from cotune.training.trainer import Trainer
from cotune.training.training_data import TrainingData

ROWS = {
    "plain": "posts alone",
    "texts@0.2": "+ texts, weight 0.2",
    "texts": "+ texts",
    "agreed": "+ texts that annotators agree on",
    "mlm": "text encoder adapted first",
    "mlm+texts@0.2": "adapted first, + texts, weight 0.2",
}
LABEL = "label:text"


def prepare(args: argparse.Namespace) -> None:
    """Write the table of further texts, and print what they are like."""
    posts = read_posts(args.posts)
    known = {text_key(text) for text in posts["text"]}
    texts = pd.read_csv(args.texts / "texts.csv", dtype={"id": str}, keep_default_na=False)
    raw = pd.read_csv(args.texts / "labelResultAll.txt", sep="\t", dtype=str).set_index("ID")
    votes = raw.apply(lambda row: "|".join(cell.partition(",")[0].strip() for cell in row.dropna()), axis=1)
    texts[LABEL] = texts["id"].map(votes)
    keys = texts["text"].map(text_key)
    left_out = {
        "without a label": texts[LABEL].isna(),
        "without a text": texts["text"].str.strip() == "",
        "standing among the posts": keys.isin(known - {""}),
        "repeated": keys.duplicated() & (keys != ""),
    }
    use = ~np.any(list(left_out.values()), axis=0)
    found = texts[use]
    write_text(args.out, found.to_csv(index=False))
    each = found[LABEL].str.split("|")
    all_votes = Counter(vote for row in each for vote in row)
    print(f"{len(texts):,} texts, {len(found):,} kept")
    for why, which in left_out.items():
        print(f"  {int(which.sum()):,} {why}")
    print("votes: " + ", ".join(f"{n / all_votes.total():.1%} {name}" for name, n in all_votes.most_common()))
    majority = Counter(name for row in each for name, n in Counter(row).items() if n > len(row) / 2)
    print("majority: " + ", ".join(f"{n / len(found):.1%} {name}" for name, n in majority.most_common()), end="")
    print(f", {1 - majority.total() / len(found):.1%} none")
    print(f"all annotators agree on {np.mean([len(set(row)) == 1 for row in each]):.1%}")


@dataclass
class Prepared:
    """What trainings share: posts and texts as one table, prepared for each text encoder."""

    cells: Cells
    posts: pd.DataFrame
    config: FitConfig
    task: Task
    adapted: Path
    features: dict[str, Features] = field(default_factory=dict)

    @cached_property
    def data_of_posts(self) -> dict[str, Any]:
        """What trainings on posts alone learn."""
        return {"targets": self.cells.folds.targets, "learned": self.cells.folds.learned()}

    @cached_property
    def data_of_all(self) -> dict[str, Any]:
        """What trainings on posts and texts learn."""
        targets = self.task.encode(self.posts["label"].tolist())
        return {"targets": targets, "learned": self.task.learned(self.posts)}

    def of(self, config: FitConfig) -> Features:
        """Return the posts prepared for a text encoder, and all stored that trainings read of it."""
        if config.text_encoder not in self.features:
            found = prepare_posts(self.posts, open_encoders(config, self.posts), config)
            self.features[config.text_encoder] = computed(found, config)
        return self.features[config.text_encoder]

    def configure(self, row: str) -> FitConfig:
        """Return the settings of a row."""
        update = {"text_encoder": str(self.adapted)} if "mlm" in row.split("+") else {}
        return self.config.model_copy(update=update)

    def further(self, row: str) -> np.ndarray:
        """Return how much each text counts, shape (posts and texts,); 0 for posts and what is not trained on."""
        found = np.zeros(len(self.posts))
        for part in row.split("+"):
            name, _, weight = part.partition("@")
            if name in ("texts", "agreed"):
                votes = [set(str(cell).split("|")) for cell in self.posts[LABEL]]
                use = ~is_own(self.posts) & np.asarray([name == "texts" or len(each) == 1 for each in votes])
                found[use] = float(weight or 1)
        return found


def setup(out: str, posts_path: str, also: str, settings: dict[str, Any], rows: Sequence[str]) -> Prepared:
    """Read and prepare what all cells share."""
    cells, config = Cells.open(Path(out)), make_config(settings)
    names = ColumnNames(fields=config.read_fields())
    posts = read_posts(posts_path, columns=names)
    places = {str(identity): i for i, identity in enumerate(posts["id"])}
    posts = posts.iloc[[places[str(identity)] for identity in cells.folds.ids]].reset_index(drop=True)
    joined = with_also(cells.folds.task.complete(posts), [also], names)
    prepared = Prepared(cells, joined, config, learn_task(joined, config, Progress()), Path(out) / "adapted")
    for row in rows:
        prepared.of(prepared.configure(row))
    return prepared


def train(state: Prepared, cell: Cell) -> tuple[np.ndarray, dict[str, Any]]:
    """Train one row without one fold, and return its classes' probabilities of that fold's posts."""
    folds, config = state.cells.folds, state.configure(cell.row)
    features, counts = state.of(config), state.further(cell.row)
    config = config.model_copy(update={"seed": cell.seed})
    rows, test = folds.train(cell.fold), folds.test(cell.fold)
    if counts.any():
        task, weights = state.task, np.where(is_own(state.posts), 1.0, counts)
        rows = np.concatenate([rows, np.flatnonzero(counts)])
        data = TrainingData(features, rows=rows, weights=weights, **state.data_of_all)
    else:
        task, data = folds.task, TrainingData(features, rows=rows, **state.data_of_posts)
    trained = Trainer(data, task, config).fit()
    found = predict_rows(trained.model, task, features, test, trained.source)
    return found[:, : len(folds.task.outputs)], {"trained_on": len(data.rows)}


def train_all(args: argparse.Namespace) -> None:
    """Train every cell that is not there yet, and print the table."""
    settings = {"device": args.device, **key_values(args.set)}
    config = make_config(settings)
    names = ColumnNames(fields=config.read_fields())
    posts = read_posts(args.posts, columns=names)
    if args.limit and args.limit < len(posts):
        posts = posts.sample(args.limit, random_state=42).reset_index(drop=True)
    made_of = {
        "settings": config.model_dump(mode="json", exclude={"cache", "cache_gb", "device", "engine", "precision"}),
        "texts": data_hash(read_posts(args.also, columns=replace(names, partial=True)), config.read_fields()),
        "adapted by": {"epochs": args.mlm_epochs, "lr": args.mlm_lr},
    }
    cells, _ = Cells.begin(args.out, posts, config, folds=args.folds, seed=args.fold_seed, made_of=made_of)
    only = None if args.only_folds is None else [int(fold) for fold in args.only_folds.split(",")]
    todo = cells.todo(args.rows, [int(seed) for seed in args.seeds.split(",")], only)
    adapted = args.out / "adapted"
    if any("mlm" in cell.row.split("+") for cell in todo) and not adapted.exists():
        device = training_device(config).type
        for name, value in adapt(
            texts_of(args.also), adapted, encoder=config.text_encoder, epochs=args.mlm_epochs, lr=args.mlm_lr,
            device=device,
        ).items():  # fmt: skip
            print(f"  {name.replace('_', ' ')}: {value:,.4g}")
    given = (str(args.out), str(args.posts), str(args.also), settings, sorted({cell.row for cell in todo}))
    done = run(cells, todo, setup, given, train, workers=args.workers)
    print(table(cells, ROWS))
    raise SystemExit(not done)


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("prepare", help="make the table of further texts")
    one.add_argument("posts", type=Path)
    one.add_argument("--texts", type=Path, required=True, help="folder with texts.csv and labelResultAll.txt")
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(run=prepare)
    two = commands.add_parser("train", help="train the cells that are not there yet")
    two.add_argument("posts", type=Path)
    two.add_argument("--also", type=Path, required=True)
    two.add_argument("--out", type=Path, required=True)
    two.add_argument("--rows", type=lambda given: given.split(","), default=list(ROWS))
    two.add_argument("--seeds", default="42")
    two.add_argument("--folds", type=int, default=10)
    two.add_argument("--fold-seed", type=int, default=7)
    two.add_argument("--only-folds", help="such as 0,1; all by default")
    two.add_argument("--workers", type=int, default=1)
    two.add_argument("--device", default="auto")
    two.add_argument("--set", action="append", help="a setting of training, such as rule=xu-mao or precision=bf16")
    two.add_argument("--mlm-epochs", type=int, default=3)
    two.add_argument("--mlm-lr", type=float, default=5e-5)
    two.add_argument("--limit", type=int, help="take a random part of the posts")
    two.set_defaults(run=train_all)
    three = commands.add_parser("table", help="compare the rows of a folder")
    three.add_argument("out", type=Path)
    three.add_argument("--against", default="plain")
    three.set_defaults(run=lambda args: print(table(Cells.open(args.out), ROWS, against=args.against)))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
