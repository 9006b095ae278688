"""A run as one graph: the same predictions without torch, for every task and any fields, or one line that says why not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cotune.checksums import sealed
from cotune.cli import main
from cotune.decide.calibrate import calibrated
from cotune.decide.choose import hash_of
from cotune.engines import sessions as engines
from cotune.errors import ConfigError, ExportError
from cotune.explain.explainer import Explainer
from cotune.export.choose import EngineChoice
from cotune.export.export_run import export_run
from cotune.export.graph import ExportGraph
from cotune.export.graph_names import CONTRIBUTIONS, PARTS
from cotune.export.package import open_export
from cotune.export.predictor import ExportedPredictor
from cotune.fields import Field
from cotune.model import JointModel
from cotune.predict import Predictor
from cotune.run import Run, load_run, save_calibration, save_run
from cotune.training.fit import fit_posts
from runs import tiny_config, tiny_fit, write_table
from tiny import Zoo, make_posts

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
ENGINES = list(engines.installed())


@pytest.fixture(autouse=True)
def free_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COTUNE_ENGINE")


@pytest.fixture(scope="module")
def run(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_fit(zoo, tmp_path_factory.mktemp("export"), tune="frozen", classes=3).run


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Posts some of which lack a text or an image."""
    return make_posts(tmp_path_factory.mktemp("posts"), 20, classes=3, seed=5)


