"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cotune.report.numbers import SCORE_TITLES, interval, number, p_value, percent, plural, signed

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Group
    from rich.table import Table

_WORDS = 60  # letters of a text in a table
_BAR = 24  # columns of a bar
_PUSHING = 4  # words
_UNLIKE = 8  # posts
_NAMED = 3  # slices
_ALPHA = 0.05


def new_table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table; the columns in `right` are aligned to the right."""
    from rich.table import Table

    right = set(right)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row of plain text; square brackets in it are no markup."""
    from rich.text import Text

    table.add_row(*(Text(str(cell)) for cell in cells))


def score_table(found: Mapping[str, Any], title: str) -> Table:
    """Return all scores of an evaluation with their intervals."""
    header = f"{found['confidence']:.0%} interval"
    table = new_table(title, "score", "value", header, right=("value", header))
    for name, estimate in found["scores"].items():
        add_row(table, SCORE_TITLES.get(name, name), number(estimate["value"]), interval(estimate))
    return table


def evaluation_tables(found: Mapping[str, Any], title: str) -> list[Table]:
    """Return all that an evaluation measured: scores, confusion matrix, labels."""
    tables = [score_table(found, title)]
    if "confusion" in found:
        matrix = confusion_table(found["classes"], found["confusion"])
        tables += [] if matrix is None else [matrix]
    tables += [field_table(found["fields"])] if "fields" in found else []
    tables += [per_label_table(found["per_label"])] if "per_label" in found else []
    return [*tables, *([slices_table(found["slices"])] if "slices" in found else [])]


def slices_table(found: Mapping[str, Any]) -> Table:
    """Return the scores of slices, the worst first, and how they differ from the rest."""
    score = SCORE_TITLES.get(found["score"], found["score"])
    columns = ("slice", "posts", score, "interval", "to the rest", "corrected p")
    table = new_table(f"{score} by slice", *columns, right=("posts", score, "to the rest", "corrected p"))
    for row in found["rows"]:
        gap = signed(row["difference"]["value"], 3)
        cells = (number(row["score"]["value"], 3), interval(row["score"], 3), gap, p_value(row["p_adjusted"]))
        add_row(table, f"{row['by']} = {row['value']}", f"{row['n']:,}", *cells)
    table.caption = slices_note(found)
    table.caption_justify = "left"
    return table


def slices_note(found: Mapping[str, Any]) -> str:
    """Return what to know of slices: which differ beyond chance, and what was put together."""
    worse = [row for row in found["rows"] if row["p_adjusted"] is not None and row["p_adjusted"] < _ALPHA
             and row["difference"]["value"] < 0]  # fmt: skip
    named = ", ".join(f"{row['by']} = {row['value']}" for row in worse[:_NAMED])
    named += f" and {len(worse) - _NAMED:,} more" if len(worse) > _NAMED else ""
    first = f"Worse than the rest: {named}" if worse else "No slice was shown to be worse than the rest"
    how = (
        f"p < .05, corrected by Holm's method for {plural(found['tests'], 'test')}"
        if found["tests"]
        else "none was tested"
    )
    parts = [f"{first}; {how}."]
    parts += [
        f"{by}: {plural(each['values'], 'rarer value')} with {plural(each['posts'], 'post')} together."
        for by, each in found["grouped"].items()
    ]
    return " ".join([*parts, f"Slices have {found['smallest']} posts at least."])


def field_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return how well the labels of fields are told, and contradictions between them."""
    table = new_table(
        "Labels of fields", "label of", "posts", "AUC", "interval", "accuracy", right=("posts", "AUC", "accuracy")
    )
    for name, row in found.items():
        auc = (number(row["auc"]["value"]), interval(row["auc"]))
        accuracy = number(row["accuracy"]["value"]) if "accuracy" in row else ""
        add_row(table, name, f"{row['n']:,}", *auc, accuracy)
    return table


def routes_table(routes: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Return how many posts take each route, and the error to expect."""
    table = new_table(title, "route", "if", "posts", "share", "expected", right=("posts", "share"))
    for name, row in routes.items():
        add_row(table, name, row["rule"], f"{row['posts']:,}", percent(row["share"], 1), row["words"])
    return table


