"""The option ``--engine`` of the commands that score posts, and how they open a run or an export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cotune.cli.run_folder import on_disk, open_run
from cotune.cli.show import reporter

if TYPE_CHECKING:
    import pandas as pd

    from cotune.export.choose import EngineChoice
    from cotune.scoring import Scorer

EngineOption = Annotated[
    Literal["auto", "torch", "onnx", "openvino"],
    typer.Option(
        "--engine",
        help="What runs the model; auto: the fastest that is installed, once the run has been exported for it.",
        envvar="COTUNE_ENGINE",
        show_envvar=False,
    ),
]
ModelFolder = Annotated[
    Path, typer.Argument(help="Run folder that `cotune fit` has made, an export, or hf:OWNER/NAME.", metavar="RUN")
]


def choose(
    folder: Path,
    engine: Literal["auto", "torch", "onnx", "openvino"],
    plugins: Sequence[str] | None,
    flags: Mapping[str, Any],
) -> EngineChoice:
    """Return how the posts of a command are going to be scored; `flags` are the settings that were given."""
    from cotune.export.choose import EngineChoice, engine_for
    from cotune.plugins import load_plugins

    load_plugins(plugins or [])  # posts are read before the model is opened, and may have fields of a plugin's kind
    engine = engine_for(engine, flags.get("precision", "32"))
    return EngineChoice(on_disk(folder), engine, device=flags.get("device", "auto"), plugins=plugins or ())


def open_scorer(
    choice: EngineChoice, settings: dict[str, Any], posts: pd.DataFrame | None = None, *, many: bool = False
) -> Scorer[Any]:
    """Open the model; a run that was not exported yet is, if `posts` to compare on are given.

    Parameters
    ----------
    choice : EngineChoice
        What :func:`choose` returned.
    settings : dict
        ``batch_size``, ``bad_images``, ``allow_remote``, ``device`` and ``precision``.
    posts : DataFrame, optional
        Some of the posts to score.
    many : bool
        Whether many more are going to be.
    """
    n_posts = inf if many else len(posts) if posts is not None else 0
    export, run = choice.prepare(partial(open_run, choice.folder, choice.plugins), posts, reporter(),
                                 n_posts=n_posts)  # fmt: skip
    if export is not None:
        from cotune.export.predictor import ExportedPredictor

        own = {name: value for name, value in settings.items() if name not in ("device", "precision")}
        return ExportedPredictor(export, engine=choice.asked, **own)
    from cotune.predict import Predictor

    assert run is not None
    predictor = Predictor(run, **settings)
    if settings.get("precision", "32") != "32":
        reporter().say(f"precision: {predictor.precision}")
    return predictor


def first_and_all(chunks: Iterable[pd.DataFrame]) -> tuple[pd.DataFrame | None, Iterator[pd.DataFrame]]:
    """Return the first chunk of posts, None if there is none, and an iterator over all of them."""
    iterator = iter(chunks)
    first = next(iterator, None)
    return first, chain([] if first is None else [first], iterator)
