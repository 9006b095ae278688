"""INT8: the encoders of an exported graph quantized by NNCF, calibrated on some posts and scored on others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cotune.engines.sessions import import_openvino
from cotune.errors import DataError, ExportError, first_line
from cotune.model import JointModel
from cotune.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

#: Posts that quantization needs, with a label that the run knows; of these a quarter calibrates, at most so many.
FEWEST, CALIBRATION = 200, 300
#: More posts than this are not scored: a loss of .005 shows, and torch takes minutes.
MOST_SCORED = 2000
#: The range of an activation is the mean of those of batches; means over single posts cut off twice as much.
CALIBRATION_BATCH = 16
_QUANTIZED = ("text", "image")


@dataclass(frozen=True)
class Int8:
    """What an export in INT8 is allowed to lose.

    Attributes
    ----------
    max_loss : float
        The largest loss of the task's main score, such as the AUC.
    seed : int
        Of the draw of the posts for calibration.
    """

    max_loss: float = 0.005
    seed: int = 0


def refuse_unquantizable(model: JointModel) -> None:
    """Refuse a model that reads neither texts nor images.

    Raises
    ------
    ExportError
        If that is so.
    """
    if not any(encoder.modality in _QUANTIZED for encoder in model.encoders.values()):
        raise ExportError("the run reads no text and no image, so INT8 would make nothing faster; leave --int8 out")


def split_posts(posts: pd.DataFrame, task: Task, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the posts for calibration and the posts to score, sampled at random from those with a known label.

    Raises
    ------
    DataError
        If there are too few, or their labels give no score.
    """
    labels = posts["label"]
    usable = np.asarray([isinstance(label, str) and task.problem(label) is None for label in labels], dtype=bool)
    n = int(usable.sum())
    if n < FEWEST:
        what = "none has" if n == 0 else f"{n:,} have"
        raise DataError(
            f"INT8 needs at least {FEWEST} posts with labels of the run, to calibrate and to score; of {len(posts):,} "
            f"{what} one (the run's task is {task.describe()}); name others with --posts"
        )
    order = np.random.default_rng(seed).permutation(np.flatnonzero(usable))
    cut = min(CALIBRATION, n // 4)
    calibration, scored = (
        posts.iloc[np.sort(rows)].reset_index(drop=True) for rows in (order[:cut], order[cut : cut + MOST_SCORED])
    )
    note = task.note_on_held_out(task.encode(scored["label"].tolist()))
    if note is not None:
        raise DataError(
            f"INT8 cannot be scored ({note.replace('held-out ', '')}); name posts of different labels with --posts"
        )
    return calibration, scored


def quantize(graph: Path, out: Path, batches: Sequence[Mapping[str, np.ndarray]], model: JointModel) -> None:
    """Write a graph whose text and image encoders compute in INT8, as files of OpenVINO.

    Post-training quantization with bias correction; the fusion head and encoders of tables stay as they are.

    Parameters
    ----------
    graph : Path
        The ONNX graph.
    out : Path
        The .xml file to write; the weights go beside it.
    batches : sequence of mapping
        Inputs of the graph.
    model : JointModel
        What was exported.

    Raises
    ------
    ExportError
        If NNCF cannot quantize it.
    """
    openvino = import_openvino()
    import nncf

    nncf.set_log_level(logging.CRITICAL)
    out.parent.mkdir(parents=True, exist_ok=True)
    converted = openvino.convert_model(graph)
    outside = outside_encoders(graph, model)
    # What an operator of ONNX becomes has its name, with a suffix where it becomes several.
    kept = [name for name in map(_name, converted.get_ops()) if name.partition("/")[0] in outside]
    try:
        quantized = nncf.quantize(
            converted,
            nncf.Dataset(batches),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        )
    except Exception as error:
        raise ExportError(f"the model cannot be quantized ({first_line(error)}); export it without --int8") from error
    openvino.save_model(quantized, out, compress_to_fp16=False)


def outside_encoders(graph: Path, model: JointModel) -> set[str]:
    """Return the names of the graph's nodes that belong to no text or image encoder, by the modules they came from."""
    import onnx

    own = [
        f"model._encoders.{at}." for at, encoder in enumerate(model.encoders.values()) if encoder.modality in _QUANTIZED
    ]
    nodes = onnx.load(graph, load_external_data=False).graph.node
    modules = {
        node.name: next((entry.value for entry in node.metadata_props if entry.key == "namespace"), "")
        for node in nodes
    }
    return {name for name, module in modules.items() if not any(prefix in module for prefix in own)}


def _name(operator: Any) -> str:
    return str(operator.get_friendly_name())
