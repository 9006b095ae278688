"""The commands that only look: ``info`` and ``encoders``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cotune.cli.engine import ModelFolder
from cotune.cli.options import AsJson
from cotune.cli.run_folder import on_disk
from cotune.cli.show import print_json, print_rich, tell_note
from cotune.errors import RunError
from cotune.report.numbers import plural
from cotune.report.terminal import (
    add_row,
    checks_table,
    environment_table,
    export_table,
    field_table,
    members_rows,
    members_table,
    new_table,
    parts_table,
    run_table,
    score_table,
)


def info(run: ModelFolder, as_json: AsJson = False) -> None:
    """Show what a run is made of, how it was trained and what it scored; of an export, how it compares with its run."""
    from cotune.export.package import is_export

    name, run = run, on_disk(run)
    if is_export(run):
        _export_info(run, as_json)
        return
    from cotune.checksums import damage
    from cotune.files import read_json
    from cotune.run_settings import ENVIRONMENT, LABELS, METRICS, read_settings

    settings = read_settings(run)
    try:
        about = {
            "run": name,
            "task": settings.get("task", {}).get("name", "single-label"),
            "fields": _fields(settings["fit"]),
            "labels": read_json(run / LABELS),
            **{key: settings[key] for key in ("cotune", "head", "encoders", "parameters", "fit")},
            "metrics": read_json(run / METRICS) if (run / METRICS).is_file() else {},
            "environment": read_json(run / ENVIRONMENT) if (run / ENVIRONMENT).is_file() else {},
        }
    except KeyError as fault:
        raise RunError(f"{run} is damaged: its config.json lacks {fault}; train it again") from fault
    if not isinstance(about["labels"], list) or not all(isinstance(label, str) for label in about["labels"]):
        raise RunError(f"{run / LABELS} is damaged: it holds no list of labels; copy the run again, or train it again")
    try:
        for file, what in damage(run, settings.get("checksums", {})):
            tell_note(f"note: {run / file} {what}")
    except ValueError as fault:
        raise RunError(f"{run} is damaged: {fault}; train it again") from fault
    if as_json:
        print_json(about)
        return
    from cotune.export.choose import EngineChoice

    print_rich(run_table(about), "", parts_table(about))
    print_rich(f"\nengine: {EngineChoice(run).describe()}")
    if members_rows(members := about["metrics"].get("members", {})):
        print_rich("", members_table(members))
    scores = about["metrics"].get("validation")
    if scores:
        print_rich("", score_table(scores, f"Scores on {plural(scores['n'], 'held-out post')}"))
        if "fields" in scores:
            print_rich("", field_table(scores["fields"]))
    elif guess := about["metrics"].get("estimate"):
        print_rich("", score_table(guess, f"Estimated scores, {plural(guess['n'], 'post')} in {guess['folds']} folds"))
    print_rich("", environment_table(about["environment"]))


def _export_info(folder: Path, as_json: bool) -> None:
    from cotune.export.package import open_export

    export = open_export(folder)
    about = export.about
    if as_json:
        print_json(about)
        return
    print_rich(export_table(folder, about), "", checks_table(about["checks"], export.task.main_title))


def _fields(fit: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a post has, by the settings of a run."""
    given = fit.get("fields")
    if given is None:
        from cotune.fields import DEFAULT_FIELDS

        given = [field.model_dump(mode="json") for field in DEFAULT_FIELDS]
    return {field["name"]: {key: value for key, value in field.items() if key != "name" and value} for field in given}


def encoders(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Encoders to count the parameters of: timm:NAME, hf:NAME or a folder.", metavar="[SPEC]..."
        ),
    ] = None,
    params: Annotated[
        bool, typer.Option("--params", help="Count the models of the paper's Table 2, from configurations alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the encoders that are ready here without a network, or count parameters."""
    from dataclasses import asdict

    from cotune.encoders.resolve import ready_encoders
    from cotune.sizes import encoder_size, paper_sizes

    if specs or params:
        sizes = [encoder_size(spec) for spec in specs or []] or paper_sizes()
        if as_json:
            print_json([asdict(size) for size in sizes])
            return
        title = "Parameters" if specs else "Parameters of the models in the paper's Table 2 (3 classes)"
        columns = ["model", "parameters", "millions", *([] if specs else ["paper"]), "what is counted"]
        table = new_table(title, *columns, right=("parameters", "millions", "paper"))
        for size in sizes:
            paper = [] if size.paper is None else [f"{size.paper:.{0 if size.paper >= 100 else 1}f}M"]
            millions = f"{size.parameters / 1e6:.1f}M"
            add_row(table, size.name, f"{size.parameters:,}", millions, *paper, size.counted)
        print_rich(table)
        return
    found = ready_encoders()
    if as_json:
        print_json([asdict(encoder) for encoder in found])
        return
    table = new_table("Encoders", "name", "reads", "ready", "")
    table.columns[0].no_wrap = True  # to be copied
    for encoder in found:
        add_row(table, encoder.spec, encoder.modality, "yes" if encoder.ready else "no", encoder.note)
    print_rich(
        table,
        "\nAlso: a local folder in Hugging Face's or timm's layout; with a network hf:OWNER/NAME (text or image) and "
        "timm:NAME, any model of timm.list_models(pretrained=True).",
    )
