"""The command ``fit``: from a posts table to a run."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from cotune.cli.options import (
    AllowRemote,
    AsJson,
    Format,
    GroupColumn,
    IdColumn,
    ImageColumn,
    LabelColumn,
    PostsPath,
    TextColumn,
    Where,
    columns_from,
    rows_from,
)
from cotune.cli.run_folder import open_run
from cotune.cli.show import command, print_json, print_rich
from cotune.cli.stop import StoppedError
from cotune.errors import ConfigError, CotuneError
from cotune.report.numbers import number
from cotune.report.terminal import score_table

if TYPE_CHECKING:
    from cotune.config import FitConfig
    from cotune.run import Run
    from cotune.training.fit import FitResult
    from cotune.training.loggers import HistoryLog

_ENCODERS, _HEAD, _TRAINING = "Encoders", "Fusion head", "Training"
_HOLDOUT, _MACHINE, _RUN = "Validation and stopping", "Machine", "Run"


class FitCommand(TyperCommand):
    """Shows the defaults of the settings in its help; they are looked up only then, so that others start fast."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        from cotune.config import FitConfig

        usual = FitConfig().model_dump()
        for parameter in self.params:
            default = usual.get(parameter.name or "")
            said = getattr(parameter, "help", None)
            if default is not None and said and "[default:" not in said:
                parameter.help = f"{said} \\[default: {default}]"  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def _option(flag: str, panel: str, text: str, **more: Any) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)


