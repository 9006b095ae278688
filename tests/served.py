"""A service that runs within the tests, on a port of its own, with tiny models."""

from __future__ import annotations

import base64
import io
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from cotune.fields import Field
from cotune.predict import Predictor
from cotune.run import Run
from cotune.serve.app import Serving
from cotune.serve.limits import Limits
from cotune.serve.logs import JsonLines
from cotune.serve.model import ServedModel
from cotune.serve.server import listen, make_server
from cotune.training.fit import fit_posts
from runs import tiny_config
from tiny import Zoo, make_posts

MANY_FIELDS = (
    Field(name="title", kind="text", columns=("text",)),
    Field(name="caption", kind="text", columns=("text",), shared="title"),
    Field(name="image", kind="image"),
    Field(name="about", kind="table", columns=("likes", "device")),
)


def many_fields_run(zoo: Zoo, folder: Path, task: str) -> Run:
    """Return a run with two texts, an image and a table, of any task."""
    posts = make_posts(folder / "posts", 24, classes=3)
    names = posts["label"].tolist()
    if task == "regression":
        posts["label"] = [str(1.5 * int(name[-1]) + 0.1 * i) for i, name in enumerate(names)]
    elif task == "multi-label":
        posts["label"] = [f"{name}|even" if i % 2 else name for i, name in enumerate(names)]
    numbers = np.random.default_rng(0).normal(size=24)
    posts["about"] = [{"likes": float(n), "device": "web" if i % 3 else "phone"} for i, n in enumerate(numbers)]
    posts["title"], posts["caption"] = posts["text"], posts["text"].iloc[::-1].tolist()
    encoders = {"text_encoder": str(zoo("distilbert")), "image_encoder": str(zoo("timm-resnet"))}
    config = tiny_config(zoo, folder / "cache", tune="frozen", task=task, fields=MANY_FIELDS, **encoders)
    return fit_posts(posts, config).run


@dataclass
class Served:
    """A running service."""

    server: uvicorn.Server
    port: int
    models: Sequence[ServedModel]
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **settings)


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def running(models: Sequence[ServedModel], serving: Serving | None = None, grace: int = 10) -> Iterator[Served]:
    """Serve some models while the block runs."""
    bound = listen("127.0.0.1", 0)
    served = Served(make_server(models, serving or Serving(), grace), bound.getsockname()[1], models)
    loggers = [logging.getLogger(name) for name in ("cotune.serve", "uvicorn")]
    handler = _Lines(served.lines)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    thread = threading.Thread(target=served.server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not served.server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield served
    finally:
        served.server.should_exit = True
        thread.join(60)
        for logger in loggers:
            logger.removeHandler(handler)
        assert not thread.is_alive()


def served_model(run: Run, name: str = "model", limits: Limits | None = None, **settings: Any) -> ServedModel:
    """Return a run as it is served, by torch."""
    return ServedModel(name, Predictor(run, device="cpu"), limits or Limits(), **settings)


def png(width: int = 40, height: int = 30, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """Return an image as bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode()