@pytest.fixture(scope="module")
def exported(run: Run, posts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    checks = export_run(run, folder, posts, openvino="openvino" in ENGINES)
    assert [check.engine for check in checks] == ENGINES
    assert all(check.largest_difference < 1e-4 and check.agreement == 1 for check in checks)
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_table_as_the_run_gives(run: Run, exported: Path, posts: pd.DataFrame, engine: str) -> None:
    spoiled = posts.copy()
    spoiled.loc[3, ["text", "image"]] = None
    spoiled.loc[4, "image"] = "/nowhere/a.jpg"
    expected = Predictor(run, device="cpu").frame(spoiled)
    with ExportedPredictor(open_export(exported), engine=engine, batch_size=3) as predictor:  # type: ignore[arg-type]
        found = predictor.frame(spoiled)
        streamed = pd.concat(predictor.stream(spoiled.iloc[i : i + 6] for i in range(0, 20, 6)), ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, atol=1e-4, rtol=0)
    assert streamed.pop("error").fillna("").tolist() == expected.pop("error").fillna("").tolist()
    pd.testing.assert_frame_equal(streamed, expected, atol=1e-4, rtol=0)


def test_a_calibrated_run_gives_a_calibrated_export(run: Run, posts: pd.DataFrame, tmp_path: Path) -> None:
    model = JointModel(run.model.encoders, run.model.head, calibrated(run.task, 3.0))
    warm = Run(model.eval(), run.config, run.metrics, run.environment)
    export_run(warm, tmp_path / "model", posts, openvino=False)
    expected, without = Predictor(warm, device="cpu"), Predictor(run, device="cpu")
    with ExportedPredictor(open_export(tmp_path / "model"), engine="onnx") as predictor:
        found = predictor.frame(posts)
        assert hash_of(predictor) == hash_of(expected) != hash_of(without)
    pd.testing.assert_frame_equal(found, expected.frame(posts), atol=1e-4, rtol=0)
    sure = found.filter(like="p_").max(axis=1)
    assert (sure < without.frame(posts).filter(like="p_").max(axis=1))[sure.notna()].all()


def test_a_calibrated_run_of_several_labels_gives_a_calibrated_export(zoo: Zoo, tmp_path: Path) -> None:
    posts = make_posts(tmp_path / "posts", 36, classes=3)
    posts["label"] = labels_for("multi-label", posts["label"])
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", task="multi-label")
    run = fit_posts(posts, config).run
    model = JointModel(run.model.encoders, run.model.head, calibrated(run.task, 3.0))
    warm = Run(model.eval(), run.config, run.metrics, run.environment)
    save_run(tmp_path / "run", run)
    save_calibration(tmp_path / "run", warm.task, {"temperature": 3.0})
    again = load_run(tmp_path / "run")
    assert (again.notes, again.task.settings()) == ([], warm.task.settings())
    export_run(again, tmp_path / "model", posts, openvino=False, parts=True)
    expected, without = Predictor(warm, device="cpu"), Predictor(run, device="cpu")
    with ExportedPredictor(open_export(tmp_path / "model"), engine="onnx") as predictor:
        found, scores = predictor.frame(posts), predictor.scores(posts)
        assert hash_of(predictor) == hash_of(expected) != hash_of(without)
    pd.testing.assert_frame_equal(found, expected.frame(posts), atol=1e-4, rtol=0)
    np.testing.assert_allclose(scores.contributions, expected.scores(posts).contributions, atol=1e-3)
    before, after = without.scores(posts), expected.scores(posts)
    np.testing.assert_allclose(after.contributions, before.contributions / 3, atol=1e-5)
    odds = np.log(before.predictions / (1 - before.predictions))
    np.testing.assert_allclose(after.predictions, 1 / (1 + np.exp(-odds / 3)), atol=1e-5)
    assert expected.frame(posts)["label"].fillna("").tolist() == without.frame(posts)["label"].fillna("").tolist()


def test_an_absent_field_has_exactly_no_share(exported: Path, posts: pd.DataFrame) -> None:
    with ExportedPredictor(open_export(exported)) as predictor:
        found = predictor.frame(posts.assign(image=None))
    known = found["label"].notna()
    assert known.sum() > 10
    assert (found["image_share"][known] == 0).all()
    assert (found["text_share"][known] == 1).all()


def test_contributions_in_the_graph(run: Run, posts: pd.DataFrame, tmp_path: Path) -> None:
    export_run(run, tmp_path / "e", posts, parts=True)
    predictor = ExportedPredictor(open_export(tmp_path / "e"), engine="onnx")
    read = predictor.read(posts)
    rows = np.flatnonzero(read.usable)
    found = predictor.session.run(predictor.arrays(read.inputs, read.present, rows))
    explainer = Explainer(run, device="cpu", batch_size=100)
    features, same, _ = explainer.read(posts)
    assert same.tolist() == rows.tolist()
    at, parts = next(iter(explainer.contributions(features, same)))
    order = np.argsort(at)
    expected = {
        "base": parts.base,
        "contributions": torch.stack(list(parts.parts.values()), dim=1),
        "alone": torch.stack(list(parts.alone.values()), dim=1),
        "interactions": torch.stack(list(parts.interactions.values()), dim=1),
    }
    assert set(expected) == {CONTRIBUTIONS, *PARTS}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values[order].numpy(), atol=2e-4, err_msg=name)
    total = found["base"] + found["contributions"].sum(axis=1)
    np.testing.assert_allclose(
        total, run.task.contribution_scale(torch.from_numpy(found["predictions"]).log()), atol=1e-3
    )


NO_TORCH = """
import sys
for name in ("torch", "transformers", "timm", "cotune"):
    sys.modules[name] = None
"""


def test_the_code_of_the_readme_runs_by_itself(run: Run, exported: Path, posts: pd.DataFrame) -> None:
    text = (exported / "README.md").read_text()
    assert "A text of white space, control and invisible characters alone counts as none" in text
    program = text.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in program.splitlines() if line]) <= 25
    from PIL import Image

    photo = exported / "image.jpg"
    Image.open(posts["image"].dropna().iloc[0]).convert("RGB").save(photo, quality=95)
    try:
        done = subprocess.run(
            [sys.executable, "-c", NO_TORCH + program], cwd=exported, capture_output=True, text=True, check=True
        )
    finally:
        expected = Predictor(run, device="cpu").frame(
            pd.DataFrame({"id": ["a"], "text": ["what a lovely day"], "image": [str(photo)], "row": [1]})
        )
        photo.unlink()
    found = json.loads(done.stdout.partition("}")[0].replace("'", '"') + "}")
    for label, value in found.items():
        assert value == pytest.approx(expected[f"p_{label}"][0], abs=1e-4)