def fit(
    posts: PostsPath,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run to make.", metavar="RUN", rich_help_panel=_RUN)],
    text_encoder: Annotated[
        str | None, _option("--text-encoder", _ENCODERS, "bundled:NAME, hf:OWNER/NAME or a local folder.")
    ] = None,
    image_encoder: Annotated[
        str | None,
        _option("--image-encoder", _ENCODERS, "bundled:NAME, timm:NAME, hf:OWNER/NAME or a local folder."),
    ] = None,
    text_pooling: Annotated[
        Literal["auto", "cls", "mean", "max", "last"] | None,
        _option("--text-pooling", _ENCODERS, "How token states become one embedding."),
    ] = None,
    image_crop: Annotated[
        Literal["encoder", "none"] | None,
        _option("--image-crop", _ENCODERS, "none: see whole pictures, squeezed to fit, instead of the encoder's crop."),
    ] = None,
    max_tokens: Annotated[int | None, _option("--max-tokens", _ENCODERS, "Longer texts are cut here.")] = None,
    fusion: Annotated[
        str | None,
        _option("--fusion", _HEAD, "attention, concat, reference, or one modality alone: text, image."),
    ] = None,
    width: Annotated[int | None, _option("--width", _HEAD, "Size of modality tokens or hidden layer.")] = None,
    dropout: Annotated[float | None, _option("--dropout", _HEAD, "Dropout in the head.")] = None,
    modality_dropout: Annotated[
        float | None, _option("--modality-dropout", _HEAD, "Chance that a training post loses a modality.")
    ] = None,
    tune: Annotated[
        Literal["joint", "top", "lora", "frozen"] | None,
        _option("--tune", _TRAINING, "What is trained after the probe: all, upper layers, adapters, nothing."),
    ] = None,
    text_top: Annotated[
        int | None, _option("--text-top", _TRAINING, "Upper text layers that top trains (by default half).")
    ] = None,
    image_top: Annotated[
        int | None, _option("--image-top", _TRAINING, "Upper image stages that top trains (by default a quarter).")
    ] = None,
    epochs: Annotated[int | None, _option("--epochs", _TRAINING, "Most epochs of joint fine-tuning.")] = None,
    probe_epochs: Annotated[int | None, _option("--probe-epochs", _TRAINING, "Epochs of the probe.")] = None,
    batch_size: Annotated[int | None, _option("--batch-size", _TRAINING, "Posts in a batch.")] = None,
    accumulate: Annotated[int | None, _option("--accumulate", _TRAINING, "Batches per optimiser step.")] = None,
    lr_head: Annotated[float | None, _option("--lr-head", _TRAINING, "Learning rate of the head.")] = None,
    lr_text: Annotated[float | None, _option("--lr-text", _TRAINING, "Learning rate of the text encoder.")] = None,
    lr_image: Annotated[float | None, _option("--lr-image", _TRAINING, "Learning rate of the image encoder.")] = None,
    class_weights: Annotated[
        Literal["none", "balanced"] | None,
        _option("--class-weights", _TRAINING, "balanced: rare classes weigh as much as frequent ones."),
    ] = None,
    label_smoothing: Annotated[
        float | None, _option("--label-smoothing", _TRAINING, "Share of each label spread over all classes.")
    ] = None,
    bad_images: Annotated[
        Literal["skip", "text-only"] | None,
        _option("--bad-images", _TRAINING, "Posts with an unreadable image: left out, or used by their text."),
    ] = None,
    seed: Annotated[int | None, _option("--seed", _TRAINING, "Seed of everything random.")] = None,
    validation: Annotated[
        str | None,
        _option("--validation", _HOLDOUT, "Part of the posts to hold out, or a posts table.", metavar="FRACTION|POSTS"),
    ] = None,
    folds_group: Annotated[
        Literal["near-duplicates", "group", "none"] | None,
        _option("--folds-group", _HOLDOUT, "Which posts are never parted when a part is held out."),
    ] = None,
    stop: Annotated[
        Literal["train-loss", "validation"] | None,
        _option("--stop", _HOLDOUT, "What early stopping watches."),
    ] = None,
    min_epochs: Annotated[
        int | None, _option("--min-epochs", _HOLDOUT, "Epochs before early stopping may act.")
    ] = None,
    patience: Annotated[
        int | None, _option("--patience", _HOLDOUT, "Epochs without progress before stopping.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"] | None, _option("--device", _MACHINE, "Where to train.")
    ] = None,
    precision: Annotated[
        Literal["auto", "32", "bf16", "16"] | None, _option("--precision", _MACHINE, "Number format.")
    ] = None,
    cache: Annotated[
        str | None,
        _option("--cache", _MACHINE, "Folder for pixels and embeddings (by default ~/.cache/cotune)."),
    ] = None,
    cache_gb: Annotated[float | None, _option("--cache-gb", _MACHINE, "Size that the cache must not outgrow.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML or JSON file of settings, or a run for its own; flags take precedence.",
                     rich_help_panel=_RUN),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other setting, such as layer-decay=0.8; repeatable.", metavar="KEY=VALUE",
            rich_help_panel=_RUN,
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option("--start-from", help="Go on from this run's weights with these posts; its labels stay.",
                     metavar="RUN", rich_help_panel=_RUN),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted fit stopped.", rich_help_panel=_RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out, once the new one is done.",
                           rich_help_panel=_RUN)
    ] = False,
    logger: Annotated[
        list[str] | None,
        typer.Option("--logger", help="tensorboard, mlflow or wandb, beside the CSV log; repeatable.",
                     rich_help_panel=_RUN),
    ] = None,
    id_column: IdColumn = "id",
    text_column: TextColumn = "text",
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    group_column: GroupColumn = "group",
    where: Where = None,
    validation_where: Annotated[
        list[str] | None,
        typer.Option("--validation-where", help="The same as --where, for the table that --validation names.",
                     metavar="COLUMN=VALUE", rich_help_panel=_HOLDOUT),
    ] = None,
    table_format: Format = None,
    allow_remote: AllowRemote = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train a model on the labelled posts in POSTS.

    First a probe of the fusion head on frozen embeddings, then joint fine-tuning. The run folder holds all that
    predicting needs, a report and a model card. Ctrl-C saves the last finished epoch; --resume goes on from it.
    """
    given = dict(locals())
    from cotune.config import FitConfig, make_config

    flags = {name: given[name] for name in FitConfig.model_fields if given.get(name) is not None}
    if "validation" in flags:
        flags["validation"] = _fraction_or_path(flags["validation"])
    given_settings = {**_key_values(settings or []), **flags}
    start = None
    if start_from is not None:
        start, given_settings = _start(start_from, given_settings)
    settings_ = make_config(given_settings, file=config)
    columns = columns_from(id_column, text_column, image_column, label_column, group_column)
    result, left = _train(
        posts,
        out,
        settings_,
        columns=columns,
        rows=rows_from(where, table_format),
        validation_rows=_validation_rows(validation_where, settings_),
        resume=resume,
        overwrite=overwrite,
        loggers=logger or [],
        allow_remote=allow_remote,
        start=start,
    )
    if result.interrupted:
        raise StoppedError(left)
    scores = result.run.metrics.get("validation")
    if as_json:
        print_json({"run": str(out), **result.run.metrics})
        return
    if scores is not None:
        print_rich(score_table(scores, f"Scores on {scores['n']:,} held-out posts"))
    else:
        last = result.run.metrics["history"][-1]
        print_rich(f"training loss {number(last['train_loss'])}; no posts were held out (--validation 0.1 does it)")
    table = "posts.csv" if str(posts) == "-" else posts
    print_rich(
        f"\nThe run lies in {out}; its report is {out / 'report.html'}. Next:\n"
        f"  {command('cotune', 'predict', out, table, '--out', 'predictions.csv')}"
    )


def _start(folder: Path, given: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Open the run to go on from, and add the settings that are built into it to those that were given."""
    from cotune.training.start import STARTED_WITH

    run = open_run(folder)
    return run, {**{name: getattr(run.config, name) for name in STARTED_WITH}, **given}