def members_table(about: Mapping[str, Any]) -> Table:
    """Return what several trainings that made a run gained, step by step, on posts that taught none of them."""
    title = f"What {about['count']} trainings gained"
    title += f", {plural(about['held_out'], 'held-out post')}" if "held_out" in about else ""
    table = new_table(title, "step", about["score"], about["loss"], right=(about["score"], about["loss"]))
    for row in members_rows(about):
        add_row(table, row["what"], number(row["score"]), number(row["loss"]))
    return table


def members_rows(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of that table; none where nothing was measured."""
    out_of_fold = [about["out_of_fold"]] if "out_of_fold" in about else []
    return [*out_of_fold, *about.get("steps", [])]


def left_out(counts: Mapping[str, int]) -> str:
    """Return which posts are not in the scores, nothing if all are."""
    shown = [f"{plural(n, 'post')} with {reason}" for reason, n in counts.items() if n]
    return f"left out: {', '.join(shown)}" if shown else ""


def confusion_table(classes: Sequence[str], counts: Sequence[Sequence[int]], *, most: int = 12) -> Table | None:
    """Return the confusion matrix, or nothing if it has too many classes for a terminal."""
    if len(classes) > most:
        return None
    header = "true \\ predicted"
    table = new_table("Confusion matrix (posts)", header, *classes, right=classes)
    for name, row in zip(classes, counts, strict=True):
        add_row(table, name, *(f"{n:,}" for n in row))
    return table


def probabilities_table(label: str, probabilities: Mapping[str, float], *, most: int = 20) -> Group:
    """Return the probabilities of a post's classes with a bar each, the highest first."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    table = new_table(label, "class", "probability", "", right=("probability",))
    ranked = sorted(probabilities, key=lambda name: -probabilities[name])
    for name in ranked[:most]:
        share = probabilities[name]
        bar = ProgressBar(1.0, share, width=_BAR, complete_style="cyan", finished_style="cyan")
        table.add_row(Text(name), Text(number(share)), bar)
    more = len(ranked) - most
    rest = [Text(f"... and {plural(more, 'class', 'classes')} more (--json has all)")] if more > 0 else []
    return Group(table, *rest)


def pushing_words(pushed: tuple[str, Sequence[tuple[str, float]]], field: str | None, scale: str) -> str:
    """Return a line about the words that pushed a prediction.

    Parameters
    ----------
    pushed : (str, sequence of (str, float))
        An output, and what it loses without each word, the most important word first.
    field : str or None
        Which text they are of, where a post has several.
    scale : str
        What is lost, such as log-odds.
    """
    output, words = pushed
    towards = [f"{word} {signed(lost)}" for word, lost in words if lost > 0][:_PUSHING]
    away = [f"{word} {signed(lost)}" for word, lost in words if lost < 0][:_PUSHING]
    goal = "a higher value" if scale == "value" else output
    found = [*([f"support {goal}: {', '.join(towards)}"] if towards else []),
             *([f"oppose {'it' if towards else goal}: {', '.join(away)}"] if away else [])]  # fmt: skip
    of = f" of {field}" if field else ""
    return f"words{of} that {'; that '.join(found)} ({scale} lost without the word)" if found else ""


def per_label_table(rows: Mapping[str, Mapping[str, Any]], *, most: int = 30) -> Table:
    """Return the scores of each of several labels."""
    numbers = ("posts", "AUC", "average precision", "F1", "precision", "recall", "threshold")
    table = new_table("By label", "label", *numbers, right=numbers)
    for name, row in list(rows.items())[:most]:
        cells = (row[key] for key in ("auc", "average_precision", "f1", "precision", "recall", "threshold"))
        add_row(table, name, f"{row['support']:,}", *(number(cell, 3) for cell in cells))
    return table


def run_table(about: Mapping[str, Any]) -> Table:
    """Return what a run is: its labels, posts and training."""
    metrics, fitted = about["metrics"], about["fit"]
    table = new_table(f"Run {about['run']}", "", "")
    table.show_header = False
    add_row(table, "task", about["task"])
    if about["task"] != "regression":
        add_row(table, "labels", ", ".join(about["labels"]))
    for name, field in about["fields"].items():
        columns = ", ".join(field["columns"])
        add_row(table, f"field {name}", field["kind"] + (f", read from {columns}" if columns != name else ""))
    add_row(table, "status", metrics.get("status", "unknown"))
    posts = metrics.get("posts", {})
    if posts:
        counts = ", ".join(f"{n:,} {label}" for label, n in posts.get("labels", {}).items())
        if about["task"] == "annotated" and (without := posts.get("train", 0) - sum(posts.get("labels", {}).values())):
            counts += f", {without:,} without a class"
        add_row(table, "trained on", f"{plural(posts.get('train', 0), 'post')} ({counts})")
    epochs = metrics.get("history", [])
    stages = {row["stage"]: row for row in epochs}
    for stage, row in stages.items():
        add_row(table, stage, f"{plural(row['epoch'], 'epoch')}, training loss {number(row['train_loss'])}")
    if calibration := metrics.get("calibration"):
        words = f"temperature {number(calibration['temperature'], 3)}, {plural(calibration['posts'], 'post')}"
        add_row(table, "calibrated", words)
    add_row(table, "tuning", f"{fitted['tune']}, seed {fitted['seed']} (all settings: --json)")
    return table


def parts_table(about: Mapping[str, Any]) -> Table:
    """Return the parts of a model and their numbers of parameters."""
    table = new_table("Parameters", "part", "what", "count", right=("count",))
    for name, description in about["encoders"].items():
        add_row(table, f"{name} encoder", description.get("spec", ""), f"{about['parameters'][name]:,}")
    add_row(table, "fusion head", about["head"]["name"], f"{about['parameters']['head']:,}")
    add_row(table, "total", "", f"{about['parameters']['total']:,}")
    return table


def environment_table(values: Mapping[str, Any]) -> Table:
    """Return what a run was trained with."""
    table = new_table("Environment", "", "")
    table.show_header = False
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
        if value is not None:
            add_row(table, name.replace("_", " "), value)
    return table


def export_table(folder: Path, about: Mapping[str, Any]) -> Table:
    """Return what an export is."""
    table = new_table(f"Export {folder}", "", "")
    table.show_header = False
    add_row(table, "task", about["task"]["name"])
    add_row(table, "outputs", ", ".join(about["outputs"]))
    add_row(table, "reads", ", ".join(about["reads"]))
    add_row(table, "parameters", f"{about['parameters']['total']:,}")
    int8 = f"int8 (OpenVINO; calibrated on {plural(about.get('calibration_posts', 0), 'post')})"
    add_row(table, "precision", int8 if about.get("precision") == "int8" else "fp32")
    add_row(table, "exported by", f"cotune {about['cotune']}")
    return table


def checks_table(checks: Sequence[Mapping[str, Any]], score: str) -> Table:
    """Return how an export compares with the run by torch; `score` is what the task's main score is called."""
    numbers = ["posts", "largest difference", "same label"]
    numbers += [score, f"{score} lost"] if any(check.get("score") is not None for check in checks) else []
    table = new_table("Compared with torch", "engine", "precision", *numbers, right=numbers)
    for check in checks:
        same, score_now, lost = (check.get(key) for key in ("agreement", "score", "score_lost"))
        cells = ["-" if same is None else f"{same:.2%}"]
        cells += ["-" if value is None else f"{value:.4f}" for value in (score_now, lost)]
        difference = f"{check['largest_difference']:.1e}"
        shown = [f"{check['posts']:,}", difference, *cells][: len(numbers)]
        add_row(table, check["engine"], check.get("precision", "fp32"), *shown)
    return table


def shares_table(summary: Mapping[str, Any]) -> Table:
    """Return how much each field did for each predicted class."""
    fields = summary["fields"]
    if len(fields) == 2:
        numbers = ["posts", f"{fields[0]} share", *(f"{name} part" for name in fields)]
    else:
        numbers = ["posts", *(f"{name} share" for name in fields)]
    which = " and ".join(fields) if len(fields) == 2 else "several fields"
    table = new_table(f"Posts with {which}, by predicted class", "class", *numbers, right=numbers)
    for name, row in summary["classes"].items():
        if len(fields) == 2:
            cells = [row[f"mean_{of}_part"] for of in fields]
            shown = [percent(row["mean"]), *("-" if cell is None else f"{cell:+.2f}" for cell in cells)]
        else:
            shown = [percent(share) for share in row["mean_shares"].values()]
        add_row(table, name, f"{row['posts']:,}", *shown)
    return table


def posts_table(rows: Sequence[Mapping[str, Any]], find: str, fields: Sequence[str]) -> Table:
    """Return one of the lists of explained posts."""
    pull = " and ".join(fields) if len(fields) == 2 else "fields"
    title = {"conflicts": f"Posts whose {pull} disagree most", "mistakes": "Most confident errors"}
    columns = ("id", "predicted", "label", *fields, "post")
    table = new_table(title.get(find, f"The most {find.replace('_', '-')} posts"), *columns, right=fields)
    for row in rows:
        snippet = row.get("snippet") or ""
        sure = "" if row.get("confidence") is None else f" {row['confidence']:.0%}"
        predicted = row["label"] if isinstance(row["label"], str) else f"{row['label']:.4g}"
        parts = (f"{row[name]:+.2f}" for name in fields)
        true = "-" if row["true"] is None else row["true"]
        add_row(
            table, row["id"], f"{predicted}{sure}", true, *parts, snippet if len(snippet) <= 80 else snippet[:79] + "…"
        )
    return table


def compared_table(models: Sequence[Mapping[str, Any]], posts: int) -> Table:
    """Return the scores of the demo's models, and how much better the joint one is."""
    table = new_table(
        f"AUC on {posts:,} held-out posts, 95 % intervals",
        "model",
        "AUC",
        "interval",
        "joint is better by",
        right=("AUC", "interval", "joint is better by"),
    )
    for model in models:
        auc, behind = model["scores"]["auc"], model["joint_minus_this"]
        gap = "" if behind is None else f"{behind['difference']:+.3f} ({behind['low']:+.3f} to {behind['high']:+.3f})"
        add_row(table, model["name"], number(auc["value"], 3), f"{auc['low']:.3f} to {auc['high']:.3f}", gap)
    return table


def compared_settings_table(compared: Mapping[str, Any], key: str, title: str) -> Table:
    """Return how the best settings of a search compare with the defaults; `key` and `title` are of the main score."""
    table = new_table(
        f"{title} on {compared['posts']:,} test posts that no trial saw, 95 % intervals",
        "settings",
        title,
        "interval",
        "best - defaults",
        "p",
        right=(title, "interval", "best - defaults", "p"),
    )
    test = compared["test"]
    gap = f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})"
    for name, more in (("best", (gap, f"{test['p']:.3f}")), ("defaults", ("", ""))):
        score = compared[name][key]
        add_row(table, name, number(score["value"]), f"{number(score['low'])} to {number(score['high'])}", *more)
    return table


