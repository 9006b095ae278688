"""Exact parameter counts from configurations alone: the networks are built without weights or memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cotune.encoders.image import timm_dim
from cotune.encoders.resolve import find_source
from cotune.encoders.sources import first_line
from cotune.errors import EncoderError
from cotune.heads import make_head


@dataclass(frozen=True)
class Size:
    """A network's size.

    Attributes
    ----------
    name : str
        What the row stands for.
    counted : str
        What exactly was counted.
    parameters : int
        How many parameters that has.
    paper : float or None
        What Toledo & Marcacini (2022) give in their Table 2, in millions.
    """

    name: str
    counted: str
    parameters: int
    paper: float | None = None


def paper_sizes(n_classes: int = 3) -> list[Size]:
    """Count the models of the paper's Table 2, with heads for `n_classes` classes."""
    import timm
    from transformers import CLIPConfig, CLIPModel, DistilBertConfig, DistilBertModel

    with torch.device("meta"):
        resnet = timm.create_model("resnet50", pretrained=False, num_classes=0)
        distilbert = DistilBertModel(DistilBertConfig())
        clip = CLIPModel(CLIPConfig())
        text_dim, image_dim = int(distilbert.config.dim or 0), timm_dim(resnet)
        pair = {"text": text_dim, "image": image_dim}
        concat = make_head("concat", pair, n_classes, width=32)
        reference = make_head("reference", pair, n_classes)
        shared = int(clip.config.projection_dim or 0)
        on_clip = make_head("reference", {"text": shared, "image": shared}, n_classes)
    image, text = count(resnet), count(distilbert)
    return [
        Size("ResNet-50", "timm resnet50 without its classifier", image, 23.5),
        Size("DistilBERT", "DistilBertModel, base size", text, 66.4),
        Size("concatenation", "both, and a concat head of width 32", image + text + count(concat), 90.0),
        Size(
            "CLIP ViT-B/32", "CLIPModel and a reference head on its two embeddings", count(clip) + count(on_clip), 152.0
        ),
        Size("joint fine-tuning", "both, and the reference head", image + text + count(reference), 90.3),
    ]


def count(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def encoder_size(spec: str) -> Size:
    """Count the encoder that `spec` names, from its configuration; no weights are read.

    Parameters
    ----------
    spec : str
        ``bundled:``, ``timm:``, ``hf:`` or a local folder.

    Raises
    ------
    EncoderError
        If there is no such encoder, or its configuration is not on this machine.
    """
    found = find_source(spec)
    if found is None:
        raise EncoderError(f"{spec!r} names no encoder; write bundled:NAME, timm:NAME, hf:OWNER/NAME or a folder")
    source, name = found
    try:
        with torch.device("meta"):
            counted, model = source.skeleton(name, spec)
    except EncoderError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise EncoderError(f"the configuration of {spec} cannot be read ({first_line(error)})") from error
    return Size(spec, counted, count(model))
