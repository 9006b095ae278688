"""From a run to a folder that runs without cotune: the graph, what it reads, and the proof that it says the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cotune._version import __version__
from cotune.checksums import checksums, sealed
from cotune.data.seen import SEEN
from cotune.encoders.frozen_engine import sample_inputs
from cotune.engines.onnx_graph import quiet, write_graph
from cotune.engines.sessions import ENGINES, import_openvino, installed
from cotune.errors import ExportError
from cotune.export.describe import describe_field
from cotune.export.graph import ExportGraph
from cotune.export.package import ABOUT, FORMAT, GRAPH, OPENVINO, README, Export
from cotune.export.predictor import ExportedPredictor
from cotune.export.quantize import CALIBRATION_BATCH, Int8, quantize, refuse_unquantizable, split_posts
from cotune.export.readme import readme
from cotune.files import atomic_path, write_json, write_text
from cotune.model import JointModel
from cotune.ownership import EXPORT
from cotune.predict import Predictor
from cotune.progress import Progress
from cotune.report.numbers import plural
from cotune.run import Run, weights_hash
from cotune.run_settings import encoder_folder

if TYPE_CHECKING:
    import pandas as pd

#: The largest difference of a probability that an exported model in single precision may show.
TOLERANCE = 1e-4
_COMPARED = 256


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
    agreement : float or None
        Share of posts with the same label; None where labels are numbers.
    precision : {"fp32", "int8"}
        What the engine computes in.
    score, score_lost : float or None
        The task's main score, such as the AUC, and by how much it is below that of the run; of INT8 alone.
    """

    engine: str
    posts: int
    largest_difference: float
    agreement: float | None
    precision: str = "fp32"
    score: float | None = None
    score_lost: float | None = None