def _train(
    posts: Path,
    out: Path,
    config: FitConfig,
    *,
    columns: Any,
    rows: dict[str, Any],
    validation_rows: dict[str, Any],
    resume: bool,
    overwrite: bool,
    loggers: list[str],
    allow_remote: bool,
    start: Run | None,
) -> tuple[FitResult, str]:
    finished = _check_out(out, resume=resume, overwrite=overwrite)
    from cotune.data.posts import read_posts
    from cotune.progress import TerminalProgress
    from cotune.report.run_report import run_report
    from cotune.run import save_run
    from cotune.training.checkpoint import remove_state
    from cotune.training.fit import fit_posts
    from cotune.training.loggers import open_log

    progress = TerminalProgress()
    if resume and not _pending(out):
        progress.say(f"note: there is nothing to resume in {out}; training begins anew")
    table = read_posts(posts, columns=columns, require_labels=True, tell=progress.say, **rows)
    held = None
    if isinstance(config.validation, str):
        held = read_posts(config.validation, columns=columns, require_labels=True, **validation_rows)
    _make_writable(out)
    # A finished run keeps its own log until it is replaced.
    log_path = out / ("log.new.csv" if finished else "log.csv")
    log = open_log(log_path, out, loggers, config)
    status = "failed"
    try:
        result = fit_posts(
            table,
            config,
            validation_posts=held,
            checkpoint=out / CHECKPOINT,
            resume=resume,
            allow_remote=allow_remote,
            start=start,
            on_epoch=log,
            progress=progress,
        )
        status = "interrupted" if result.interrupted else "finished"
        if result.interrupted and finished:
            return result, f"stopped; the run in {out} is as it was, and --resume goes on with the new one"
        save_run(out, result.run, report=run_report(result.run, name=out.name))
    except KeyboardInterrupt:
        status = "interrupted"
        if _pending(out):
            raise StoppedError(
                f"stopped; the last finished epoch is kept in {out}, and --resume goes on from it"
            ) from None
        raise StoppedError("stopped before the first epoch was over; no run was saved") from None
    finally:
        _close(log, status)
        if status == "failed":
            with suppress(OSError):  # it stays if anything is in it
                out.rmdir()
    if finished:
        log_path.replace(out / "log.csv")
    if not result.interrupted:
        remove_state(out / CHECKPOINT)
    return result, f"stopped; the last finished epoch is saved in {out}, and --resume goes on from there"


CHECKPOINT = "checkpoint"
# What a training that was killed before its first epoch may leave.
_LEFT_BEHIND = {CHECKPOINT, "tensorboard", "log.new.csv"}


def _check_out(out: Path, *, resume: bool, overwrite: bool) -> bool:
    """Refuse to harm what is there; tell whether it is a finished run."""
    from cotune.files import read_json
    from cotune.ownership import RUN

    if resume and overwrite:
        raise ConfigError("--resume goes on and --overwrite starts again; give one of them")
    if out.exists() and not out.is_dir():
        raise CotuneError(f"{out} is a file; name a folder for the run with --out")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    RUN.refuse_foreign(out)
    finished, held = False, RUN.owns(out)
    if held:
        metrics: Any = None
        with suppress(CotuneError):  # a damaged run can still be replaced
            metrics = read_json(out / "metrics.json")
        finished = not isinstance(metrics, dict) or metrics.get("status") != "interrupted"
    pending = _pending(out)
    if resume and finished and not pending:
        raise CotuneError(f"{out} holds a finished run; there is nothing to resume. --overwrite trains it again")
    begun = _is_log(out / "log.csv") or _LEFT_BEHIND.issuperset(path.name for path in out.iterdir())
    if not (held or pending or begun):
        raise CotuneError(f"{out} is not empty and holds no run; name another folder with --out")
    if not resume and not overwrite:
        what = "an unfinished run; go on with --resume, or" if pending else "a run; choose another folder, or"
        raise CotuneError(f"{out} holds {what} replace it with --overwrite")
    return finished


def _make_writable(out: Path) -> None:
    """Make the folder, and refuse one that cannot be written before hours are spent on what should go there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as fault:
        raise ConfigError(f"cannot write into {out}: {fault.strerror}; name another folder with --out") from fault


def _pending(out: Path) -> bool:
    return (out / CHECKPOINT / "state.json").is_file()


def _is_log(path: Path) -> bool:
    """Tell whether a file is the log of a training that was killed before its first run was saved."""
    try:
        with path.open(encoding="utf-8", errors="replace") as log:
            return log.readline(100).startswith("stage,epoch,train_loss,")
    except OSError:
        return False


def _close(log: HistoryLog, status: str) -> None:
    log.close(status)


def _validation_rows(where: list[str] | None, config: FitConfig) -> dict[str, Any]:
    """Return which rows of the validation table count; `--where` is about the training table alone."""
    if where and not isinstance(config.validation, str):
        raise ConfigError("--validation-where picks rows of a validation table; name one with --validation")
    return {"where": rows_from(where, None)["where"]}


def _fraction_or_path(said: str) -> float | str:
    try:
        return float(said)
    except ValueError:
        return said


def _key_values(pairs: list[str]) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set takes key=value, as in --set layer-decay=0.8, not {pair!r}")
        try:
            found[key.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[key.strip().replace("-", "_")] = value
    return found
