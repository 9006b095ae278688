"""The command ``serve``: predictions and explanations over HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.engine import EngineOption, choose, open_scorer
from cotune.cli.options import KnownDistance, KnownPath, Plugin, known_of
from cotune.cli.settings import Flags
from cotune.errors import ConfigError, clip

if TYPE_CHECKING:
    import pandas as pd

    from cotune.data.known_images import KnownImages
    from cotune.explain.explainer import Explainer
    from cotune.export.choose import EngineChoice
    from cotune.fields import Field
    from cotune.serve.limits import Limits
    from cotune.serve.model import ServedModel

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_COMPARED = 64
_MEGABYTE, _MEGAPIXEL = 2**20, 1_000_000
_LIMITS = "Limits"


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders that `cotune fit` has made, exports, or hf:OWNER/NAME; several get names. The first is "
            "the default.",
            metavar="[NAME=]RUN...",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; by default this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
    engine: EngineOption = "auto",
    flags: Flags = None,
    batching: Annotated[
        bool, typer.Option("--batching/--no-batching", help="Score posts of requests that arrive together in one pass.")
    ] = True,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Posts that are scored together.")] = 32,
    batch_wait: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds that a request may wait for others.")
    ] = 5,
    max_body: Annotated[int, typer.Option(min=1, help="Megabytes of a body.", rich_help_panel=_LIMITS)] = 32,
    max_pixels: Annotated[int, typer.Option(min=1, help="Megapixels of an image.", rich_help_panel=_LIMITS)] = 25,
    max_batch: Annotated[int, typer.Option(min=1, help="Posts in a request.", rich_help_panel=_LIMITS)] = 64,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Posts that may wait for a model.", rich_help_panel=_LIMITS)
    ] = 256,
    body_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds within which a body has to arrive.", rich_help_panel=_LIMITS)
    ] = 30,
    grace: Annotated[int, typer.Option(min=0, help="Seconds for requests under way when the service is stopped.")] = 30,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Further name by which the service may be called, such as a proxy's; repeatable. Without --host only "
            "names of this machine are, as web pages of others could reach it by a name of theirs.",
            metavar="NAME",
        ),
    ] = None,
    known: KnownPath = None,
    known_distance: KnownDistance = None,
    plugin: Plugin = None,
    check: Annotated[
        bool, typer.Option("--check", help="Start, answer one request of its own, and end: 0, or 2 with the reason.")
    ] = False,
) -> None:
    """Answer requests for predictions and explanations over HTTP, until Ctrl-C or SIGTERM.

    Keys that clients have to bring are read from COTUNE_API_KEYS, separated by commas.
    """
    _need_packages()
    from cotune.serve.app import Serving
    from cotune.serve.guard import Keys
    from cotune.serve.limits import Limits
    from cotune.serve.server import check as check_service
    from cotune.serve.server import listen
    from cotune.serve.server import serve as serve_models

    limits = Limits(
        max_body * _MEGABYTE, max_pixels * _MEGAPIXEL, max_batch, queue=max_queue, body_seconds=body_timeout
    )
    local = host in ("127.0.0.1", "localhost", "::1")
    serving = Serving(
        limits=limits,
        most=batch_size if batching else 1,
        wait=batch_wait / 1000 if batching else 0.0,
        keys=Keys.of_environment(),
        hosts=(*_LOOPBACK, host, *(allow_host or [])) if local or allow_host else (),
    )
    named = _named(runs)
    images = known_of(known, known_distance)
    bound = listen(host, port) if not check else None
    settings = {"batch_size": batch_size, "bad_images": "error", "allow_remote": False}
    models = [
        _open(name, choose(folder, engine, plugin, flags), {**flags, **settings}, limits, images)
        for name, folder in named.items()
    ]
    if bound is None:
        check_service(models, serving)
        typer.echo(f"ok: {', '.join(model.name for model in models)}")
        return
    serve_models(models, serving, bound, grace=grace)


def _need_packages() -> None:
    from importlib.util import find_spec

    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        if find_spec(package) is None:
            raise ConfigError(f"serving needs {package}; install it with: pip install 'cotune[serve]'")


def _named(runs: Sequence[str]) -> dict[str, Path]:
    """Return the folders by name; one without a name is called after its folder."""
    from cotune.files import real_path

    found: dict[str, Path] = {}
    for given in runs:
        name, sign, rest = given.partition("=")
        if not sign or Path(given).exists():
            folder = Path(given)
            name = re.sub(r"[^A-Za-z0-9_.-]", "-", real_path(folder).name)[:64] or "model"
        else:
            folder = Path(rest)
        if not _NAME.fullmatch(name):
            raise ConfigError(f"the name {clip(name, 40)!r} has other characters than letters, digits, - _ and .")
        if name in found:
            raise ConfigError(f"two runs are called {name!r}; name them, as in first={found[name]} second={folder}")
        found[name] = folder
    return found


def _open(
    name: str, choice: EngineChoice, settings: dict[str, Any], limits: Limits, images: KnownImages | None
) -> ServedModel:
    from cotune.serve.logs import log_error
    from cotune.serve.model import ServedModel

    posts = _posts(choice.folder, choice.fields) if choice.ready is None and choice.may_export(inf) else None
    scorer = open_scorer(choice, settings, posts, many=True)
    if images is not None:
        scorer.look_for(images)
    explainer = None if choice.exported else _explainer(choice, settings)
    model = ServedModel(name, scorer, limits, explainer=explainer, tell=lambda error: log_error(error, model=name))
    model.warm_up()
    return model


def _explainer(choice: EngineChoice, settings: dict[str, Any]) -> Callable[[], Explainer]:
    def open_explainer() -> Explainer:
        from cotune.data.store import default_root
        from cotune.encoders.frozen_engine import FrozenEngines
        from cotune.explain.explainer import Explainer
        from cotune.plugins import load_plugins
        from cotune.run import load_run

        load_plugins(choice.plugins)
        # A copy of its own: what explains hooks into the network, while others are scored.
        explainer = Explainer(load_run(choice.folder), **{**settings, "precision": "32"})
        if choice.asked == "auto":  # graphs that are there already: no client waits for one to be made
            explainer.use_engines(FrozenEngines(default_root()), 0)
        return explainer

    return open_explainer


def _posts(folder: Path, fields: Sequence[Field]) -> pd.DataFrame:
    """Return posts with the run's fields, made of the demo's, to compare its export on."""
    from cotune.data.python_posts import posts_from
    from cotune.demo import read_demo_posts
    from cotune.run_settings import read_settings

    demo = read_demo_posts().head(_COMPARED)
    encoders = read_settings(folder)["encoders"]
    rows: list[dict[str, Any]] = []
    for i, (text, image) in enumerate(zip(demo["text"], demo["image"], strict=True)):
        row: dict[str, Any] = {}
        for each in fields:
            if each.kind in ("text", "image"):
                row[each.columns[0]] = text if each.kind == "text" else image
            for column in encoders.get(each.name, {}).get("columns", ()):
                row[column["name"]] = column["values"][i % len(column["values"])] if column["values"] else i
        rows.append(row)
    return posts_from(rows, tuple(fields))
