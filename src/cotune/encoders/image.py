"""Image encoders: any timm model, and any image model that transformers' ``AutoModel`` opens."""

from __future__ import annotations

import abc
import copy
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cotune.encoders.base import Encoder, EncoderOutput, Inputs, Modality, depths_by_order
from cotune.encoders.hf import transformer_units
from cotune.encoders.prepared import ReadOptions
from cotune.encoders.prepared_images import PreparedImages
from cotune.encoders.preprocess import HFPreprocessor, Preprocessor, TimmPreprocessor
from cotune.errors import EncoderError


class ImageEncoder(Encoder):
    """A network over pixels.

    Parameters
    ----------
    model : nn.Module
        The network.
    preprocessor : Preprocessor
        The network's own resizing, cropping and normalisation.
    spec : str
        The name it was asked for by.
    dim : int
        Size of the pooled embedding.
    units : sequence of str
        Its stages or layers, from input to output.
    """

    modality: ClassVar[Modality] = "image"

    def __init__(
        self, model: nn.Module, preprocessor: Preprocessor, *, spec: str, dim: int, units: Sequence[str]
    ) -> None:
        super().__init__(model, spec=spec, dim=dim, units=units)
        self.preprocessor = preprocessor
        shape = (1, 3, 1, 1)
        self._scale: Tensor
        self._shift: Tensor
        self.register_buffer("_scale", torch.from_numpy(preprocessor.scale).view(shape), persistent=False)
        self.register_buffer("_shift", torch.from_numpy(preprocessor.shift).view(shape), persistent=False)

    def prepare(self, values: Sequence[Any], options: ReadOptions) -> PreparedImages:
        """Read images and keep their pixels."""
        return PreparedImages(values, self.preprocessor, options).read()

    def see_whole_images(self) -> None:
        """Squeeze whole images into the network's frame from now on, instead of cutting their edges off.

        Raises
        ------
        EncoderError
            If the preprocessing that came with the network cannot be changed.
        """
        self.preprocessor = self.preprocessor.whole()
        self.weights_changed()  # the same weights, but other embeddings

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn bytes (B, 3, H, W) into what the network sees, in the memory layout that is fastest for it."""
        dtype = next(self.model.parameters()).dtype
        result: Tensor = torch.addcmul(self._shift, pixels.to(dtype), self._scale)
        return result.contiguous(memory_format=torch.channels_last)

    def encode(self, inputs: Inputs) -> EncoderOutput:
        """Run the network on ``pixels``: bytes, or floats that are already normalised."""
        pixels = inputs["pixels"]
        if not pixels.is_floating_point():
            pixels = self.normalise(pixels)
        return self._encode_normalised(pixels)

    @abc.abstractmethod
    def _encode_normalised(self, pixels: Tensor) -> EncoderOutput:
        """Run the network on normalised pixels."""

    def collate(self, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Stack images of bytes to ``pixels``, shape (B, 3, H, W)."""
        return {"pixels": torch.from_numpy(np.stack(rows))}

    def dummy_inputs(self, like: Inputs | None = None) -> dict[str, Tensor]:
        """Return one grey image; it stands in for all of them where cached activations replace it."""
        device = like["hidden"].device if like is not None else next(self.model.parameters()).device
        return {"pixels": torch.zeros((1, 3, *self.preprocessor.size), dtype=torch.uint8, device=device)}

    def probe_inputs(self, n: int) -> dict[str, Tensor]:
        """Return `n` images of random pixels and different size, as the preprocessing hands them on."""
        random = np.random.default_rng(0)
        height, width = self.preprocessor.size
        images = []
        for i in range(n):
            coarse = random.integers(0, 256, (6, 6 + i, 3), dtype=np.uint8)
            images.append(Image.fromarray(coarse).resize((width + 17 * i, height + 5), Image.Resampling.BILINEAR))
        device = next(self.model.parameters()).device
        return {key: value.to(device) for key, value in self.collate([*map(self.preprocessor, images)]).items()}

    def take(self, inputs: Inputs, at: int) -> dict[str, Tensor]:
        """Return one post of a batch as it is alone."""
        return {key: value[at : at + 1] for key, value in inputs.items()}


