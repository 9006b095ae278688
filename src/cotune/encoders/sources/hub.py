"""What sources that may ask a model hub share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cotune.encoders.sources.base import ReadyEncoder, in_one_line
from cotune.hub import cache_alone_when_offline

T = TypeVar("T")


def from_hub(spec: str, open_it: Callable[[], T]) -> T:
    """Run `open_it`, which may ask the hub; an error is one line."""
    what = f"{spec} cannot be opened, either because there is no network or because the hub has no such model"
    with cache_alone_when_offline():
        return in_one_line(spec, open_it, what)


def cached_encoders(library: str, prefix: str) -> list[ReadyEncoder]:
    """Return the models in the hub's cache that look like encoders of a library ("timm" or "transformers")."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return []
    found = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        if repository.repo_type != "model":
            continue
        files = {file.file_name: Path(file.file_path) for revision in repository.revisions for file in revision.files}
        known = _library_and_modality(files)
        if known is not None and known[0] == library:
            size = f"{repository.size_on_disk / 1e6:,.0f} MB in the hub's cache"
            found.append(ReadyEncoder(prefix + repository.repo_id, known[1], True, size))
    return found


def _library_and_modality(files: dict[str, Path]) -> tuple[str, str] | None:
    """Tell what a cached model is, by its files; None for what has no weights that would be opened."""
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        return None
    try:
        config = json.loads(files["config.json"].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if "architecture" in config:
        return "timm", "image"
    kind = config.get("model_type")
    if not kind or {"text_config", "vision_config"} & set(config) or config.get("is_decoder"):
        return None
    if "preprocessor_config.json" in files:
        return "transformers", "image"
    named = {"tokenizer.json", "vocab.txt", "tokenizer_config.json"} & set(files)
    return ("transformers", "text") if named else None
