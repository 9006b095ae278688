"""From a name to an encoder: ``bundled:``, ``hf:``, ``timm:`` and local folders.

A folder or a bundled name never reaches out to the network. ``hf:`` and ``timm:`` look into the local cache
of the hub and into the hub itself.
"""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from safetensors import SafetensorError

from cotune.encoders.base import Encoder, Modality
from cotune.encoders.bundled import BUNDLES, open_bundled
from cotune.encoders.image import (
    ImageEncoder,
    TimmEncoder,
    empty_timm_model,
    open_hf_image,
    open_timm,
    open_timm_folder,
)
from cotune.encoders.text import TextEncoder, open_text_encoder
from cotune.errors import EncoderError, did_you_mean

PREFIXES = ("bundled:", "hf:", "timm:")
OFFLINE = "without a network use a bundled: encoder, a local folder, or a model already in the hub's cache"
_AN = {"text": "a text", "image": "an image"}
T = TypeVar("T", bound=Encoder)


def resolve_text(spec: str, *, pooling: str = "auto", max_tokens: int = 128) -> TextEncoder:
    """Open the text encoder that `spec` names.

    Parameters
    ----------
    spec : str
        ``bundled:NAME``, ``hf:NAME`` or the path of a Hugging Face folder.
    pooling : {"auto", "cls", "mean", "max", "last"}
        How token states become one embedding.
    max_tokens : int
        Longest text in tokens.

    Raises
    ------
    EncoderError
        If nothing answers to that name; the message offers the nearest names and a way to work offline.
    """
    return cast(TextEncoder, _resolve(spec, "text", pooling=pooling, max_tokens=max_tokens))


def resolve_image(spec: str, *, crop: str = "encoder") -> ImageEncoder:
    """Open the image encoder that `spec` names: ``bundled:``, ``hf:``, ``timm:`` or a folder.

    Parameters
    ----------
    spec : str
        Its name.
    crop : {"encoder", "none"}
        Whether pictures are cropped as the encoder was trained, or squeezed whole into its frame.

    Raises
    ------
    EncoderError
        If nothing answers to that name, or its preprocessing cannot do without a crop.
    """
    encoder = cast(ImageEncoder, _resolve(spec, "image", pooling="auto", max_tokens=128))
    if crop == "none":
        encoder.see_whole_pictures()
    return encoder


def _resolve(spec: str, modality: Modality, *, pooling: str, max_tokens: int) -> Encoder:
    kind, _, name = spec.partition(":")
    if kind == "bundled":
        opened = open_bundled(name, modality, spec=spec, pooling=pooling, max_tokens=max_tokens)
        return cast(Encoder, opened)
    folder = Path(spec).expanduser()
    if spec.strip() and folder.is_dir():
        return _open_folder(folder, spec, modality, pooling=pooling, max_tokens=max_tokens)
    if kind == "timm":
        if modality == "text":
            raise EncoderError(f"{spec}: timm has image models only; name a text encoder with hf: or a folder")
        if name.startswith("local-dir:"):  # timm's own way to name a folder; the hub has no part in it
            folder = Path(name.removeprefix("local-dir:")).expanduser()
            return _open_folder(folder, spec, modality, pooling=pooling, max_tokens=max_tokens)
        return _open_timm_name(name, spec)
    if kind == "hf":
        if not name:
            raise EncoderError(f"{spec!r} names no model; write hf:OWNER/NAME")
        if modality == "text":
            return _from_hub(
                spec,
                lambda: open_text_encoder(name, spec=spec, pooling=pooling, max_tokens=max_tokens, local=False),
            )
        return _from_hub(spec, lambda: open_hf_image(name, spec=spec, local=False))
    raise EncoderError(_unknown(spec, modality))


