"""Dual encoders: the two towers of a CLIP or SigLIP model as a text and an image encoder.

Both towers end in the space in which the model was trained to compare them, so that a head sees the projected
embeddings. They are ordinary encoders: they can be frozen, cut and fine-tuned like any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from cotune.encoders.base import Encoder, EncoderOutput, Inputs
from cotune.encoders.hf import reading, transformer_units
from cotune.encoders.image import ImageEncoder
from cotune.encoders.preprocess import HFPreprocessor
from cotune.encoders.resolve import _from_hub, _told
from cotune.encoders.text import TextEncoder
from cotune.errors import EncoderError

_PROJECTIONS = {"text": "text_projection", "image": "visual_projection"}
_TOWERS = {"text": "text_model", "image": "vision_model"}


class Tower(nn.Module):
    """One side of a dual encoder, with its projection into the common space where it has one.

    Parameters
    ----------
    dual : nn.Module
        The whole model.
    modality : {"text", "image"}
        Which side.
    """

    def __init__(self, dual: nn.Module, modality: str) -> None:
        super().__init__()
        self.tower = getattr(dual, _TOWERS[modality])
        self.projection: nn.Module = getattr(dual, _PROJECTIONS[modality], nn.Identity())
        self.config: Any = self.tower.config

    def forward(self, **inputs: Tensor) -> EncoderOutput:
        """Return projected embedding and states."""
        output = self.tower(**inputs)
        return EncoderOutput(self.projection(output.pooler_output), output.last_hidden_state)


class DualTextEncoder(TextEncoder):
    """The text tower of a dual encoder.

    Parameters
    ----------
    dual : nn.Module
        The whole model.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    spec : str
        The name it was asked for by.
    max_tokens : int
        Longer texts are cut here; SigLIP always reads its full length, padding included.
    """

    def __init__(self, dual: Any, tokenizer: Any, *, spec: str, max_tokens: int) -> None:
        super().__init__(Tower(dual, "text"), tokenizer, spec=spec, pooling="cls", max_tokens=max_tokens)
        self.dual_config = dual.config
        with torch.no_grad():
            self.dim = int(self.encode(self.dummy_inputs()).pooled.shape[1])

    def encode(self, inputs: Inputs) -> EncoderOutput:
        """Run the tower; the projected summary is the embedding."""
        mask = inputs["attention_mask"]
        output: EncoderOutput = self.model(input_ids=inputs["input_ids"], attention_mask=mask)
        return EncoderOutput(output.pooled, output.states, mask.bool())

    def describe(self) -> dict[str, Any]:
        """Return kind and length."""
        return {"kind": "dual", "modality": "text", "spec": self.spec, "max_tokens": self.max_tokens}

    def save_config(self, folder: Path) -> None:
        """Write the dual model's configuration and the tokenizer's files."""
        _save(self, folder)
        self.tokenizer.save_pretrained(folder)


class DualImageEncoder(ImageEncoder):
    """The image tower of a dual encoder.

    Parameters
    ----------
    dual : nn.Module
        The whole model.
    processor : BaseImageProcessor
        Its image processor.
    spec : str
        The name it was asked for by.
    """

    def __init__(self, dual: Any, processor: Any, *, spec: str) -> None:
        tower = Tower(dual, "image").eval()
        preprocessor = HFPreprocessor(processor)
        with torch.no_grad():
            trial = tower(pixel_values=torch.zeros(1, 3, *preprocessor.size))
        super().__init__(tower, preprocessor, spec=spec, dim=int(trial.pooled.shape[1]), units=transformer_units(tower))
        self.dual_config = dual.config

    def _encode_normalised(self, pixels: Tensor) -> EncoderOutput:
        output: EncoderOutput = self.model(pixel_values=pixels)
        return output

    def depths(self) -> dict[str, int]:
        """Map embeddings to 0, layer i to i + 1, norm and projection to one more."""
        from cotune.encoders.base import depths_by_order

        return depths_by_order(self.model, self.units)

    def describe(self) -> dict[str, Any]:
        """Return kind and preprocessing."""
        return {
            "kind": "dual",
            "modality": "image",
            "spec": self.spec,
            "preprocessing": self.preprocessor.describe(),
        }

    def save_config(self, folder: Path) -> None:
        """Write the dual model's configuration and the image processor's."""
        _save(self, folder)
        self.preprocessor.save(folder)


def open_dual_encoder(spec: str, *, max_tokens: int = 128, crop: str = "encoder") -> dict[str, Encoder]:
    """Open a CLIP or SigLIP model as a text and an image encoder.

    Parameters
    ----------
    spec : str
        ``hf:OWNER/NAME``, or a local folder, for which no network is used.
    max_tokens : int
        Longest text in tokens.
    crop : {"encoder", "none"}
        Whether pictures are cropped as the encoder was trained, or squeezed whole into its frame.

    Raises
    ------
    EncoderError
        If nothing answers to that name, it is no dual encoder, or cannot do without a crop.
    """
    towers = _open_dual(spec, max_tokens)
    if crop == "none":
        cast(ImageEncoder, towers["image"]).see_whole_pictures()
    return towers


def _open_dual(spec: str, max_tokens: int) -> dict[str, Encoder]:
    folder = Path(spec).expanduser()
    if folder.is_dir():
        what = f"{folder} cannot be opened as a dual encoder"
        return _told(spec, lambda: _open(str(folder), spec, max_tokens, local=True), what)  # type: ignore[type-var]
    kind, _, name = spec.partition(":")
    if kind == "hf" and name:
        return _from_hub(spec, lambda: _open(name, spec, max_tokens, local=False))  # type: ignore[type-var]
    raise EncoderError(
        f"{spec!r} is neither a folder nor hf:OWNER/NAME; a dual encoder is for example hf:openai/clip-vit-base-patch32"
    )


def _open(name: str, spec: str, max_tokens: int, *, local: bool) -> dict[str, Encoder]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    _refuse_unimodal(AutoConfig.from_pretrained(name, **reading(local)), spec)
    dual, found = AutoModel.from_pretrained(
        name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **reading(local)
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise EncoderError(f"{spec} lacks {len(missing)} weights (first: {missing[0]}); they would be random")
    tokenizer = AutoTokenizer.from_pretrained(name, **reading(local))
    processor = AutoImageProcessor.from_pretrained(name, **reading(local))
    return {
        "text": DualTextEncoder(dual.eval(), tokenizer, spec=spec, max_tokens=max_tokens),
        "image": DualImageEncoder(dual, processor, spec=spec),
    }


def load_dual_config(folder: Path) -> Encoder:
    """Build a tower from what ``save_config`` wrote, without its weights; they are to be loaded into it."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    said: dict[str, Any] = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(folder, **reading(True))
    dual = AutoModel.from_config(config, trust_remote_code=False).float().eval()
    if said["modality"] == "text":
        tokenizer = AutoTokenizer.from_pretrained(folder, **reading(True))
        return DualTextEncoder(dual, tokenizer, spec=said["spec"], max_tokens=said["max_tokens"])
    processor = AutoImageProcessor.from_pretrained(folder, **reading(True))
    return DualImageEncoder(dual, processor, spec=said["spec"])


def _refuse_unimodal(config: Any, spec: str) -> None:
    if not (hasattr(config, "text_config") and hasattr(config, "vision_config")):
        raise EncoderError(f"{spec} is a {config.model_type} model, not a dual encoder of text and image such as CLIP")


def _save(encoder: DualTextEncoder | DualImageEncoder, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    encoder.dual_config.save_pretrained(folder)
    (folder / "encoder.json").write_text(json.dumps(encoder.describe(), indent=2), encoding="utf-8")
