"""Reading the body of a request: within limits of size and time, as JSON or as a form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from python_multipart.multipart import FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from cotune.errors import listed
from cotune.serve.limits import Held, Limits, RefusedError
from cotune.serve.model import ServedModel
from cotune.serve.posts import ReadPost
from cotune.serve.schemas import PredictRequest

_JSON, _FORM = "application/json", "multipart/form-data"
#: Bodies that are not read are taken in for so many seconds, so that their senders read the answer.
_LINGER = 1.0
_KNOWN = frozenset({"model", "posts", "id", "fields"})
#: What stands between the values of a JSON text; one with more than these would take seconds to read.
_SEPARATORS, _MOST_SEPARATORS = (b",", b"[", b"{"), 1_000_000
_CLOSE = {"Connection": "close"}


@dataclass(frozen=True)
class ReadBody:
    """What a request asks.

    Attributes
    ----------
    model : ServedModel
        The model that is asked.
    posts : list of ReadPost
        The posts it is asked about.
    is_form : bool
        Whether it was a form, which has one post.
    """

    model: ServedModel
    posts: list[ReadPost]
    is_form: bool


class BodyReader:
    """Reads the bodies of requests.

    Parameters
    ----------
    models : sequence of ServedModel
        What is served; the first is the default.
    limits : Limits
        What a client may send.
    """

    def __init__(self, models: Sequence[ServedModel], limits: Limits) -> None:
        self.models = {model.name: model for model in models}
        self.limits = limits
        #: The fields and columns of the model that reads most of them.
        self._widest = max(
            len(model.reader.fields) + sum(len(each.columns) for each in model.reader.fields.values())
            for model in models
        )

    def model(self, name: str | None) -> ServedModel:
        """Return a model by its name.

        Raises
        ------
        RefusedError
            If there is none of that name.
        """
        found = next(iter(self.models.values())) if name is None else self.models.get(name)
        if found is None:
            raise RefusedError(404, "unknown_model", f"there is no such model; there are: {listed(self.models)}")
        return found

    async def read(self, request: Request, held: Held) -> ReadBody:
        """Read a request.

        Parameters
        ----------
        request : Request
            Whose body was not read.
        held : Held
            Counts its bytes.

        Raises
        ------
        RefusedError
            If it is too large, too slow, of another type, or not as described.
        """
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        media = kind.decode("latin-1")
        try:
            if media not in (_JSON, _FORM):
                raise RefusedError(415, "unsupported_type", f"send {_JSON} or {_FORM}")
            body = await self._bytes(request, held)
        except RefusedError as error:
            await _drain(request)
            error.headers.update(_CLOSE)
            raise
        boundary = options.get(b"boundary")
        if media == _FORM:
            return await asyncio.to_thread(self._form, body, boundary)
        return await asyncio.to_thread(self._json, body)

    async def _bytes(self, request: Request, held: Held) -> bytes:
        most = self.limits.body_bytes
        too_large = RefusedError(413, "body_too_large", f"the body has more than {most:,} bytes")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 15 or int(length) > most):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > most:
                        raise too_large
                    held.add(len(chunk))
                    body += chunk
        except TimeoutError:
            message = f"the body did not arrive within {self.limits.body_seconds:g} s"
            raise RefusedError(408, "too_slow", message) from None
        return bytes(body)

    def _json(self, body: bytes) -> ReadBody:
        most = f"posts: at most {self.limits.batch} in a request"
        if sum(map(body.count, _SEPARATORS)) > _MOST_SEPARATORS:
            raise RefusedError(413, "batch_too_long", f"the body has too many values; {most}")
        try:
            given = from_json(body)
        except ValueError:
            raise RefusedError(422, "invalid_json", "the body is no JSON that can be read") from None
        # Before it is validated, as every wrong value of millions would be described.
        if isinstance(given, dict) and isinstance(posts := given.get("posts"), list) and len(posts) > self.limits.batch:
            raise RefusedError(413, "batch_too_long", most)
        if _is_larger(given, 8 + self.limits.batch * (2 + self._widest)):
            raise RefusedError(422, "invalid_request", "the body has more fields and columns than any model reads")
        try:
            asked = PredictRequest.model_validate(given)
        except ValidationError as error:
            raise self._described(error) from None
        model = self.model(asked.model)
        posts = [model.reader.read(post.fields, f"posts.{i}.fields", post.id) for i, post in enumerate(asked.posts)]
        return ReadBody(model, posts, is_form=False)

    def _described(self, error: ValidationError) -> RefusedError:
        """Say where and what is wrong; names that are not ours are left out, as they may hold anything."""
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        ours = _KNOWN.union(*(model.reader.fields for model in self.models.values()))
        where: list[str] = []
        for part in first["loc"]:
            if not isinstance(part, int) and part not in ours:
                break
            where.append(str(part))
        return RefusedError(422, "invalid_request", f"{'.'.join(where) or 'body'}: {_lowered(first['msg'])}")

    def _form(self, body: bytes, boundary: bytes | None) -> ReadBody:
        parts = _parts(body, boundary, 1 + max(len(model.reader.parts) for model in self.models.values()))
        names = [content for name, content, _ in parts if name == "model"]
        chosen = self.model(None if not names else names[0].decode("utf-8", "replace"))
        post = chosen.reader.read_parts(part for part in parts if part[0] != "model")
        return ReadBody(chosen, [post], is_form=True)


def _parts(body: bytes, boundary: bytes | None, most: int) -> list[tuple[str, bytes, bool]]:
    """Return name, content, and whether it is a file, of the parts of a form; nothing is written to a disk."""
    found: list[tuple[str, bytes, bool]] = []
    ended: list[bool] = []

    def add(name: bytes | None, content: bytes, is_file: bool) -> None:
        if len(found) > most:
            raise RefusedError(422, "invalid_form", "the form has more parts than the model has fields")
        found.append(((name or b"").decode("utf-8", "replace"), content, is_file))

    def add_file(file: Any) -> None:
        file.file_object.seek(0)
        add(file.field_name, file.file_object.read(), True)

    malformed = RefusedError(422, "invalid_form", "the body is no form that can be read; is its boundary right?")
    try:
        parser = FormParser(
            _FORM,
            lambda field: add(field.field_name, field.value or b"", False),
            add_file,
            lambda: ended.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},
        )
        parser.write(body)
        parser.finalize()
    except RefusedError:
        raise
    except Exception:  # the parser's own errors quote the form
        raise malformed from None
    if not ended:
        raise malformed
    return found


async def _drain(request: Request) -> None:
    """Take in what is on its way, for a moment: who is still sending would not read an answer."""
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_LINGER):
            async for _ in request.stream():
                pass


def _is_larger(value: Any, most: int) -> bool:
    """Tell whether a JSON value holds more than `most` others."""
    n, inside = 0, [value]
    while inside:
        one = inside.pop()
        if isinstance(one, dict | list):
            n += len(one)
            if n > most:
                return True
            inside.extend(one.values() if isinstance(one, dict) else one)
    return False


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