def _open_folder(folder: Path, spec: str, modality: Modality, *, pooling: str, max_tokens: int) -> Encoder:
    if not (folder / "config.json").is_file():
        raise EncoderError(
            f"{folder} holds no config.json, so it is no encoder; save one with save_pretrained() or timm's "
            "save_for_hf()"
        )
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as fault:
        raise EncoderError(f"{folder / 'config.json'} is not valid JSON: {fault}") from fault
    where = str(folder)

    def open_it() -> Encoder:
        if modality == "text":
            return open_text_encoder(where, spec=spec, pooling=pooling, max_tokens=max_tokens, local=True)
        if "architecture" in settings:
            return open_timm_folder(folder, spec=spec)
        return open_hf_image(where, spec=spec, local=True)

    return _told(spec, open_it, f"{folder} cannot be opened as {_AN[modality]} encoder", local=True)


def _open_timm_name(name: str, spec: str) -> TimmEncoder:
    import timm

    if not name.startswith(("hf-hub:", "hf_hub:")):
        base = name.split(".")[0]
        if not timm.is_model(base):
            near = did_you_mean(base, timm.list_models())
            raise EncoderError(f"timm has no model {name!r}{near}; `timm.list_models()` lists them. Offline: {OFFLINE}")
    return _from_hub(spec, lambda: open_timm(name, spec=spec))


def _from_hub(spec: str, open_it: Callable[[], T]) -> T:
    what = f"{spec} cannot be opened, either because there is no network or because the hub has no such model"
    with _cache_alone_when_offline():
        return _told(spec, open_it, what)


@contextmanager
def _cache_alone_when_offline() -> Iterator[None]:
    """Spare the user the hub client's half a minute of retries where the hub cannot be reached at all."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(endpoint: str) -> bool:
    if urllib.request.getproxies():
        return True  # behind a proxy only the client itself can tell
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


def _told(spec: str, open_it: Callable[[], T], what: str, *, local: bool = False) -> T:
    """Run `open_it`; whatever the libraries raise becomes one line that says what to do."""
    try:
        return open_it()
    except EncoderError:
        raise
    except (
        OSError, ValueError, LookupError, RuntimeError, ImportError, TypeError, AttributeError, AssertionError,
        SafetensorError,
    ) as fault:  # fmt: skip
        if "trust_remote_code" in str(fault):
            raise EncoderError(
                f"{spec} needs program code that comes with it, which is never run; take an encoder whose architecture "
                "transformers or timm knows itself"
            ) from fault
        raise EncoderError(f"{what} ({_in_a_line(fault)}){'' if local else f'; {OFFLINE}'}") from fault


def _in_a_line(error: BaseException) -> str:
    """Return what an error of a library says in one line; a first line that only announces the others goes along."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:200]


def _unknown(spec: str, modality: Modality) -> str:
    known = [f"bundled:{name}" for name, bundle in BUNDLES.items() if bundle.modality == modality]
    near = did_you_mean(spec, known)
    if not near and (spec.startswith((".", "/", "~")) or Path(spec).suffix):
        ready = ", ".join(known)
        return f"there is no folder {spec}; give the folder of a saved encoder. Ready without a network: {ready}"
    hint = f"hf:{spec}" if modality == "text" or "/" in spec else f"timm:{spec} or hf:{spec}"
    return (
        f"{spec!r} is no folder and has no source prefix ({' '.join(PREFIXES)}){near}; write {hint} to take it "
        f"from the hub. Ready without a network: {', '.join(known)}"
    )


def load_encoder_config(folder: Path) -> Encoder:
    """Build an encoder from what ``save_config`` wrote, without weights; they are to be loaded into it.

    Nothing is read but `folder`.
    """
    said: dict[str, Any] = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    if said["kind"] == "dual":
        from cotune.encoders.clip import load_dual_config

        return load_dual_config(folder)
    if said["modality"] == "text":
        return open_text_encoder(
            str(folder),
            spec=said["spec"],
            pooling=said["pooling"],
            max_tokens=said["max_tokens"],
            local=True,
            weights=False,
            by_length=said.get("by_length", False),
        )
    if said["kind"] == "timm":
        model = empty_timm_model(said["architecture"], said["model_args"])
        settings = {key: value for key, value in said["preprocessing"].items() if key != "by"}
        return TimmEncoder(
            model,
            architecture=said["architecture"],
            data_config=settings,
            spec=said["spec"],
            model_args=said["model_args"],
        )
    return open_hf_image(str(folder), spec=said["spec"], local=True, weights=False)