def examples_table(rows: Iterable[Mapping[Any, Any]]) -> Table:
    """Return the posts that the demo predicts."""
    table = new_table(
        "Some held-out posts, sampled at random, by the joint model", "text", "image", "true", "predicted", "text/image"
    )
    for row in rows:
        words = " ".join(row["text"].split())
        shown = words if len(words) <= _WORDS else words[: _WORDS - 1] + "…"
        chance = row[f"p_{row['label']}"]
        shares = f"{row['text_share']:.0%}/{row['image_share']:.0%}"
        add_row(table, shown, row["image"], row["true"], f"{row['label']} {chance:.2f}", shares)
    return table


def drift_tables(found: Mapping[str, Any]) -> list[Table]:
    """Return the tests of a comparison with training posts, and the posts that look least like those."""
    columns = ("compared", "difference", "p", "corrected p", "")
    title = f"{plural(found['compared'], 'post')} compared with {found['reference']:,} of the run's"
    tests = new_table(title, *columns, right=columns[1:4])
    for row in found["tests"]:
        value = "-" if row["value"] is None else f"{row['measure']} {row['value']:.3f}"
        corrected = p_value(row["p_adjusted"]) if row["counts"] else "not counted"
        add_row(tests, row["what"], value, p_value(row["p_value"]), corrected, row["detail"])
    unlike = new_table("Least like training posts", "id", "row", "field", "deviations", right=("row", "deviations"))
    for post in found["unlike"][:_UNLIKE]:
        add_row(unlike, post["id"], f"{post['row']:,}", post["field"], f"{post['distance']:.1f}")
    return [tests, unlike]