def test_predicting_imports_no_torch(exported: Path, posts: pd.DataFrame, tmp_path: Path) -> None:
    table = write_table(posts, Path(posts["image"].dropna().iloc[0]).parent.parent / "new.csv")
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'timm'): sys.modules[name] = None\n"
        "from cotune.cli import main\n"
        f"sys.exit(main(['predict', {str(exported)!r}, {str(table)!r}, '--out', {str(tmp_path / 'p.csv')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(posts)


# ---- which engine ----------------------------------------------------------------------------------------


@pytest.fixture
def saved(run: Run, tmp_path: Path) -> Path:
    save_run(tmp_path / "run", run)
    return tmp_path / "run"


def test_a_run_is_exported_once_into_the_cache(
    saved: Path,
    posts: pd.DataFrame,
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cotune.export.choose._WORTH_IT", 1)
    table = write_table(posts, Path(posts["image"].dropna().iloc[0]).parent.parent / "new.csv")
    for engine, name in (("torch", "a"), ("auto", "b"), ("auto", "c")):
        out = str(tmp_path / f"{name}.csv")
        assert main(["predict", str(saved), str(table), "--out", out, "--engine", engine]) == 0
        assert ("preparing" in capsys.readouterr().err) == (name == "b")
    one, two, three = (pd.read_csv(tmp_path / f"{name}.csv") for name in "abc")
    pd.testing.assert_frame_equal(one, two, atol=1e-4, rtol=0)
    pd.testing.assert_frame_equal(two, three)
    assert main(["info", str(saved)]) == 0
    assert f"engine: {ENGINES[0]}" in capsys.readouterr().out


def test_an_export_that_was_damaged_in_the_cache_is_made_again(saved: Path, posts: pd.DataFrame, cache: Path) -> None:
    from cotune.progress import Progress

    choice = EngineChoice(saved)
    assert choice.ready is None
    first = choice.export(load_run(saved), posts, Progress())
    assert first is not None
    (first.folder / "model.onnx").write_bytes(b"half")
    assert choice.ready is None
    assert choice.export(load_run(saved), posts, Progress()) is not None
    assert choice.ready is not None


def test_without_an_engine_torch_is_used(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_PACKAGES", {"openvino": "no-such-package", "onnx": "no-such-package"})
    choice = EngineChoice(saved)
    assert not choice.may_export(10**6)
    assert "cotune[export]" in choice.describe()
    with pytest.raises(ConfigError, match=r"pip install 'cotune\[export\]'"):
        EngineChoice(saved, "onnx")


def test_what_cannot_be_exported_falls_back_to_torch_and_is_remembered(
    saved: Path, posts: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    from cotune.progress import Progress

    def refuse(self: ExportGraph, inputs: object) -> None:
        raise RuntimeError("no counterpart for aten.foo.default")

    monkeypatch.setattr(ExportGraph, "forward", refuse)
    choice = EngineChoice(saved)
    assert choice.may_export(1000)
    assert not choice.may_export(10)  # a few posts are not worth it
    assert choice.export(load_run(saved), posts, Progress()) is None
    assert not EngineChoice(saved).may_export(1000)
    assert "aten.foo" in EngineChoice(saved).describe()
    with pytest.raises(ExportError, match=r"the operator aten\.foo\.default is in the way"):
        EngineChoice(saved, "onnx").export(load_run(saved), posts, Progress())


# ---- what is refused -------------------------------------------------------------------------------------


def test_a_graph_that_says_something_else_is_not_written(
    run: Run, posts: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ExportGraph.forward

    def off(self: ExportGraph, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        predictions, *rest = forward(self, inputs)
        return predictions + 0.01, *rest

    monkeypatch.setattr(ExportGraph, "forward", off)
    with pytest.raises(ExportError, match=r"differ by up to 0\.01, allowed is 0\.0001"):
        export_run(run, tmp_path / "e", posts)
    assert not (tmp_path / "e").exists()


def test_damaged_edited_and_later_exports(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    about = json.loads((copy / "export.json").read_text())
    (copy / "export.json").write_text(json.dumps({**about, "reads": ["image"]}))
    with pytest.raises(ExportError, match="was changed"):
        open_export(copy)
    plain = {key: value for key, value in about.items() if key != "checksum"}
    (copy / "export.json").write_text(json.dumps(sealed({**plain, "format": 99})))
    with pytest.raises(ExportError, match="newer form; update"):
        open_export(copy)
    (copy / "export.json").write_text(json.dumps(about))
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-5])
    with pytest.raises(ExportError, match="cut short"):
        open_export(copy)
    with pytest.raises(ExportError, match="is no export"):
        open_export(tmp_path)


@pytest.mark.parametrize("name", ["checksums", "fields", "reads", "task"])
def test_a_sealed_export_of_another_form_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    about = json.loads((copy / "export.json").read_text())
    for value in (None, 3, [3], {"a": "b"}):
        changed = {key: each for key, each in {**about, name: value}.items() if key != "checksum"}
        (copy / "export.json").write_text(json.dumps(sealed(changed)))
        with pytest.raises(ExportError, match="export the run again"):
            open_export(copy)


def test_the_command(saved: Path, posts: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(posts, Path(posts["image"].dropna().iloc[0]).parent.parent / "new.csv")
    out = tmp_path / "out"
    assert main(["export", str(saved), "--out", str(out), "--posts", str(table)]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert main(["evaluate", str(out), str(table), "--out", str(tmp_path / "scores"), "--bootstrap", "20"]) == 0
    assert (tmp_path / "scores" / "metrics.json").is_file()
    for arguments, words in (
        (["export", str(saved), "--out", str(saved)], "holds a run"),
        (["export", str(saved), "--out", str(table)], "is a file"),
        (["export", str(saved), "--out", str(tmp_path)], "not empty"),
        (["predict", str(out), str(table), "--out", str(tmp_path / "p.csv"), "--engine", "torch"], "is an export"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


# ---- any fields, any task --------------------------------------------------------------------------------


def labels_for(task: str, labels: pd.Series) -> list[str]:
    if task == "regression":
        return [str(round(1.5 * int(label[-1]) + 0.1 * i, 2)) for i, label in enumerate(labels)]
    if task == "multi-label":
        return [f"{label}|even" if i % 2 else label for i, label in enumerate(labels)]
    return labels.tolist()


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_any_fields_and_every_task(zoo: Zoo, tmp_path: Path, task: str) -> None:
    posts = make_posts(tmp_path / "posts", 36, classes=3)
    posts["label"] = labels_for(task, posts["label"])
    random = np.random.default_rng(0)
    cells = [{"likes": float(n), "device": str(random.choice(["web", "phone"]))} for n in random.normal(size=36)]
    posts["table"] = [cell if i % 5 else None for i, cell in enumerate(cells)]
    posts["caption"] = posts["text"].iloc[::-1].tolist()
    fields = (
        Field(name="text", kind="text"),
        Field(name="caption", kind="text", shared="text"),
        Field(name="image", kind="image"),
        Field(name="table", kind="table", columns=("likes", "device")),
    )
    config = tiny_config(zoo, tmp_path / "cache", tune="frozen", task=task, fields=fields)
    fitted = fit_posts(posts, config).run
    checks = export_run(fitted, tmp_path / "e", posts, parts=True)
    assert all(check.largest_difference < 1e-4 for check in checks)
    with ExportedPredictor(open_export(tmp_path / "e"), engine="onnx", bad_images="text-only") as predictor:
        found = predictor.frame(posts)
    expected = Predictor(fitted, device="cpu", bad_images="text-only").frame(posts)
    pd.testing.assert_frame_equal(found, expected, atol=3e-4, rtol=0, check_dtype=False)
    text = (tmp_path / "e" / "README.md").read_text()
    program = text.partition("```python\n")[2].partition("```")[0]
    posts_image = Path(posts["image"].dropna().iloc[0])
    (tmp_path / "e" / "image.jpg").write_bytes(posts_image.read_bytes())
    subprocess.run([sys.executable, "-c", NO_TORCH + program], cwd=tmp_path / "e", check=True, capture_output=True)
