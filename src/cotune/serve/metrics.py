"""Counts and times for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from cotune._version import __version__
from cotune.serve.model import ServedModel
from cotune.serve.schemas import Prediction

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_POSTS = (1, 2, 4, 8, 16, 32, 64)
_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})


class Metrics:
    """What is counted; labels hold only names that the service itself gives.

    Parameters
    ----------
    models : sequence of ServedModel
        What is served.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        about = Gauge("cotune_model_info", "The models that are served.", ["model", "run", "engine", "version"],
                      registry=self.registry)  # fmt: skip
        for model in models:
            about.labels(model.name, model.run, model.engine, __version__).set(1)
        self._requests = Counter(
            "cotune_requests", "Requests answered.", ["method", "path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "cotune_request_seconds", "From a request's headers to the end of its answer.", ["path"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._posts = Counter("cotune_posts", "Posts answered.", ["model", "outcome"], registry=self.registry)
        self._batch = Histogram(
            "cotune_batch_posts", "Posts scored together.", ["model"], buckets=_POSTS, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "cotune_batch_seconds", "Time to score a batch.", ["model"], buckets=_SECONDS, registry=self.registry
        )
        self._waiting = Gauge("cotune_queue_posts", "Posts that wait for a model.", ["model"], registry=self.registry)

    def request(self, method: str, path: str | None, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(method if method in _METHODS else "other", path or "other", str(status)).inc()
        self._seconds.labels(path or "other").observe(seconds)

    def batch(self, model: str, found: Sequence[Prediction], seconds: float) -> None:
        """Count posts that were scored together."""
        self._batch.labels(model).observe(len(found))
        self._batch_seconds.labels(model).observe(seconds)
        for prediction in found:
            self._posts.labels(model, "error" if prediction.label is None else "predicted").inc()

    def watch_queue(self, model: str, waiting: Callable[[], float]) -> None:
        """Show how many posts wait for a model."""
        self._waiting.labels(model).set_function(waiting)

    def text(self) -> bytes:
        """Return all of it in the form that Prometheus reads."""
        return generate_latest(self.registry)
