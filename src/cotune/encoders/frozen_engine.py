"""Passes of a frozen encoder by an engine that is faster than torch: embeddings, and activations of its lower part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cotune._version import __version__
from cotune.encoders.base import Encoder, EncoderOutput, Inputs
from cotune.encoders.text import TextEncoder
from cotune.engines.failures import failure, remember_failure
from cotune.engines.onnx_graph import write_graph
from cotune.engines.sessions import Engine, Session, choose_engine, installed, open_session
from cotune.errors import CotuneError, ExportError
from cotune.files import atomic_path
from cotune.progress import Progress

Part = Literal["pooled", "hidden"]
#: Writing a graph takes some ten seconds, which fewer posts do not win back.
WORTH_IT = 1000
#: How far an embedding may be from torch's, as a part of the largest number in it.
_TOLERANCE = 1e-4
_SAMPLE = 3
_GRAPH = "model.onnx"


class FrozenEngine:
    """One part of a frozen encoder in an engine.

    Parameters
    ----------
    session : Session
        The graph, opened.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return embeddings, shape (B, dim), or activations, first axis the batch."""
        given = {key: value.numpy() for key, value in inputs.items()}
        (found,) = self._session.run(given).values()
        return torch.from_numpy(found)

    def output(self, inputs: Inputs) -> EncoderOutput:
        """Return embeddings as the encoder would, without states."""
        return EncoderOutput(self(inputs))


@dataclass(frozen=True)
class FrozenEngines:
    """Opens engines for frozen encoders, and keeps their graphs.

    Attributes
    ----------
    root : Path
        Cache folder; what is written for weights once is there for later runs.
    engine : {"auto", "torch", "onnx", "openvino"}
        What is asked for. ``auto`` uses the fastest engine that is installed where it pays and gives what torch gives.
    progress : Progress
        Progress reporter.
    """

    root: Path
    engine: Engine = "auto"
    progress: Progress = field(default_factory=Progress)

    def open(self, encoder: Encoder, part: Part, n_posts: int) -> FrozenEngine | None:
        """Return an engine for a part of an encoder; None where torch has to do, or is as good.

        Parameters
        ----------
        encoder : Encoder
            On the CPU; for ``hidden`` it is cut.
        part : {"pooled", "hidden"}
            Embeddings, or activations of the lower part.
        n_posts : int
            How many posts are to be encoded.

        Raises
        ------
        ConfigError
            If the engine that is asked for by name is not installed.
        ExportError
            If it cannot run the encoder.
        """
        if self.engine == "torch" or encoder.learned:
            return None
        by_name = self.engine != "auto"
        engine = choose_engine(self.engine) if by_name or installed() else None
        if engine is None or not _on_cpu(encoder) or getattr(encoder, "by_length", False):
            return None
        folder = self._folder(encoder, part)
        if not by_name and not _pays(folder, n_posts):
            return None
        try:
            return self._open(folder, encoder, part, engine)
        except CotuneError as error:
            if by_name:
                raise
            self.progress.say(f"note: torch is used; {error}")
            if isinstance(error, ExportError):
                remember_failure(folder, str(error))
            return None

    def _folder(self, encoder: Encoder, part: Part) -> Path:
        made_by = f"{__version__} {torch.__version__} {encoder.n_lower if part == 'hidden' else 0}"
        digest = hashlib.blake2b(made_by.encode(), digest_size=6).hexdigest()
        return self.root / "engines" / f"{part}-{encoder.modality}-{encoder.fingerprint()}-{digest}"

    def _open(self, folder: Path, encoder: Encoder, part: Part, engine: str) -> FrozenEngine:
        path = folder / _GRAPH
        if not path.is_file():
            self.progress.begin(f"preparing {encoder.spec} for {engine}, once")
            inputs, shapes = sample_inputs(encoder.face)
            with atomic_path(path) as stage:
                write_graph(_Part(encoder, part).eval(), stage, inputs, shapes, [part], encoder.spec)
        found = FrozenEngine(open_session(path, engine))
        _refuse_different(found, encoder, part, engine)
        return found


class _Part(nn.Module):
    """The part of an encoder that a graph holds."""

    def __init__(self, encoder: Encoder, part: Part) -> None:
        super().__init__()
        self.encoder, self.part = encoder, part

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.part == "hidden":
            return self.encoder.lower(inputs, stop=False).float()
        return self.encoder.encode(inputs).pooled.float()


def sample_inputs(encoder: Encoder) -> tuple[dict[str, Tensor], dict[str, dict[int, Any]]]:
    """Return the inputs of a few posts, and which of their axes may have any length."""
    dynamic = torch.export.Dim.DYNAMIC
    found = _sample(encoder)
    grows = isinstance(encoder, TextEncoder) and not encoder.padded
    return found, {key: {0: dynamic, 1: dynamic} if grows else {0: dynamic} for key in found}


def _sample(encoder: Encoder) -> dict[str, Tensor]:
    if isinstance(encoder, TextEncoder) and encoder.by_length:
        one = encoder.take(encoder.probe_inputs(_SAMPLE), _SAMPLE - 1)
        return {key: value.expand(_SAMPLE, -1).clone() for key, value in one.items()}
    return encoder.probe_inputs(_SAMPLE)


def _pays(folder: Path, n_posts: int) -> bool:
    """Tell whether an engine is worth its while: it has not failed, and there is a graph or enough to do."""
    if failure(folder) is not None:
        return False
    able = all(map(find_spec, ("onnx", "onnxscript")))
    return (folder / _GRAPH).is_file() or (able and n_posts >= WORTH_IT)


def _on_cpu(encoder: Encoder) -> bool:
    return all(p.device.type == "cpu" and p.dtype in (torch.float32, torch.int64) for p in encoder.parameters())


def _refuse_different(found: FrozenEngine, encoder: Encoder, part: Part, engine: str) -> None:
    encoder.eval()
    for inputs in (encoder.dummy_inputs(), encoder.probe_inputs(encoder.probe_posts)):
        with torch.inference_mode():
            by_torch = encoder.lower(inputs) if part == "hidden" else encoder.encode(inputs).pooled
        own, theirs = by_torch.float().numpy(), found(inputs).numpy()
        if own.shape != theirs.shape or not np.abs(own - theirs).max() <= _TOLERANCE * max(1.0, np.abs(own).max()):
            raise ExportError(f"{engine} gives other embeddings of {encoder.spec} than torch does")
