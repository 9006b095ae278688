"""INT8 exports: what they lose is measured on other posts than they were calibrated on, and refused if it is too much."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cotune.cli import main
from cotune.engines.sessions import import_openvino
from cotune.errors import DataError, ExportError
from cotune.export import export_run as module
from cotune.export.export_run import export_run
from cotune.export.package import GRAPH, OPENVINO, Export, open_export
from cotune.export.predictor import ExportedPredictor
from cotune.export.quantize import Int8, left_as_they_are, split_posts
from cotune.fields import Field
from cotune.predict import Predictor
from cotune.run import Run, save_run
from cotune.scoring import Scores
from cotune.tasks import Task
from cotune.tasks.multi_label import MultiLabel
from cotune.tasks.regression import Regression
from cotune.tasks.single_label import SingleLabel
from cotune.training.fit import fit_posts
from runs import tiny_config, tiny_fit, write_table
from tiny import Zoo, make_posts

if not all(map(find_spec, ("nncf", "openvino", "onnxruntime"))):
    pytest.skip("the extra `export` is not installed", allow_module_level=True)
N = 240


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("int8"), tune="frozen", classes=3).run


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Posts some of which lack a text or an image; the labels of some are wrong, so that no score is perfect."""
    found = make_posts(tmp_path_factory.mktemp("posts"), N, classes=3, seed=5)
    found.loc[::4, "label"] = np.roll(found["label"][::4].to_numpy(), 1)
    return found


