"""What requests and answers look like; the description in OpenAPI is made from it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Cell = str | bool | int | float | None
FieldValue = Annotated[
    str | dict[str, Cell] | None,
    Field(description="A text; an image in base64 (no URL, no path); the columns of a table field by name."),
]


class Post(BaseModel):
    """One post; a field that is left out or null is absent."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"id": "1", "fields": {"text": "what a lovely day"}}]},
    )

    id: str | None = Field(None, max_length=200, description="Comes back with the prediction.")
    fields: dict[str, FieldValue] = Field(description="By the names that GET /v1/model lists.")


class PredictRequest(BaseModel):
    """Some posts for one model."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="A name that GET /v1/model lists; the default if left out.")
    posts: list[Post] = Field(min_length=1)


class Prediction(BaseModel):
    """What a model says of one post."""

    id: str | None = Field(description="As it was sent.")
    label: str | list[str] | float | None = Field(
        description="The class; the labels, for multi-label; the number, for regression; null with an error."
    )
    probabilities: dict[str, float] | None = Field(description="By label; null for regression.")
    value: float | None = Field(description="The number, for regression.")
    field_labels: dict[str, str] = Field(default={}, description="By field, where the run learned labels of fields.")
    further: dict[str, float] = Field(
        default={}, description="Of such a run: probabilities p:FIELD_LABEL, and conflict: that fields contradict."
    )
    known: str | None = Field(None, description="The known image that the post shows, where the service looks for any.")
    known_distance: int | None = Field(None, description="In how many of 64 bits of their hashes the two differ.")
    shares: dict[str, float] = Field(description="How much of the prediction each field drove; they add up to 1.")
    error: str | None = Field(description="Why there is no prediction, or what of the post was not used.")


class Answer(BaseModel):
    """What every answer says of where it comes from."""

    model_config = ConfigDict(protected_namespaces=())

    model: str = Field(description="The model's name.")
    run: str = Field(description="Hash of the weights.")
    request_id: str


class PredictAnswer(Answer):
    """One prediction for every post, in order."""

    predictions: list[Prediction]


class Word(BaseModel):
    """One word and what it did."""

    word: str
    start: int
    end: int
    value: float = Field(description="Integrated gradients, on the scale of the contributions.")


class ExplainAnswer(Answer):
    """Why a post is predicted as it is."""

    prediction: Prediction
    explained: str | None = Field(description="The output that the rest is about, such as the predicted class.")
    scale: str = Field(description="Unit of the contributions: log-odds or value.")
    base: float = Field(description="The prediction with all fields removed.")
    contributions: dict[str, float] = Field(description="By field; with the base they add up to the prediction.")
    words: dict[str, list[Word]] = Field(description="By text field.")
    overlays: dict[str, str] = Field(description="By image field: a data: URL of a PNG.")


class ModelField(BaseModel):
    """One input of a post."""

    name: str
    kind: str
    columns: list[str] = Field(description="The columns of a table field; else empty.")
    categories: dict[str, list[str]] = Field(description="The values of those columns that hold categories.")


class Model(BaseModel):
    """One model that is served."""

    name: str
    task: str
    labels: list[str] | None = Field(description="null for regression.")
    thresholds: dict[str, float] | None = Field(description="From which probability a label is given (multi-label).")
    fields: list[ModelField]
    run: str
    engine: str
    explains: bool


class ShownLimits(BaseModel):
    """What a request may hold."""

    body_bytes: int
    image_pixels: int
    batch: int
    text_characters: int


class ModelsAnswer(BaseModel):
    """All models, and what requests may hold."""

    models: list[Model]
    default: str
    limits: ShownLimits
    request_id: str


class ErrorBody(BaseModel):
    """What is wrong."""

    code: str
    message: str
    request_id: str


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: ErrorBody


class Status(BaseModel):
    """Whether the service lives, or is ready."""

    status: str
