"""What labels of fields, members, distillation and soups gain: trainings kept in cells, and the tables made of them.

    python benchmarks/more_labels.py train posts.csv --out CELLS [--workers 2] [--rows plain,annotated] [--device cuda]
    python benchmarks/more_labels.py table posts.csv --out CELLS
    python benchmarks/more_labels.py pack CELLS benchmarks/results/labels/NAME

`posts.csv` has the columns `id,text,image,label,label:text,label:image` (`cotune import mvsa --annotations`); a post
whose field labels contradict each other has an empty `label`. Folds are those of `cotune bench posts.csv --folds 10`
(grouped, seed 42), see `label_cells.py`. `train` goes on where it was stopped, and trains side by side in `--workers`
processes, each of which opens the posts once; `table` trains nothing. Rows of trainings:

| row | what it trains |
|---|---|
| plain, annotated | the class label alone; labels of fields as well. One model for every fold and seed |
| few-plain, few-annotated | the same with 64 posts of each class, drawn 5 times |
| taught-plain, distilled-plain, … | members that leave out a part each, and their student: `--members K --distill` |
| soup-plain, soup-annotated | `--members K --soup` |

Members of any number K are the means of the first K seeds' probabilities, made in `table`. `--set` changes a setting
of every training; choose none on these folds (`levers.py` has others).
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cells import run
from human_labels import conflicts_table, fields_table
from label_cells import FOLDS, SEED, Cell, CellFolder, Lab, read_labelled, setup, train
from label_tables import Model, gathered, kept_records, main_table, mixed, of_members, of_seeds

from cotune.benchmark.compare import BOOTSTRAP
from cotune.environment import environment
from cotune.files import atomic_path, read_json, write_json
from cotune.settings import FitConfig, make_config
from cotune.training.device import training_device

MACHINES = "machines.txt"
ROWS = (
    "plain", "annotated", "taught-annotated", "distilled-annotated", "taught-plain", "distilled-plain", "few-plain",
    "few-annotated", "soup-annotated", "soup-plain",
)  # fmt: skip


def cells_of(row: str, args: argparse.Namespace) -> list[Cell]:
    """Return the cells of a row of trainings, fold by fold within a seed."""
    folds = range(args.folds)
    if row.startswith("few"):
        return [Cell(row, fold, shots=args.shots, draw=draw) for draw in range(args.draws) for fold in folds]
    if row.startswith("taught"):
        of = range(args.members)
        return [Cell(row, fold, members=args.members, member=i) for i in of for fold in folds]
    if row.startswith(("distilled", "soup")):
        return [Cell(row, fold, members=args.members) for fold in folds]
    return [Cell(row, fold, seed) for seed in args.seeds for fold in folds]


def in_turns(args: argparse.Namespace) -> list[Cell]:
    """Return all cells: rows in their order, but the first seed of all single trainings before the second."""
    cells = [cell for row in args.rows for cell in cells_of(row, args)]
    of_single = sorted((cell for cell in cells if cell.kind == "single"), key=lambda cell: cell.seed)
    return [*of_single, *(cell for cell in cells if cell.kind != "single")]


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of training that the flags name."""
    named = {"text_encoder": args.text_encoder, "image_encoder": args.image_encoder, "tune": args.tune}
    settings = {name: value for name, value in named.items() if value is not None}
    settings |= {"epochs": args.epochs, "min_epochs": args.epochs} if args.epochs else {}
    settings |= dict(pair.split("=", 1) for pair in args.set)
    return {**settings, "device": args.device, "precision": args.precision}


def train_all(args: argparse.Namespace) -> None:
    """Train what is not finished."""
    args.out.mkdir(parents=True, exist_ok=True)
    settings = settings_of(args)
    about = {name: value for name, value in settings.items() if name not in ("device", "precision")}
    kept = args.out / "settings.json"
    if not kept.exists():
        write_json(kept, about)
    elif read_json(kept) != about:
        raise SystemExit(f"{args.out} holds cells of other settings; name another folder")
    note_machine(args.out, training_device(make_config(settings)).type)
    folder = CellFolder(args.out)
    todo = [cell for cell in in_turns(args) if not folder.has(cell)]
    shared = (args.posts, args.out, settings, time.time() + 60 * args.minutes)
    run(folder, todo, setup, shared, train, workers=args.workers)  # type: ignore[arg-type]  # keeps more than `Cells`


def table(args: argparse.Namespace) -> None:
    """Print the tables of what is finished."""
    lab = Lab(read_labelled(args.posts, args.out / "folds.csv"), FitConfig(), CellFolder(args.out))
    single = {row: of_seeds(lab, row, args.seeds, f"{row}, one training") for row in ("plain", "annotated")}
    kept = None if args.kept is None else kept_records(lab, args.kept, f"plain, one training, {args.kept.name}")
    models = [model for model in [kept, *single.values(), *several(lab, single, args)] if model is not None]
    few = [gathered(lab, row, [few_cell(row, args.shots, draw) for draw in range(args.draws)]) for row in FEW]
    anchor = single["plain"] or kept
    if not any([*single.values(), *few]):
        raise SystemExit(f"{args.out} holds no cells yet")
    counts = ", ".join(f"{row} {len(model.pull)}" for row, model in single.items() if model is not None)
    print(f"seeds of single trainings (scores are means over them): {counts}\n")
    if models:
        print("\n".join(main_table(lab, models, anchor)), end="\n\n")
    known = [model for model in few if model is not None]
    if known:
        print(f"{args.shots} posts of each class, mean of {args.draws} draws\n")
        print("\n".join(main_table(lab, known, known[0])), end="\n\n")
    people = [replace(model, title=row) for row, model in single.items() if model is not None]
    more = [model for model in models if model.title.startswith(("annotated, mean of", "annotated, distilled"))]
    people += [model for model in more if not model.title.endswith("cross-fitted")][-2:]
    for lines in (fields_table(lab, people), conflicts_table(lab, people)) if people else ():
        print("\n".join(lines), end="\n\n")
    print(about_cells(lab, args.out))


