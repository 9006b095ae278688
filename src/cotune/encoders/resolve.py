"""From a name to an encoder: ``SOURCE:NAME``, or the path of a folder.

A folder or a bundled name never reaches out to the network. ``hf:``, ``timm:`` and ``clip:`` look into the local cache
of the hub and into the hub itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from cotune.encoders.base import Encoder
from cotune.encoders.image import ImageEncoder
from cotune.encoders.members import MEMBERS, load_members
from cotune.encoders.sources import SOURCES, ReadyEncoder, Source, Wanted
from cotune.encoders.text import TextEncoder
from cotune.errors import EncoderError, did_you_mean
from cotune.fields import Field
from cotune.files import read_json
from cotune.settings import FitConfig

_FOLDER = "folder"


def open_encoder(
    field: Field, config: FitConfig, values: Sequence[Any] | None = None, rows: Sequence[int] | None = None
) -> Encoder:
    """Open the encoder of a field: its own, or the one that the settings name for its kind.

    Parameters
    ----------
    field : Field
        The field.
    config : FitConfig
        The settings.
    values : sequence, optional
        The field in every post, for encoders that are learned from the posts.
    rows : sequence of int, optional
        The posts' rows in their table, for messages.

    Raises
    ------
    EncoderError
        If nothing answers to that name; the message offers the nearest names and a way to work offline.
    """
    usual = {"text": config.text_encoder, "image": config.image_encoder}
    spec = field.encoder or usual.get(field.kind) or f"{field.kind}:"
    return _open(
        Wanted(
            spec, field.kind, config.text_pooling, config.max_tokens, config.image_crop == "none", field.columns,
            field.categories, config.normalize_text, values, rows,
        )
    )  # fmt: skip


def resolve_text(spec: str, *, pooling: str = "auto", max_tokens: int = 128) -> TextEncoder:
    """Open the text encoder that `spec` names.

    Parameters
    ----------
    spec : str
        ``bundled:NAME``, ``hf:NAME``, ``clip:hf:NAME``, or the path of a Hugging Face folder.
    pooling : {"auto", "cls", "mean", "max", "last"}
        How token states become one embedding.
    max_tokens : int
        Longest text in tokens.

    Raises
    ------
    EncoderError
        If nothing answers to that name; the message offers the nearest names and a way to work offline.
    """
    return cast(TextEncoder, _open(Wanted(spec, "text", pooling, max_tokens)))


def resolve_image(spec: str, *, crop: str = "encoder") -> ImageEncoder:
    """Open the image encoder that `spec` names: ``bundled:``, ``hf:``, ``timm:``, ``clip:`` or a folder.

    Parameters
    ----------
    spec : str
        Its name.
    crop : {"encoder", "none"}
        Whether images are cropped as the encoder was trained, or squeezed whole into its frame.

    Raises
    ------
    EncoderError
        If nothing answers to that name, or its preprocessing cannot do without a crop.
    """
    return cast(ImageEncoder, _open(Wanted(spec, "image", whole_images=crop == "none")))


def _open(wanted: Wanted) -> Encoder:
    found = find_source(wanted.spec)
    if found is None:
        raise EncoderError(_unknown(wanted))
    source, name = found
    encoder = source.open(name, wanted)
    if encoder.modality != wanted.modality:
        raise EncoderError(f"{wanted.spec} reads a field of kind {encoder.modality}, not {wanted.modality}")
    if wanted.whole_images and isinstance(encoder, ImageEncoder):
        encoder.see_whole_images()
    if wanted.normalize_text != "none" and isinstance(encoder, TextEncoder):
        encoder.normalize(wanted.normalize_text)
    return encoder


def find_source(spec: str) -> tuple[Source, str] | None:
    """Return the source that `spec` names and what it calls the encoder; None if there is no such source.

    A folder that exists comes first, whatever it is called; only "bundled" is never the name of one.
    """
    prefix, colon, name = spec.partition(":")
    here = bool(spec.strip()) and prefix != "bundled" and Path(spec).expanduser().is_dir()
    if here:
        return SOURCES[_FOLDER], spec
    if colon and prefix != _FOLDER and prefix in SOURCES:
        return SOURCES[prefix], name
    return None


def asks_hub(spec: str) -> bool:
    """Tell whether opening `spec` may ask the hub."""
    found = find_source(spec)
    return found is not None and found[0].hub


def hub_name(spec: str) -> str | None:
    """Return ``OWNER/NAME`` of an encoder on the hub, as far as that is known without asking it."""
    found = find_source(spec)
    return None if found is None else found[0].hub_name(found[1])


def ready_encoders() -> list[ReadyEncoder]:
    """Return the encoders that can be opened without a network, of every source."""
    return [encoder for source in SOURCES.all().values() for encoder in source.ready()]


def _unknown(wanted: Wanted) -> str:
    spec, modality = wanted.spec, wanted.modality
    known = [encoder.spec for encoder in SOURCES["bundled"].ready() if encoder.modality == modality]
    near = did_you_mean(spec, known)
    if not near and (spec.startswith((".", "/", "~")) or Path(spec).suffix):
        ready = ", ".join(known)
        return f"there is no folder {spec}; give the folder of a saved encoder. Ready without a network: {ready}"
    hint = f"hf:{spec}" if modality == "text" or "/" in spec else f"timm:{spec} or hf:{spec}"
    prefixes = " ".join(f"{prefix}:" for prefix in SOURCES if prefix != _FOLDER)
    return (
        f"{spec!r} is no folder and has no source prefix ({prefixes}){near}; write {hint} to take it "
        f"from the hub. Ready without a network: {', '.join(known)}"
    )


def load_encoder_config(folder: Path) -> Encoder:
    """Build an encoder from what ``save_config`` wrote, without weights; they are to be loaded into it.

    Nothing is read but `folder`.

    Raises
    ------
    EncoderError
        If no source knows this kind of encoder.
    """
    saved: dict[str, Any] = read_json(folder / "encoder.json")
    if saved["kind"] == MEMBERS:
        return load_members(folder, saved, load_encoder_config)
    kinds = encoder_kinds()
    if saved["kind"] not in kinds:
        raise EncoderError(f"{folder} holds an encoder of the kind {saved['kind']!r}, which no source knows")
    encoder = kinds[saved["kind"]].load(folder, saved)
    level = saved.get("normalize_text", "none")
    if level != "none" and isinstance(encoder, TextEncoder):
        encoder.normalize_as_saved(folder, level)
    return encoder


def encoder_kinds() -> dict[str, Source]:
    """Return which source opens saved encoders of which kind."""
    return {kind: source for source in SOURCES.all().values() for kind in source.kinds}
