"""What every source of encoders is: where an encoder comes from, and the registry of sources."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from safetensors import SafetensorError
from torch import nn

from cotune.encoders.base import Encoder, Modality
from cotune.errors import EncoderError
from cotune.registry import Registry
from cotune.settings import NormalizeText

OFFLINE = "without a network use a bundled: encoder, a local folder, or a model already in the hub's cache"
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source.

    Attributes
    ----------
    spec : str
        The encoder as the user named it, prefix included.
    modality : str
        The kind of field that the encoder shall read.
    pooling : str
        How token states become one embedding, or "auto".
    max_tokens : int
        Longest text in tokens.
    whole_images : bool
        Whether images are squeezed whole into the encoder's frame instead of being cropped.
    columns, categories : tuple of str
        Of a field of several columns: which, and which of them hold categories though they look like numbers.
    normalize_text : str
        What is undone in texts before they become tokens.
    values : sequence or None
        The field in every post, for encoders that are learned from the posts.
    rows : sequence of int or None
        The posts' rows in their table, for messages.
    """

    spec: str
    modality: Modality
    pooling: str = "auto"
    max_tokens: int = 128
    whole_images: bool = False
    columns: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    normalize_text: NormalizeText = "none"
    values: Sequence[Any] | None = None
    rows: Sequence[int] | None = None


@dataclass(frozen=True)
class ReadyEncoder:
    """An encoder that can be opened without a network, or what is missing for it.

    Attributes
    ----------
    spec : str
        What to pass to ``--text-encoder`` or ``--image-encoder``.
    modality : str
        "text", "image" or "text or image" where the configuration does not tell.
    ready : bool
        Whether it is on this machine.
    note : str
        Its licence and source, or how to get it.
    """

    spec: str
    modality: str
    ready: bool
    note: str


class Source(abc.ABC):
    """Where encoders come from: what stands before the colon in ``hf:OWNER/NAME``.

    Attributes
    ----------
    example : str
        How an encoder of this source is named, for messages.
    kinds : frozenset of str
        Values of ``kind`` in the ``encoder.json`` of saved encoders that this source opens again.
    hub : bool
        Whether opening may reach out to the network.
    """

    example: ClassVar[str]
    kinds: ClassVar[frozenset[str]] = frozenset()
    hub: ClassVar[bool] = False

    @abc.abstractmethod
    def open(self, name: str, wanted: Wanted) -> Encoder:
        """Open the pretrained encoder `name` (what follows the prefix).

        Raises
        ------
        EncoderError
            If there is none of that name, or not for that modality.
        """

    def load(self, folder: Path, saved: Mapping[str, Any]) -> Encoder:
        """Build an encoder from the folder of a run, without weights; `saved` is its ``encoder.json``."""
        raise EncoderError(f"encoders of {self.example} cannot be opened from {folder}")

    @abc.abstractmethod
    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        """Return what the network of `name` is called, and the network without weights, on torch's default device."""

    def ready(self) -> list[ReadyEncoder]:
        """Return what can be opened without a network."""
        return []

    def hub_name(self, name: str) -> str | None:
        """Return ``OWNER/NAME`` of the encoder `name` on the hub, as far as that is known without asking it."""
        return None


#: By prefix; other packages add theirs with the entry point ``cotune.sources``.
SOURCES: Registry[Source] = Registry("encoder source", "cotune.sources", base=lambda: Source, instances=True)


def in_one_line(spec: str, open_it: Callable[[], T], what: str, *, local: bool = False) -> T:
    """Run `open_it`; whatever the libraries raise becomes one line that says what to do."""
    try:
        return open_it()
    except EncoderError:
        raise
    except (
        OSError, ValueError, LookupError, RuntimeError, ImportError, TypeError, AttributeError, AssertionError,
        SafetensorError,
    ) as error:  # fmt: skip
        if "trust_remote_code" in str(error):
            raise EncoderError(
                f"{spec} needs program code that comes with it, which is never run; take an encoder whose architecture "
                "transformers or timm knows itself"
            ) from error
        raise EncoderError(f"{what} ({first_line(error)}){'' if local else f'; {OFFLINE}'}") from error


def first_line(error: BaseException) -> str:
    """Return what an error of a library says in one line; a first line that only announces the others goes along."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:200]