class TimmEncoder(ImageEncoder):
    """A timm model without its classifier.

    Parameters
    ----------
    model : nn.Module
        Made by timm with ``num_classes=0``.
    architecture : str
        timm's name for it.
    data_config : dict
        Its preprocessing, as ``timm.data.resolve_data_config`` gives it.
    spec : str
        The name it was asked for by.
    model_args : dict, optional
        Further arguments that ``timm.create_model`` needs to build it again.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        architecture: str,
        data_config: dict[str, Any],
        spec: str,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        self.architecture = architecture
        self.model_args = dict(model_args or {})
        model = model.to(memory_format=torch.channels_last).eval()
        data_config, dim = _size_it_takes(model, dict(data_config), spec)
        super().__init__(model, TimmPreprocessor(data_config), spec=spec, dim=dim, units=timm_units(model))

    def _encode_normalised(self, pixels: Tensor) -> EncoderOutput:
        return _timm_output(self.model, pixels)

    def describe(self) -> dict[str, Any]:
        """Return architecture and preprocessing."""
        return {
            "kind": "timm",
            "modality": self.modality,
            "spec": self.spec,
            "architecture": self.architecture,
            "model_args": self.model_args,
            "preprocessing": self.preprocessor.describe(),
        }

    def depths(self) -> dict[str, int]:
        """Map the stem to 0, stage i to i + 1, what follows to one more."""
        return depths_by_order(self.model, self.units)

    def save_config(self, folder: Path) -> None:
        """Write architecture and preprocessing."""
        folder.mkdir(parents=True, exist_ok=True)
        self.preprocessor.save(folder)
        (folder / "encoder.json").write_text(json.dumps(self.describe(), indent=2), encoding="utf-8")


class HFImageEncoder(ImageEncoder):
    """An image model of transformers.

    Parameters
    ----------
    model : nn.Module
        A model whose output has ``last_hidden_state``, and ``pooler_output`` where the class pools itself.
    processor : BaseImageProcessor
        The model's own image processor.
    spec : str
        The name it was asked for by.
    """

    def __init__(self, model: nn.Module, processor: Any, *, spec: str) -> None:
        if hasattr(model.config, "mask_ratio"):
            model.config.mask_ratio = 0.0  # a masked autoencoder hides most of an image at random
        preprocessor, dim = _processor_that_fits(model.eval(), HFPreprocessor(processor))
        super().__init__(model, preprocessor, spec=spec, dim=dim, units=transformer_units(model))

    def _encode_normalised(self, pixels: Tensor) -> EncoderOutput:
        return _hf_output(self.model, pixels)

    def describe(self) -> dict[str, Any]:
        """Return kind and preprocessing."""
        return {
            "kind": "hf",
            "modality": self.modality,
            "spec": self.spec,
            "preprocessing": self.preprocessor.describe(),
        }

    def depths(self) -> dict[str, int]:
        """Map embeddings to 0, layer or stage i to i + 1."""
        return depths_by_order(self.model, self.units)

    def save_config(self, folder: Path) -> None:
        """Write the model's configuration and the image processor's."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        self.preprocessor.save(folder)
        (folder / "encoder.json").write_text(json.dumps(self.describe(), indent=2), encoding="utf-8")


def _processor_that_fits(model: nn.Module, preprocessor: HFPreprocessor) -> tuple[HFPreprocessor, int]:
    """Return a processor whose images the network takes, and the size of the embedding.

    Folders are met whose two files name different sizes; the network's own then counts.
    """
    own = getattr(model.config, "image_size", None)
    sides = (own, own) if isinstance(own, int) else tuple(own or ())
    if len(sides) != 2 or sides == preprocessor.size:
        return preprocessor, _dim(_hf_output, model, preprocessor.size)
    try:
        # On a copy: Swin's windows shrink for good when they meet an image that is too small for them.
        return preprocessor, _dim(_hf_output, copy.deepcopy(model), preprocessor.size)
    except (RuntimeError, ValueError, AssertionError):
        preprocessor = preprocessor.resized(*sides)
        return preprocessor, _dim(_hf_output, model, preprocessor.size)


