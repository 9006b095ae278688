"""From a run to a folder that runs without cotune: the graph, what it reads, and the proof that it says the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cotune._version import __version__
from cotune.checksums import checksums, sealed
from cotune.encoders.frozen_engine import sample_inputs
from cotune.engines.onnx_graph import write_graph
from cotune.engines.sessions import ENGINES, installed
from cotune.errors import ExportError
from cotune.export.describe import describe_field
from cotune.export.graph import ExportGraph
from cotune.export.package import ABOUT, FORMAT, GRAPH, OPENVINO, README, Export
from cotune.export.predictor import ExportedPredictor
from cotune.export.readme import readme
from cotune.files import atomic_path, write_json, write_text
from cotune.model import JointModel
from cotune.ownership import EXPORT
from cotune.predict import Predictor
from cotune.progress import Progress
from cotune.run import Run, weights_hash
from cotune.run_settings import encoder_folder

if TYPE_CHECKING:
    import pandas as pd

#: The largest difference of a probability that an exported model in single precision may show.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ParityCheck:
    """How an exported model compares with torch on real posts.

    Attributes
    ----------
    engine : str
        What ran it.
    posts : int
        On how many posts.
    largest_difference : float
        Of all probabilities, or of all values in standard deviations of the labels.
    agreement : float
        Share of posts with the same label.
    """

    engine: str
    posts: int
    largest_difference: float
    agreement: float


def export_run(
    run: Run,
    folder: Path,
    posts: pd.DataFrame,
    *,
    parts: bool = False,
    openvino: bool = False,
    progress: Progress | None = None,
) -> list[ParityCheck]:
    """Write an export, once it has given the same predictions as the run on some posts.

    Parameters
    ----------
    run : Run
        The run.
    folder : Path
        Made when absent; an export that was there is replaced as a whole.
    posts : DataFrame
        Posts on which both are compared, as :func:`cotune.data.posts.read_posts` gives them.
    parts : bool
        Whether the graph gives contributions and interactions of the fields too.
    openvino : bool
        Whether OpenVINO's own files are written as well.
    progress : Progress, optional
        Whom to tell.

    Returns
    -------
    list of ParityCheck
        One for each engine that is installed.

    Raises
    ------
    ExportError
        If the model cannot be exported, or what it gives differs by more than :data:`TOLERANCE`.
    """
    progress = progress or Progress()
    _need_packages(openvino=openvino)
    EXPORT.refuse_foreign(folder)
    with atomic_path(folder, directory=True) as stage:
        inputs = {name: _describe(run.model, name, stage) for name in run.model.encoders}
        progress.begin("exporting the graph")
        _write_graph(run.model, stage / GRAPH, parts=parts)
        if openvino:
            _write_openvino(stage)
        about = _about(run, inputs, parts=parts)
        progress.begin(f"comparing it with torch on {len(posts):,} posts")
        checks = list(compare(run, Export(stage, about, run.task, run.fields), posts))
        for check in checks:
            if not check.largest_difference <= TOLERANCE:
                raise ExportError(
                    f"the exported graph gives other predictions than the run in {check.engine} (they differ by up to "
                    f"{check.largest_difference:.2g}, allowed is {TOLERANCE:g}); nothing was written"
                )
        about["checks"] = [asdict(check) for check in checks]
        write_text(stage / README, readme(about, folder.name))
        files = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
        about["checksums"] = checksums(stage, [name for name in files if name != README])
        write_json(stage / ABOUT, sealed(about))
    return checks


def _need_packages(*, openvino: bool) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime", *(["openvino"] if openvino else [])):
        if find_spec(package) is None:
            raise ExportError(f"exporting needs {package}; install it with: pip install 'cotune[export]'")


def compare(run: Run, export: Export, posts: pd.DataFrame) -> Iterator[ParityCheck]:
    """Yield how the engines that are installed compare with torch on `posts`.

    Raises
    ------
    ExportError
        If none of the posts can be scored.
    """
    expected, _, _ = Predictor(run, device="cpu", bad_images="text-only").scores(posts)
    known = ~np.isnan(expected[:, 0])
    if not known.any():
        raise ExportError("none of the posts to compare on can be scored; name others with --posts")
    scale = np.asarray(getattr(run.task, "deviation", 1.0))
    for engine in [name for name in ENGINES if name in installed()]:
        with ExportedPredictor(export, engine=engine, bad_images="text-only") as predictor:
            found, _, _ = predictor.scores(posts)
        if not (np.isnan(found[:, 0]) == ~known).all():
            raise ExportError(f"the exported graph scores other posts than the run in {engine}; nothing was written")
        decode = run.task.decode
        same = [a == b for a, b in zip(decode(found[known]), decode(expected[known]), strict=True)]
        difference = float((np.abs(found[known] - expected[known]) / scale).max())
        yield ParityCheck(engine, int(known.sum()), difference, float(np.mean(same)))


def _describe(model: JointModel, name: str, stage: Path) -> dict[str, Any]:
    owner = next(field for field, encoder in model.encoders.items() if encoder is model.encoders[name])
    return describe_field(model.encoders[name], stage, encoder_folder(owner))


def _about(run: Run, inputs: dict[str, Any], *, parts: bool) -> dict[str, Any]:
    return {
        **EXPORT.mark(),
        "format": FORMAT,
        "cotune": __version__,
        "run": {
            "weights": weights_hash(run.model),
            "data_hash": run.environment.get("data_hash"),
            "created": run.environment.get("created"),
        },
        "task": {"name": run.task.name, "settings": run.task.settings()},
        "outputs": list(run.task.outputs),
        "label_type": run.label_type,
        "fields": [field.model_dump(mode="json") for field in run.fields],
        "reads": list(run.model.encoders),
        "inputs": inputs,
        "parts": parts,
        "parameters": run.model.parameter_counts(),
    }


# ---- the graph -------------------------------------------------------------------------------------------


def _write_graph(model: JointModel, path: Path, *, parts: bool) -> None:
    graph = ExportGraph(model, parts=parts).eval()
    inputs, shapes = _inputs(model)
    names = ", ".join(encoder.spec for encoder in model.distinct_encoders.values())
    write_graph(graph, path, inputs, shapes, graph.outputs, names)


def _inputs(model: JointModel) -> tuple[dict[str, Tensor], dict[str, dict[int, Any]]]:
    n_fields = len(model.encoders)
    found: dict[str, Tensor] = {}
    shapes = {"present": {0: torch.export.Dim.DYNAMIC}}
    for name, encoder in model.encoders.items():
        inputs, axes = sample_inputs(encoder)
        found |= {f"{name}.{key}": value for key, value in inputs.items()}
        shapes |= {f"{name}.{key}": value for key, value in axes.items()}
    present = torch.ones((len(next(iter(found.values()))), n_fields), dtype=torch.bool)
    present[0, n_fields // 2 :] = n_fields == 1
    return {"present": present, **found}, shapes


def _write_openvino(stage: Path) -> None:
    import openvino

    (stage / OPENVINO).parent.mkdir(parents=True, exist_ok=True)
    model = openvino.convert_model(stage / GRAPH)
    openvino.save_model(model, stage / OPENVINO, compress_to_fp16=False)
