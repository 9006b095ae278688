"""Which parts of an image drove a prediction: a map that suits the encoder, and patches blurred away.

Convolutional networks: Grad-CAM (Selvaraju et al. 2017) on the last feature map. Everything else: integrated
gradients from a blurred image, averaged over noisy copies (Sundararajan et al. 2017; Smilkov et al. 2017).
Both are signed: what opposes the class is negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cotune.encoders.image import ImageEncoder
from cotune.errors import CotuneError
from cotune.explain.target import Target
from cotune.explain.words import need_captum, rank_correlation

Method = Literal["grad-cam", "integrated gradients"]
#: Cells along each side when patches are taken away.
GRID = 7
_STEPS, _COPIES = 12, 4
_NOISE = 0.1


@dataclass(frozen=True)
class Pixels:
    """The parts of an image and what they did to the log-odds of the class.

    Attributes
    ----------
    method : str
        "grad-cam" or "integrated gradients".
    map : ndarray
        Attributions over the encoder's square, shape (rows, columns).
    blurred : ndarray
        How much the log-odds fall when a patch is blurred away, shape (GRID, GRID).
    value, baseline : float
        The log-odds for the image and for the wholly blurred one.
    """

    method: Method
    map: np.ndarray
    blurred: np.ndarray
    value: float
    baseline: float

    @property
    def patches(self) -> np.ndarray:
        """The map on the grid of the patches, shape (GRID, GRID)."""
        return to_grid(self.map, GRID)

    @property
    def agreement(self) -> float | None:
        """Rank correlation of the two opinions over the patches."""
        return rank_correlation(self.patches.ravel(), self.blurred.ravel())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "method": self.method,
            "second_opinion": "patch blurred away",
            "map": self.map,
            "patches": self.blurred,
            "value": self.value,
            "baseline": self.baseline,
            "agreement": self.agreement,
        }


def explain_pixels(target: Target, pixels: Tensor, *, method: Method | None = None, blur: bool = True) -> Pixels:
    """Return what each part of an image did to the log-odds of the target's class.

    Parameters
    ----------
    target : Target
        The post whose image this is.
    pixels : Tensor
        The image as the encoder reads it, bytes, shape (1, 3, H, W).
    method : str, optional
        By default Grad-CAM for networks that end in a feature map, integrated gradients for all others.
    blur : bool
        Whether to ask for the second opinion, which costs a pass for each patch; without it, it is NaN.

    Raises
    ------
    CotuneError
        If integrated gradients are needed and captum is not installed.
    """
    layer = last_feature_map(target.image_encoder) if method != "integrated gradients" else None
    if method == "grad-cam" and layer is None:
        raise CotuneError(f"{target.image_encoder.spec} ends in no feature map; use integrated gradients")
    found = grad_cam(target, pixels, layer) if layer is not None else smooth_gradients(target, pixels)
    lost = blurred_away(target, pixels) if blur else np.full((GRID, GRID), np.nan)
    value, baseline = target.of_images(torch.cat([pixels, blurred(pixels)])).tolist()
    return Pixels("grad-cam" if layer is not None else "integrated gradients", found, lost, value, baseline)


def last_feature_map(encoder: ImageEncoder) -> nn.Module | None:
    """Return the module that gives the last feature map of a convolutional network; None for other networks.

    It is the last one to answer with a map of more than one place, at or above the network's last stage.
    """
    if not encoder.units:
        return None
    last_unit = dict(encoder.model.named_modules())[encoder.units[-1]]
    seen: list[nn.Module] = []
    state = {"reached": False}

    def note(module: nn.Module, _args: object, output: Any) -> None:
        if module is last_unit:
            state["reached"] = _is_map(output)
            seen.append(module)
        elif state["reached"] and _is_map(output):
            seen.append(module)

    handles = [m.register_forward_hook(note) for m in encoder.model.modules()]
    try:
        with torch.no_grad():
            encoder.encode(encoder.dummy_inputs())
    finally:
        for handle in handles:
            handle.remove()
    if not state["reached"]:
        return None
    # A container answers with what its last child has answered already; the outermost name says nothing more.
    return [module for module in seen if module is not encoder.model][-1]


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[1], output.shape[2]) > 1


def grad_cam(target: Target, pixels: Tensor, layer: nn.Module) -> np.ndarray:
    """Return the signed Grad-CAM map, shape (rows, columns): the features weighed by their mean slopes."""
    kept: list[Tensor] = []

    def hook(_module: nn.Module, _args: object, output: Any) -> Tensor:
        # The graph begins here: what lies below needs no gradients.
        features = output.detach().requires_grad_(True)
        kept.append(features)
        result: Tensor = features
        return result

    handle = layer.register_forward_hook(hook)
    try:
        with torch.enable_grad():
            value = target.of_pixels(pixels.to(target.device))
            (slopes,) = torch.autograd.grad(value.sum(), kept[-1])
    finally:
        handle.remove()
    features = kept[-1].detach()
    spatial = (1, 2) if _channels_last(target.image_encoder, features) else (2, 3)
    channel = 3 if spatial == (1, 2) else 1
    found = (features * slopes.mean(dim=spatial, keepdim=True)).sum(dim=channel)[0]
    result: np.ndarray = found.cpu().double().numpy()
    return result


def _channels_last(encoder: ImageEncoder, features: Tensor) -> bool:
    network: Any = encoder.model
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return True
    width = getattr(network, "num_features", None)
    return features.shape[-1] == width != features.shape[1]


def smooth_gradients(target: Target, pixels: Tensor, *, steps: int = _STEPS, copies: int = _COPIES) -> np.ndarray:
    """Return integrated gradients from the blurred image, averaged over noisy copies, shape (H, W)."""
    encoder = target.image_encoder
    picture = encoder.normalise(pixels.to(target.device))
    start = encoder.normalise(blurred(pixels).to(target.device))
    spread = float((picture.max() - picture.min()).clamp(min=1e-6)) * _NOISE
    method = need_captum().IntegratedGradients(target.of_pixels)
    # The same noise for every call, so that the same post always gets the same map.
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(picture.shape[2:], dtype=torch.float64)
    for copy in range(copies):
        noise = torch.randn(picture.shape, generator=random).to(picture) * spread if copy else 0.0
        slopes = method.attribute(
            picture + noise, baselines=start + noise, n_steps=steps, internal_batch_size=min(target.batch_size, steps)
        )
        total += slopes[0].sum(dim=0).detach().cpu().double()
    result: np.ndarray = (total / copies).numpy()
    return result


def blurred(pixels: Tensor) -> Tensor:
    """Return images (B, 3, H, W) of bytes so far out of focus that only their colours are left."""
    from torchvision.transforms.v2.functional import gaussian_blur  # type: ignore[import-untyped]

    side = min(pixels.shape[2:])
    sigma = side / 8
    # A kernel may reach no farther than the image.
    kernel = max(1, 2 * min(int(2 * sigma), side // 2 - 1) + 1)
    result: Tensor = gaussian_blur(pixels, [kernel, kernel], [sigma, sigma])
    return result


def blurred_away(target: Target, pixels: Tensor, grid: int = GRID) -> np.ndarray:
    """Return how much the log-odds fall when each patch is blurred away, shape (grid, grid)."""
    whole = target.of_images(pixels)[0]
    masks = np.ones((grid * grid, grid * grid), dtype=bool)
    np.fill_diagonal(masks, False)
    values = target.of_images(with_patches(pixels, masks))
    result: np.ndarray = (whole - values).double().numpy().reshape(grid, grid)
    return result


def with_patches(pixels: Tensor, kept: np.ndarray) -> Tensor:
    """Return versions of one image in which some patches are sharp and the others blurred.

    Parameters
    ----------
    pixels : Tensor
        Bytes, shape (1, 3, H, W).
    kept : ndarray of bool
        Shape (versions, grid * grid), row by row: which patches stay sharp.
    """
    grid = round(kept.shape[1] ** 0.5)
    height, width = pixels.shape[2:]
    down = torch.from_numpy(np.arange(height) * grid // height)
    across = torch.from_numpy(np.arange(width) * grid // width)
    cells = torch.from_numpy(kept.reshape(-1, grid, grid))
    masks = cells[:, down][:, :, across].unsqueeze(1).to(pixels.device)
    return torch.where(masks, pixels, blurred(pixels))


def to_grid(values: np.ndarray, grid: int) -> np.ndarray:
    """Return the mean of a map over each cell of a grid, shape (grid, grid); a coarser map is interpolated."""
    tensor = torch.from_numpy(np.asarray(values, dtype=np.float64))[None, None]
    if min(values.shape) < grid:
        resized = nn.functional.interpolate(tensor, size=(grid, grid), mode="bilinear", align_corners=False)
    else:
        resized = nn.functional.adaptive_avg_pool2d(tensor, grid)
    result: np.ndarray = resized[0, 0].numpy()
    return result