@pytest.fixture(scope="module")
def exported(run: Run, posts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_run(run, folder, posts, int8=Int8(max_loss=0.1))
    return folder


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the graph of before be that of another export, and single precision stand for INT8."""

    def convert(graph: Path, out: Path, *_: object) -> None:
        module._write_openvino(out.parent.parent)

    monkeypatch.setattr(module, "_write_graph", lambda model, path, **_: shutil.copy(exported / GRAPH, path))
    monkeypatch.setattr(module, "quantize", convert)


def test_what_it_loses_is_measured_and_kept(run: Run, exported: Path, posts: pd.DataFrame) -> None:
    about = json.loads((exported / "export.json").read_text())
    assert about["precision"] == "int8"
    assert about["calibration_posts"] == N // 4
    *single, int8 = about["checks"]
    assert all(check["precision"] == "fp32" and check["largest_difference"] < 1e-4 for check in single)
    assert int8["precision"] == "int8"
    assert int8["posts"] == N - N // 4
    assert 1e-4 < int8["largest_difference"] < 0.3
    _, scored = split_posts(posts, run.task, seed=0)
    targets = run.task.encode(scored["label"].tolist())
    expected = Predictor(run, device="cpu", bad_images="text-only").scores(scored).predictions
    with ExportedPredictor(open_export(exported), engine="openvino", bad_images="text-only") as predictor:
        found = predictor.scores(scored).predictions
    whole, score = (run.task.score(targets, values)["auc"] for values in (expected, found))
    assert int8["score"] == pytest.approx(score, abs=1e-3)
    assert int8["score_lost"] == pytest.approx(whole - score, abs=1e-3)
    assert int8["agreement"] == pytest.approx(np.mean(found.argmax(1) == expected.argmax(1)), abs=0.02)


def test_depthwise_convolutions_are_left_as_they_are(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    shapes = {"deep": (8, 1, 3, 3), "full": (8, 8, 3, 3)}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8, 9, 9)) for name in ("x", "y", "z")]
    nodes = [
        helper.make_node("Conv", [given, name], [made], name=name, group=8 // shapes[name][1])
        for name, given, made in (("deep", "x", "y"), ("full", "y", "z"))
    ]
    for node in nodes:
        node.metadata_props.add(key="namespace", value="model._encoders.0.model")
    weights = [helper.make_tensor(k, TensorProto.FLOAT, v, np.ones(v, np.float32)) for k, v in shapes.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[-1:], weights)
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    encoder = SimpleNamespace(modality="image")
    model = SimpleNamespace(encoders={"image": encoder})
    assert left_as_they_are(tmp_path / "g.onnx", model) == {"deep"}  # type: ignore[arg-type]


def test_the_encoders_alone_are_quantized(run: Run, exported: Path) -> None:
    model = import_openvino().Core().read_model(exported / OPENVINO)
    operators = model.get_ops()
    assert any(op.get_output_element_type(0).get_type_name() == "i8" for op in operators if op.outputs())
    left = left_as_they_are(exported / GRAPH, run.model)
    products = [op for op in operators if op.get_type_name() in ("MatMul", "Convolution")]
    names = {}
    for op in products:
        quantized = [op.input_value(i).get_node().get_type_name() == "FakeQuantize" for i in range(2)]
        names.setdefault(op.get_friendly_name().partition("/")[0] in left, []).append(any(quantized))
    assert len(names[True]) >= 5  # the head
    assert not any(names[True])
    assert len(names[False]) > 20  # the encoders
    assert all(names[False])


def test_onnx_runtime_runs_the_same_folder_in_single_precision(run: Run, exported: Path, posts: pd.DataFrame) -> None:
    some = posts.head(20)
    expected = Predictor(run, device="cpu").frame(some)
    with ExportedPredictor(open_export(exported), engine="onnx") as predictor:
        pd.testing.assert_frame_equal(predictor.frame(some), expected, atol=1e-4, rtol=0)


def test_the_code_of_the_readme_runs_in_int8(exported: Path, posts: pd.DataFrame) -> None:
    text = (exported / "README.md").read_text()
    assert "AUC" in text.partition("## Checked")[2]
    program = text.partition("```python\n")[2].partition("```")[0]
    assert OPENVINO in program
    assert "onnxruntime" not in program
    photo = exported / "image.jpg"
    photo.write_bytes(Path(posts["image"].dropna().iloc[0]).read_bytes())
    hidden = "import sys\nfor name in ('torch', 'transformers', 'timm', 'cotune', 'nncf'): sys.modules[name] = None\n"
    try:
        done = subprocess.run(
            [sys.executable, "-c", hidden + program], cwd=exported, capture_output=True, text=True, check=True
        )
    finally:
        photo.unlink()
    values = json.loads(done.stdout.partition("}")[0].replace("'", '"') + "}")
    assert sum(values.values()) == pytest.approx(1, abs=1e-3)


def test_posts_are_split_and_none_is_in_both(run: Run, posts: pd.DataFrame) -> None:
    unlabelled = posts.assign(label=[label if i % 10 else None for i, label in enumerate(posts["label"])])
    calibration, scored = split_posts(unlabelled, run.task, seed=0)
    ids = [*calibration["id"], *scored["id"]]
    assert len(ids) == len(set(ids)) == 216
    assert len(calibration) == 54
    again, _ = split_posts(unlabelled, run.task, seed=0)
    other, _ = split_posts(unlabelled, run.task, seed=1)
    assert again["id"].tolist() == calibration["id"].tolist() != other["id"].tolist()


def test_too_large_a_loss_is_refused_and_nothing_written(
    run: Run, posts: pd.DataFrame, tmp_path: Path, quick: None
) -> None:
    with pytest.raises(
        ExportError, match=r"the AUC falls from .* allowed is -1 \(--max-auc-loss\); nothing was written"
    ):
        export_run(run, tmp_path / "e", posts, int8=Int8(max_loss=-1))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (SingleLabel(["a", "b"]), ["a", "b"]),
        (MultiLabel(["a", "b"], [0.5, 0.5]), ["a", "a|b"]),
        (Regression(2.0, 1.5), ["1.5", "3"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_score_is_that_of_the_task(task: Task, labels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    posts = pd.DataFrame({"label": [labels[i % 2] for i in range(60)]})
    signal = (np.arange(60) % 2)[:, None] + random.normal(size=(60, len(task.outputs)))
    expected = 1 / (1 + np.exp(-signal))
    found = 1 / (1 + np.exp(-signal - random.normal(size=signal.shape)))
    if isinstance(task, SingleLabel):
        expected, found = (np.column_stack([1 - p[:, 1], p[:, 1]]) for p in (expected, found))
    expected[7] = found[7] = np.nan  # a post whose image cannot be read

    class Fake:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Fake:
            return self

        def __exit__(self, *_: object) -> None: ...

        def scores(self, posts: pd.DataFrame) -> Scores:
            return replace(Scores.none(task, ("text", "image"), [""] * len(found)), predictions=found)

    monkeypatch.setattr(module, "ExportedPredictor", Fake)
    check = module.compare(Export(Path(), {}, task, ()), "openvino", posts, expected, int8=True)
    known = np.arange(60) != 7
    targets = task.encode(posts["label"][known].tolist())
    score, whole = (task.score(targets, values[known])[task.main_score] for values in (found, expected))
    assert check.posts == 59
    assert check.score == pytest.approx(score)
    assert check.score_lost == pytest.approx(whole - score)
    assert check.score_lost > 0.01
    assert (check.agreement is None) == (task.name == "regression")


def test_the_command(
    run: Run, posts: pd.DataFrame, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(tmp_path / "run", run)
    folder = Path(posts["image"].dropna().iloc[0]).parent.parent
    table = str(write_table(posts, folder / "labelled.csv"))
    few = str(write_table(posts.head(150), folder / "few.csv"))
    one = str(write_table(posts.assign(label=posts["label"][1]), folder / "one.csv"))
    none = str(write_table(posts.drop(columns="label"), folder / "none.csv"))
    command = ["export", str(tmp_path / "run"), "--int8", "--out", str(tmp_path / "out")]
    for arguments, words in (
        ([], "needs posts with labels"),
        (["--posts", none], "label"),
        (["--posts", few], "at least 200 posts with labels of the run"),
        (["--posts", one], "have the label"),
    ):
        assert main([*command, *arguments]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert words in told[-1]
        assert not (tmp_path / "out").exists()
    assert main([*command, "--posts", table]) == 0
    assert "AUC lost" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "int8 (OpenVINO; calibrated on 60 posts)" in shown
    assert "AUC lost" in shown


def test_a_table_alone_has_nothing_to_quantize(zoo: Zoo, tmp_path: Path, posts: pd.DataFrame) -> None:
    cells = [{"likes": float(i % 7)} for i in range(len(posts))]
    fields = (Field(name="table", kind="table", columns=("likes",)),)
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", fields=fields)
    run = fit_posts(posts.drop(columns=["text", "image"]).assign(table=cells).head(40), config).run
    with pytest.raises(ExportError, match="no text and no image"):
        export_run(run, tmp_path / "e", posts, int8=Int8())


def test_labels_that_the_run_does_not_know(run: Run, posts: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="of 240 none has one"):
        split_posts(posts.assign(label="elsewhere"), run.task, seed=0)


def test_openvino_reports_nothing_over_the_network() -> None:
    import_openvino()
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__.endswith("telemetry_stub")
