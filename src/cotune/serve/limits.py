"""What a client may send, and how a request that may not be answered is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from cotune.errors import ConfigError

_MEGABYTE = 2**20
#: How many bodies of the largest size may be in memory at a time.
_BODIES = 8


class RefusedError(Exception):
    """A request that is not answered as it was asked.

    Parameters
    ----------
    status : int
        The HTTP status.
    code : str
        What is wrong, for programs.
    message : str
        What is wrong and how to fix it, for people. It quotes nothing that a client sent.
    headers : mapping, optional
        Further headers of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """What a client may send.

    Attributes
    ----------
    body_bytes : int
        Bytes of a request's body.
    image_pixels : int
        Pixels of an image.
    batch : int
        Posts in a request.
    text_characters : int
        Characters of a text.
    queue : int
        Posts that may wait for a model.
    body_seconds : float
        Within how many seconds a body has to arrive.
    """

    body_bytes: int = 32 * _MEGABYTE
    image_pixels: int = 25_000_000
    batch: int = 64
    text_characters: int = 50_000
    queue: int = 256
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.queue < self.batch:
            raise ConfigError(
                f"the queue holds {self.queue} posts and a request may bring {self.batch}; raise --max-queue or lower "
                "--max-batch"
            )


@dataclass
class Memory:
    """How many bytes of bodies are held until their requests are answered; those beyond a limit are refused.

    Attributes
    ----------
    most : int
        The limit.
    """

    most: int
    held: int = field(default=0, init=False)

    @classmethod
    def of(cls, limits: Limits) -> Memory:
        """Return the memory for some bodies of the largest size."""
        return cls(_BODIES * limits.body_bytes)

    @contextmanager
    def request(self) -> Iterator[Held]:
        """Give what one request holds free at its end."""
        held = Held(self)
        try:
            yield held
        finally:
            self.held -= held.bytes


@dataclass
class Held:
    """What one request holds of a :class:`Memory`."""

    memory: Memory
    bytes: int = 0

    def add(self, n: int) -> None:
        """Take `n` bytes more.

        Raises
        ------
        RefusedError
            With status 429, if that is too much.
        """
        if self.memory.held + n > self.memory.most:
            raise busy(1)
        self.bytes += n
        self.memory.held += n


def busy(seconds: int) -> RefusedError:
    """Return the refusal of a request that may come again after some seconds."""
    return RefusedError(
        429, "busy", f"the service is busy; try again in {seconds} s", {"Retry-After": str(max(1, seconds))}
    )
