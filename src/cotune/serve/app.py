"""The application: which address answers what."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from cotune._version import __version__
from cotune.fields import DEFAULT_FIELDS
from cotune.serve.batching import Batcher
from cotune.serve.bodies import BodyReader, ReadBody
from cotune.serve.guard import Guard, Keys, error_response
from cotune.serve.limits import Limits, Memory, RefusedError
from cotune.serve.metrics import Metrics
from cotune.serve.model import ServedModel
from cotune.serve.page.routes import page_routes
from cotune.serve.posts import ReadPost
from cotune.serve.schemas import (
    ErrorAnswer,
    ExplainAnswer,
    ModelsAnswer,
    PredictAnswer,
    Prediction,
    PredictRequest,
    ShownLimits,
    Status,
)

_EXPLANATIONS = 8
_CODES = {404: "not_found", 405: "method_not_allowed"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        401: "No key, or a wrong one",
        403: "Called by another name, or from another's web page",
        404: "No such model",
        408: "The body took too long",
        413: "Body, batch, text or image too large",
        415: "Neither JSON nor a form",
        422: "Not as described, or a post that cannot be scored",
        429: "Too many posts are waiting; try again after Retry-After seconds",
    }.items()
}
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorAnswer, "description": "The model is an export, which explains nothing"}
}


@dataclass(frozen=True)
class Serving:
    """How posts are scored and who may ask.

    Attributes
    ----------
    limits : Limits
        What a client may send.
    most : int
        Posts of several requests that are scored together; with 1 each request is scored by itself.
    wait : float
        How long a request may wait for others, in seconds.
    keys : Keys
        Who may ask.
    hosts : tuple of str
        Names by which the service may be called; any, if there are none.
    """

    limits: Limits = field(default_factory=Limits)
    most: int = 32
    wait: float = 0.005
    keys: Keys = field(default_factory=Keys)
    hosts: tuple[str, ...] = ()


class Service:
    """Some models and how they are served.

    Parameters
    ----------
    models : sequence of ServedModel
        The first is the default.
    serving : Serving
        How.
    """

    def __init__(self, models: Sequence[ServedModel], serving: Serving) -> None:
        self.models, self.serving = list(models), serving
        self.metrics = Metrics(models)
        self.bodies = BodyReader(models, serving.limits)
        self.memory = Memory.of(serving.limits)
        self.scorers: dict[str, Batcher[ReadPost, Prediction]] = {}
        self.explainers: dict[str, Batcher[ReadPost, dict[str, Any]]] = {}

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Work while the application runs."""
        for model in self.models:
            scorer = Batcher(
                self._counted(model), most=self.serving.most, wait=self.serving.wait,
                capacity=self.serving.limits.queue,
            )  # fmt: skip
            self.scorers[model.name] = scorer
            self.metrics.watch_queue(model.name, lambda scorer=scorer: scorer.waiting)  # type: ignore[misc]
            self.explainers[model.name] = Batcher(model.explain, capacity=_EXPLANATIONS)
        workers: list[Batcher[Any, Any]] = [*self.scorers.values(), *self.explainers.values()]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            for worker in workers:
                await worker.stop()

    def _counted(self, model: ServedModel) -> Callable[[list[ReadPost]], list[Prediction]]:
        def score(posts: list[ReadPost]) -> list[Prediction]:
            started = time.perf_counter()
            found = model.score(posts)
            self.metrics.batch(model.name, found, time.perf_counter() - started)
            return found

        return score

    async def predict(self, request: Request) -> PredictAnswer:
        """Answer a request for predictions."""
        with self.memory.request() as held:
            asked = await self.bodies.read(request, held)
            found = await self.scorers[self._noted(request, asked)].submit(asked.posts)
        if asked.is_form and found[0].label is None:
            raise RefusedError(asked.posts[0].fault_status, "unusable_post", found[0].error or "")
        return PredictAnswer(**self._source(request, asked), predictions=found)

    async def explain(self, request: Request) -> ExplainAnswer:
        """Answer a request for an explanation."""
        with self.memory.request() as held:
            asked = await self.bodies.read(request, held)
            name = self._noted(request, asked)
            if not asked.model.explains:
                raise RefusedError(
                    409, "not_explainable", f"the model {name} is an export, which explains nothing; serve its run"
                )
            if len(asked.posts) != 1:
                raise RefusedError(422, "one_post", "posts: one post is explained at a time")
            (found,) = await self.explainers[name].submit(asked.posts)
        return ExplainAnswer(**self._source(request, asked), **found)

    def _noted(self, request: Request, asked: ReadBody) -> str:
        request.state.model = asked.model.name
        return asked.model.name

    def _source(self, request: Request, asked: ReadBody) -> dict[str, str]:
        return {"model": asked.model.name, "run": asked.model.run, "request_id": request.state.request_id}

    def ready(self) -> bool:
        """Tell whether all models can be asked."""
        return bool(self.scorers) and all(scorer.alive for scorer in self.scorers.values())


