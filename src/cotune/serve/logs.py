"""Logs as JSON, one line an event; they hold nothing that a client sent."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("cotune.serve")
_OURS = ("cotune.serve", "uvicorn")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; of an exception the kind and the places, as its text may quote a post."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            found |= describe(record.exc_info[1])
        return json.dumps(found, ensure_ascii=False)


def describe(error: BaseException) -> dict[str, Any]:
    """Return kind and places of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]],
    }


def log(event: str, level: int = logging.INFO, **data: Any) -> None:
    """Write one event."""
    _LOGGER.log(level, event, extra={"data": data})


def log_error(error: BaseException, **data: Any) -> None:
    """Write that something was raised that nobody foresaw."""
    log("error", logging.ERROR, **data, **describe(error))


def configure() -> None:
    """Send our events and uvicorn's warnings to standard error, and what libraries say nowhere."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == _OURS[0] else logging.WARNING)
    logging.captureWarnings(True)  # those about images would be lines that are no JSON
    logging.getLogger().addHandler(logging.NullHandler())
