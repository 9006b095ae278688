"""What a model says of the text alone, and of the image alone, against what people said of them.

    python benchmarks/more_labels.py train posts.csv --out CELLS --rows plain,annotated
    python benchmarks/human_labels.py posts.csv --out CELLS

Annotators of MVSA labelled the text and the image of a post each on its own. Every post is scored out of fold, with the
other field taken away (the head's learned absence), and its answer set against both labels: that of the field that
was left, and that of the other one. A plain model has learned the post's class alone; an annotated one has learned the
labels of fields, and answers with those. Then how well scores of conflict find the posts whose labels contradict each
other (positive against negative). Intervals: 2,000 resamples of the posts; of several seeds, the mean score.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from label_cells import FIELDS, SEED, CellFolder, Lab, read_labelled
from label_tables import Drawn, Model, accuracy_of, auc_of, first_of, of_seeds, p_value, signed, written

from cotune.settings import FitConfig


def fields_table(lab: Lab, models: Sequence[Model]) -> list[str]:
    """Return what each model says of a field alone, against people's labels of each field."""
    head = ["model", "reads", "people's label of", "AUC", "accuracy", "posts"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for model in models:
        at = posts_of(lab, model)
        for view in FIELDS:
            own = model.of_field(view, view)[:, at]
            for field in (view, *(name for name in FIELDS if name != view)):
                truth = lab.labelled.marks[field][at]
                cells = [written(score(truth, own).estimate) for score in (auc_of, accuracy_of)]
                lines.append(f"| {model.title} | {view} alone | {field} | {' | '.join(cells)} | {len(at):,} |")
    return lines


def conflicts_table(lab: Lab, models: Sequence[Model]) -> list[str]:
    """Return how well scores find the posts whose labels contradict each other."""
    head = ["model", "score", "AUC", "precision of the first 50", "AUC minus the first row's", "p", "conflicts"]
    lines, first = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"], None
    for model in models:
        at = posts_of(lab, model)
        truth = (lab.labelled.y[at] < 0).astype(np.int64)
        for name, scores in conflict_scores(model).items():
            found = auc_of(truth, scores[:, at])
            cells = [written(found.estimate), written(first_of(truth, scores[:, at]).estimate, 3)]
            cells += against(found, first)
            first = first or found
            lines.append(f"| {model.title} | {name} | {' | '.join(cells)} | {truth.sum():,} of {len(at):,} |")
    return lines


def against(found: Drawn, first: Drawn | None) -> list[str]:
    """Return the difference from another score of the same posts, and its p-value; blanks where they differ."""
    if first is None or len(first.draws) != len(found.draws):
        return ["", ""]
    difference, p = found.minus(first)
    return [signed(difference), p_value(p)]


def conflict_scores(model: Model) -> dict[str, np.ndarray]:
    """Return the scores of conflict that a model has, each of shape (S, N)."""
    alone = [model.of_field(field, field) for field in FIELDS]
    classes = list(model.task.outputs)
    low, high = classes.index("negative"), classes.index("positive")
    opposed = alone[0][..., low] * alone[1][..., high] + alone[0][..., high] * alone[1][..., low]
    found = {"conflict of contributions (`explain --find conflicts`)": model.pull}
    found["each field alone, one positive and the other negative"] = opposed
    learned = model.conflict()
    return found if learned is None else {**found, "probability of a contradiction": learned}


def posts_of(lab: Lab, model: Model) -> np.ndarray:
    """Return the posts of a model's finished folds, those without a class among them."""
    return np.flatnonzero(np.isin(lab.labelled.fold, model.folds))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of cells")
    parser.add_argument("--seeds", type=int, default=4, help="trainings of each kind, from seed 42 on")
    args = parser.parse_args()
    lab = Lab(read_labelled(args.posts, args.out / "folds.csv"), FitConfig(), CellFolder(args.out))
    seeds = [SEED + i for i in range(args.seeds)]
    found = [of_seeds(lab, row, seeds, row) for row in ("plain", "annotated")]
    models = [model for model in found if model is not None]
    if not models:
        raise SystemExit(f"{args.out} holds no cells yet")
    print(f"{', '.join(f'{model.title}: {len(model.pull)} seeds' for model in models)}\n")
    for lines in (fields_table(lab, models), conflicts_table(lab, models)):
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
