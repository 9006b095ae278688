"""What text and image encoders of transformers share: opening a model, and finding its layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cotune.errors import EncoderError


def reading(local: bool) -> dict[str, Any]:
    """Return how files of the hub's form are read: off the network if `local`, and no code among them is ever run."""
    return {"local_files_only": local, "trust_remote_code": False}


def open_model(name: str, *, spec: str, local: bool, weights: bool) -> nn.Module:
    """Open a unimodal model with ``AutoModel``, in float32 and without an unused pooler.

    Parameters
    ----------
    name : str
        Hub name or folder.
    spec : str
        How the user named it, for messages.
    local : bool
        Whether to stay off the network.
    weights : bool
        False builds the network from its configuration alone, to be filled later.

    Raises
    ------
    EncoderError
        If the model is a dual encoder, or its file lacks some of its weights.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, **reading(local))
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird turns to full attention for good once it meets a short text; its answers would depend on the order.
        config.attention_type = "original_full"
    opener, extra = _opener(config)
    if weights:
        with _quiet():
            model, found = opener.from_pretrained(
                name,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **reading(local),
                **extra,
            )
        # Of an encoder-decoder only the encoder is kept; some files hold no more than that.
        missing = sorted(key for key in found["missing_keys"] if not (_is_pair(model) and key.startswith("decoder.")))
        if missing:
            raise EncoderError(
                f"{spec} lacks {len(missing)} weights of {type(model).__name__} (first: {missing[0]}); "
                "they would be random, so it is not opened"
            )
    else:
        if hasattr(opener, "from_config"):
            model = opener.from_config(config, trust_remote_code=False, **extra).float()
        else:  # a class of its own, which is not chosen by a file
            model = opener._from_config(config, **extra).float()
    if hasattr(model, "text_model") and hasattr(model, "vision_model"):
        raise EncoderError(f"{spec} is a dual encoder of text and image; write clip:{spec} to use its towers")
    if _is_pair(model):
        model = model.get_encoder()
    result: nn.Module = model
    return result


def _is_pair(model: Any) -> bool:
    """Tell whether a model reads with one part and writes with another."""
    return hasattr(model, "encoder") and "decoder_input_ids" in inspect.signature(model.forward).parameters


def cached_path(name: str, file: str, local: bool) -> Path | None:
    """Return where a file of a folder or of a repository of the hub lies, or None if it has no such file."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        name,
        file,
        local_files_only=local,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def transformer_units(model: nn.Module) -> list[str]:
    """Return the names of the layers or stages of a transformers model, or nothing if it has no chain.

    The chain is the list of modules that holds the most parameters; the outermost one if several do.
    """
    best: tuple[int, str, int] = (0, "", 0)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1:
            size = sum(p.numel() for p in module.parameters())
            if size > best[0]:
                best = (size, name, len(module))
    return [f"{best[1]}.{i}" for i in range(best[2])]


def _opener(config: Any) -> tuple[Any, dict[str, Any]]:
    """Return what opens a model of this configuration, and what it is told besides.

    Classes that know a pooler which nothing would read are asked to leave it out.
    """
    import transformers

    auto: Any = transformers.AutoModel
    if type(config) not in auto._model_mapping:
        # AutoModel has no entry for some towers of dual encoders; the configuration names their class.
        for name in config.architectures or []:
            found = getattr(transformers, name, None)
            if getattr(found, "config_class", None) is type(config):
                return found, {}
    if config.model_type == "swin":
        return auto, {}  # its pooler is the mean over patches and has no parameters
    classes = auto._model_mapping[type(config)]
    cls = classes[0] if isinstance(classes, tuple) else classes
    known = inspect.signature(cls.__init__).parameters
    return auto, {"add_pooling_layer": False} if "add_pooling_layer" in known else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading report; what matters of it is checked and raised here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