def export_run(
    run: Run,
    folder: Path,
    posts: pd.DataFrame,
    *,
    parts: bool = False,
    openvino: bool = False,
    int8: Int8 | None = None,
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
        Posts on which both are compared, as :func:`cotune.data.posts.read_posts` gives them; with labels for INT8.
    parts : bool
        Whether the graph gives interactions, and what each field alone says, too.
    openvino : bool
        Whether OpenVINO's own files are written as well.
    int8 : Int8, optional
        Let OpenVINO's own files compute in INT8, and how much of the score that may cost.
    progress : Progress, optional
        Progress reporter.

    Returns
    -------
    list of ParityCheck
        One for each engine that is installed, and for INT8.

    Raises
    ------
    ExportError
        If the model cannot be exported, what it gives differs by more than :data:`TOLERANCE`, or INT8 loses more of
        the score than is allowed.
    DataError
        If there are too few labelled posts for INT8.
    """
    progress = progress or Progress()
    _need_packages(("openvino", "nncf") if int8 else ("openvino",) if openvino else ())
    if int8:
        refuse_unquantizable(run.model)
        calibration, posts = split_posts(posts, run.task, int8.seed)
    EXPORT.refuse_foreign(folder)
    with atomic_path(folder, directory=True) as stage:
        inputs = {name: _describe(run.model, name, stage) for name in run.model.encoders}
        progress.begin("exporting the graph")
        _write_graph(run.model, stage / GRAPH, parts=parts)
        if openvino and not int8:
            _write_openvino(stage)
        about = _about(run, inputs, parts=parts)
        export = Export(stage, about, run.task, run.fields)
        progress.begin(f"comparing it with torch on {plural(len(posts), 'post')}")
        expected = Predictor(run, device="cpu", bad_images="text-only").scores(posts).predictions
        few = posts.head(_COMPARED) if int8 else posts
        checks = [compare(export, engine, few, expected[: len(few)]) for engine in ENGINES if engine in installed()]
        for check in checks:
            if not check.largest_difference <= TOLERANCE:
                raise ExportError(
                    f"the exported graph gives other predictions than the run in {check.engine} (they differ by up to "
                    f"{check.largest_difference:.2g}, allowed is {TOLERANCE:g}); nothing was written"
                )
        if int8:
            progress.begin(f"quantizing it, calibrated on {len(calibration):,} other posts")
            _write_int8(run.model, export, calibration)
            about |= {"precision": "int8", "calibration_posts": len(calibration)}
            checks.append(compare(export, "openvino", posts, expected, int8=True))
            _refuse_loss(checks[-1], run.task.main_title, int8.max_loss)
        about["checks"] = [asdict(check) for check in checks]
        if run.seen is not None:
            run.seen.save(stage / SEEN)
        write_text(stage / README, readme(about, folder.name))
        files = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
        about["checksums"] = checksums(stage, [name for name in files if name != README])
        write_json(stage / ABOUT, sealed(about))
    return checks


def _need_packages(more: Sequence[str]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime", *more):
        if find_spec(package) is None:
            raise ExportError(f"exporting needs {package}; install it with: pip install 'cotune[export]'")


def compare(
    export: Export, engine: str, posts: pd.DataFrame, expected: np.ndarray, *, int8: bool = False
) -> ParityCheck:
    """Return how an engine compares with torch on `posts`, of which torch gave the `expected` predictions.

    With `int8` all posts have a label that the run knows, and the score that is lost is returned too.

    Raises
    ------
    ExportError
        If none of the posts can be scored, or others than by torch.
    """
    known = ~np.isnan(expected[:, 0])
    if not known.any():
        raise ExportError("none of the posts to compare on can be scored; name others with --posts")
    with ExportedPredictor(export, engine=engine, bad_images="text-only") as predictor:
        found = predictor.scores(posts).predictions
    if not (np.isnan(found[:, 0]) == ~known).all():
        raise ExportError(f"the exported graph scores other posts than the run in {engine}; nothing was written")
    found, expected, task = found[known], expected[known], export.task
    difference = np.abs(found - expected) / np.asarray(getattr(task, "deviation", 1.0))
    same = [a == b for a, b in zip(task.decode(found), task.decode(expected), strict=True)]
    check = ParityCheck(engine, len(found), float(difference.max()), float(np.mean(same)) if task.text_label else None)
    if not int8:
        return check
    targets = task.encode(posts["label"][known].tolist())
    score, whole = (task.watch(targets, predictions).score for predictions in (found, expected))
    if score is None or whole is None:
        raise ExportError(f"the {task.main_title} of the posts to compare on is undefined; name others with --posts")
    return replace(check, precision="int8", score=score, score_lost=whole - score)


def _describe(model: JointModel, name: str, stage: Path) -> dict[str, Any]:
    owner = next(field for field, encoder in model.encoders.items() if encoder is model.encoders[name])
    return describe_field(model.encoders[name].face, stage, encoder_folder(owner))


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
        "outputs": [*run.task.outputs, *run.task.columns()[len(run.task.outputs) :]],
        "label_type": run.label_type,
        "fields": [field.model_dump(mode="json") for field in run.fields],
        "reads": list(run.model.encoders),
        "inputs": inputs,
        "parts": parts,
        "precision": "fp32",
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
        inputs, axes = sample_inputs(encoder.face)
        found |= {f"{name}.{key}": value for key, value in inputs.items()}
        shapes |= {f"{name}.{key}": value for key, value in axes.items()}
    present = torch.ones((len(next(iter(found.values()))), n_fields), dtype=torch.bool)
    present[0, n_fields // 2 :] = n_fields == 1
    return {"present": present, **found}, shapes


def _write_openvino(stage: Path) -> None:
    openvino = import_openvino()
    (stage / OPENVINO).parent.mkdir(parents=True, exist_ok=True)
    model = openvino.convert_model(stage / GRAPH)
    openvino.save_model(model, stage / OPENVINO, compress_to_fp16=False)


def _write_int8(model: JointModel, export: Export, posts: pd.DataFrame) -> None:
    with ExportedPredictor(
        export, engine="openvino", batch_size=CALIBRATION_BATCH, bad_images="text-only"
    ) as predictor:
        batches = list(predictor.batches(posts))
    with quiet("torch.utils.cpp_extension", "nncf"):
        quantize(export.folder / GRAPH, export.folder / OPENVINO, batches, model)


def _refuse_loss(check: ParityCheck, score: str, most: float) -> None:
    assert check.score is not None
    assert check.score_lost is not None
    if not check.score_lost <= most:
        raise ExportError(
            f"in INT8 the {score} falls from {check.score + check.score_lost:.4f} to {check.score:.4f} on "
            f"{plural(check.posts, 'post')}, a loss of {check.score_lost:.4f}; allowed is {most:g} (--max-auc-loss); "
            "nothing was written"
        )