def _dim(run: Callable[[nn.Module, Tensor], EncoderOutput], model: nn.Module, size: Sequence[int]) -> int:
    """Return the size of the embedding that a network gives for images of this height and width."""
    device = next(model.parameters()).device  # none, where parameters are only counted
    with torch.no_grad():
        return int(run(model, torch.zeros(1, 3, *size, device=device)).pooled.shape[1])


def _hf_output(model: Any, pixels: Tensor) -> EncoderOutput:
    return _pool(model(pixel_values=pixels, **_unmasked(model, pixels)))


def _unmasked(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Return what makes a masked autoencoder keep its patches in order, instead of shuffling them at random."""
    config = model.config
    if not hasattr(config, "mask_ratio") or "noise" not in inspect.signature(model.forward).parameters:
        return {}
    stride = getattr(config, "patch_stride", config.patch_size)  # Hiera's patches overlap
    down, across = (stride, stride) if isinstance(stride, int) else stride
    n_patches = (pixels.shape[2] // down) * (pixels.shape[3] // across)
    return {"noise": torch.arange(n_patches, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)}


def _pool(output: Any) -> EncoderOutput:
    states = getattr(output, "last_hidden_state", None)
    if states is None:  # what the library calls a backbone gives its feature maps
        states = output.feature_maps[-1]
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        # Transformers without a pooler keep their summary in the first token; feature maps are averaged.
        pooled = states[:, 0] if states.ndim == 3 else states.mean(dim=(2, 3))
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    return EncoderOutput(pooled.flatten(1), states, None)


def flatten_states(features: Tensor, network: Any) -> Tensor:
    """Turn timm's feature map, channels first or last, into (B, T, channels)."""
    if features.ndim == 3:
        return features
    if features.ndim == 2:
        return features.unsqueeze(1)
    # A map may have as many columns as channels; channels first is then by far the likelier.
    channels_last = features.shape[-1] == network.num_features != features.shape[1]
    if getattr(network, "output_fmt", "NCHW") == "NHWC" or channels_last:
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def timm_units(model: nn.Module) -> list[str]:
    """Return the stages of a timm model, found by the model's own ``group_matcher``; nothing if it names none."""
    matcher: Any = getattr(model, "group_matcher", None)
    try:
        groups = matcher(coarse=True) if matcher is not None else None
    except (AssertionError, NotImplementedError, TypeError, ValueError):  # some matchers are for single layers only
        groups = None
    blocks = groups.get("blocks") if isinstance(groups, Mapping) else None  # others are a function of a weight's name
    pattern = blocks if isinstance(blocks, str) else blocks[0][0] if blocks else None
    if pattern is None:
        return []
    return [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]


def _timm_output(model: nn.Module, pixels: Tensor) -> EncoderOutput:
    network: Any = model
    features = network.forward_features(pixels)
    pooled = network.forward_head(features, pre_logits=True)
    last = features[-1] if isinstance(features, tuple | list) else features  # of several branches, the last one
    states = flatten_states(last, network)
    if pooled.ndim != 2:  # saved without pooling; the mean over places is what most networks are trained with
        pooled = states.mean(dim=1)
    return EncoderOutput(pooled, states, None)


def _size_it_takes(model: nn.Module, config: dict[str, Any], spec: str) -> tuple[dict[str, Any], int]:
    """Return a data configuration whose images the network takes, and the size of the embedding.

    A network may have been built for another size than its preprocessing names; its own then counts.
    """
    asked = tuple(config["input_size"][1:])
    own = getattr(getattr(model, "patch_embed", None), "img_size", None) or getattr(model, "img_size", None)
    sizes = [asked]
    if own is not None:
        sides = (own, own) if isinstance(own, int) else tuple(own)
        sizes += [sides] if sides != asked else []
    for height, width in sizes:
        try:
            dim = _dim(_timm_output, model, (height, width))
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            reason = str(error).partition("\n")[0]
            continue
        return {**config, "input_size": [config["input_size"][0], int(height), int(width)]}, dim
    tried = " and ".join(f"{height} x {width}" for height, width in sizes)
    raise EncoderError(f"{spec} does not take images of {tried} pixels, the size that its own files name ({reason})")


def timm_dim(model: nn.Module) -> int:
    """Return the size of the embedding before the classifier (some heads widen the features)."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]