def make_app(models: Sequence[ServedModel], serving: Serving | None = None) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    models : sequence of ServedModel
        What is served; the first is the default.
    serving : Serving, optional
        How.
    """
    service = Service(models, serving or Serving())
    limits = service.serving.limits
    app = FastAPI(
        title="cotune",
        version=__version__,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=service.running,
        description="Predictions for posts of any number of texts, images and columns of a table, and why.",
    )
    app.add_middleware(
        Guard, keys=service.serving.keys, hosts=service.serving.hosts, metrics=service.metrics
    )  # fmt: skip
    body = {"requestBody": {"required": True, "content": _content(models)}}

    @app.post("/v1/predict", response_model=PredictAnswer, responses=_ERRORS, openapi_extra=body)
    async def predict(request: Request) -> Response:
        """Predict one post (as a form) or several (as JSON)."""
        return _json(await service.predict(request))

    @app.post("/v1/explain", response_model=ExplainAnswer, responses=_ERRORS | _CONFLICT, openapi_extra=body)
    async def explain(request: Request) -> Response:
        """Say why one post is predicted as it is: what its fields, words and parts of its images did."""
        return _json(await service.explain(request))

    @app.get("/v1/model", response_model=ModelsAnswer, responses={401: _ERRORS[401], 403: _ERRORS[403]})
    async def model(request: Request) -> Response:
        """Describe the models, and what requests may hold."""
        return _json(
            ModelsAnswer(
                models=[each.describe() for each in models],
                default=models[0].name,
                limits=ShownLimits.model_validate(limits, from_attributes=True),
                request_id=request.state.request_id,
            )
        )

    @app.get("/healthz", response_model=Status)
    async def healthz() -> Response:
        """Say that the service lives."""
        return _json(Status(status="ok"))

    @app.get("/readyz", response_model=Status, responses={503: {"model": Status, "description": "Not ready"}})
    async def readyz() -> Response:
        """Say whether requests can be answered."""
        return _json(Status(status="ready"), 200) if service.ready() else _json(Status(status="not ready"), 503)

    @app.get("/metrics", response_class=Response, responses={401: _ERRORS[401]})
    async def metrics() -> Response:
        """Return counts and times for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return error_response(error, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = {404: "there is nothing at this address", 405: "this address takes another method"}
        code = _CODES.get(error.status_code, "error")
        found = RefusedError(error.status_code, code, message.get(error.status_code, "refused"), error.headers)
        return error_response(found, request.state.request_id)

    app.openapi = lambda: _openapi(app, service)  # type: ignore[method-assign]
    by_default = [(field.name, field.kind) for field in DEFAULT_FIELDS]
    examples = any([(field.name, field.kind) for field in each.scorer.fields] == by_default for each in models)
    app.router.routes += page_routes(examples=examples)
    return app


def _json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _content(models: Sequence[ServedModel]) -> dict[str, Any]:
    """Return the two forms of a request, for OpenAPI."""
    parts: dict[str, Any] = {"model": {"type": "string", "enum": [model.name for model in models]}}
    for model in models:
        for part, (name, _) in model.reader.parts.items():
            kind = model.reader.fields[name].kind
            parts[part] = {"type": "string", **({"format": "binary"} if kind == "image" else {})}
    return {
        "application/json": {"schema": {"$ref": "#/components/schemas/PredictRequest"}},
        "multipart/form-data": {"schema": {"type": "object", "properties": parts, "additionalProperties": False}},
    }


def _openapi(app: FastAPI, service: Service) -> dict[str, Any]:
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, extra = models_json_schema([(PredictRequest, "validation")], ref_template="#/components/schemas/{model}")
        found["components"]["schemas"] |= extra["$defs"]
        if service.serving.keys:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, methods in found["paths"].items():
                for operation in methods.values() if path.startswith(("/v1/", "/metrics")) else ():
                    operation["security"] = [{"key": []}]
        app.openapi_schema = found
    return app.openapi_schema