def pack(args: argparse.Namespace) -> None:
    """Write what tables read of a folder into a small one."""
    CellFolder(args.out).pack(args.to)
    for name in ("folds.csv", MACHINES, "settings.json"):
        if (args.out / name).exists():
            shutil.copy(args.out / name, args.to / name)


def about_cells(lab: Lab, out: Path) -> str:
    """Return a line about the posts, the cells and the machines that trained them."""
    cells = lab.folder.every()
    hours = sum(float(cell["seconds"]) for cell in cells.values()) / 3600
    machines = (out / MACHINES).read_text(encoding="utf-8").splitlines() if (out / MACHINES).exists() else []
    n, without = len(lab.labelled.y), int((lab.labelled.y < 0).sum())
    return (
        f"{n:,} posts, {without:,} without a class; {len(cells):,} cells, {hours:.2f} hours of single processes; "
        f"{'; '.join(machines)}. Intervals and tests over posts: {BOOTSTRAP:,} paired resamples; over folds: corrected "
        "resampled t-test."
    )


def note_machine(out: Path, device: str) -> None:
    """Note which machine trains, once."""
    about = environment(SEED, None, device)
    line = f"{about['gpu'] or about['processor']}, torch {about['packages']['torch']}, cotune {about['cotune']}"
    file = out / MACHINES
    known = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    with atomic_path(file) as temporary:
        temporary.write_text("\n".join(dict.fromkeys([*known, line])) + "\n", encoding="utf-8")


def several(lab: Lab, single: dict[str, Model | None], args: argparse.Namespace) -> list[Model | None]:
    """Return what is made of several trainings: means of members, students, soups."""
    found: list[Model | None] = []
    for row, model in single.items():
        n = 0 if model is None else len(model.pull)
        for k in sorted({k for k in (2, n) if model is not None and 1 < k <= n}):
            assert model is not None
            found.append(model.first(k).mean(f"{row}, mean of {k}"))
    both = [model for model in single.values() if model is not None]
    if len(both) > 1:
        found.append(mixed(lab, both, f"mean of all {sum(len(model.pull) for model in both)}"))
    for row in single:
        taught = of_members(lab, f"taught-{row}", args.members, row)
        found.append(None if taught is None else taught.mean(f"{row}, mean of {args.members} cross-fitted"))
        found += [
            of_members(lab, f"{kind}-{row}", args.members, f"{row}, {kind} of {args.members}")
            for kind in ("distilled", "soup")
        ]
    return found


FEW = ("few-plain", "few-annotated")


def few_cell(row: str, shots: int, draw: int) -> Callable[[int], Cell]:
    """Return the training of a draw as a function of its fold."""
    return lambda fold: Cell(row, fold, shots=shots, draw=draw)


def main() -> None:
    """Train, or print what was trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training, tables = (commands.add_parser(name, help=text) for name, text in (("train", "train"), ("table", "table")))
    for command in (training, tables):
        command.add_argument("posts", type=Path)
        command.add_argument("--out", type=Path, required=True, help="folder of cells")
        command.add_argument("--folds", type=int, default=FOLDS, help="only the first so many of the ten")
        command.add_argument("--members", type=int, default=5, help="of distillation and soups")
        command.add_argument("--shots", type=int, default=64)
        command.add_argument("--draws", type=int, default=5)
        command.add_argument("--seeds", type=numbers, default=[SEED + i for i in range(4)])
    training.add_argument("--rows", type=names, default=list(ROWS))
    training.add_argument("--workers", type=int, default=1)
    training.add_argument("--minutes", type=float, default=float("inf"), help="after which no cell is begun")
    for name, value in (("device", "auto"), ("precision", "auto"), ("tune", None)):
        training.add_argument(f"--{name}", default=value)
    training.add_argument("--text-encoder")
    training.add_argument("--image-encoder")
    training.add_argument("--epochs", type=int)
    training.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="for every training")
    training.set_defaults(run=train_all)
    tables.add_argument("--kept", type=Path, help="results of `cotune bench`, such as benchmarks/results/main")
    tables.set_defaults(run=table)
    packing = commands.add_parser("pack", help="write what tables read of a folder into a small one")
    packing.add_argument("out", type=Path, help="folder of cells")
    packing.add_argument("to", type=Path)
    packing.set_defaults(run=pack)
    args = parser.parse_args()
    args.run(args)


def numbers(text: str) -> list[int]:
    """Return whole numbers from a list with commas."""
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """Return rows from a list with commas."""
    rows = text.split(",")
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no row; there are {', '.join(ROWS)}")
    return rows


if __name__ == "__main__":
    main()
