from __future__ import annotations

from pathlib import Path

import pytest

from bench_tiny import tiny_plan
from cotune.benchmark import METHODS, Cell, Method, Plan
from cotune.benchmark.grid import read_grid
from cotune.benchmark.methods import mean_of
from cotune.benchmark.plan import encoder_name, parse_shots, short_name
from cotune.encoders.sources.bundled import BUNDLES
from cotune.errors import ConfigError
from cotune.settings import FitConfig
from tiny import Zoo

PAIRS = (("bundled:t", "bundled:i"), ("bundled:t", "bundled:j"))


def test_every_row_of_the_paper_is_a_method() -> None:
    assert {"svm", "image", "text", "concat", "clip", "joint", "reference", "probe", "ensemble"} <= set(METHODS)


def test_unknown_methods_are_refused_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'joint'"):
        Plan(methods=("jont",), pairs=PAIRS)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="already registered"):
        METHODS.add("joint", Method("again", run=METHODS["joint"].run))


def test_a_method_either_runs_or_combines() -> None:
    with pytest.raises(ValueError, match="either runs"):
        Method("nothing")
    with pytest.raises(ValueError, match="either runs"):
        Method("no needs", combine=mean_of)


def test_methods_put_their_settings_on_top() -> None:
    config = FitConfig(fusion="attention", tune="top", seed=7)
    assert METHODS["probe"].configure(config).tune == "frozen"
    assert METHODS["concat"].configure(config).fusion == "concat"
    assert METHODS["joint"].configure(config) == config


def test_cells_do_not_repeat_what_does_not_depend_on_an_encoder() -> None:
    cells = Plan(methods=("text", "image", "joint"), pairs=PAIRS, folds=2).cells()
    assert len([c for c in cells if c.method == "text"]) == 2
    assert len([c for c in cells if c.method == "image"]) == 4
    assert len([c for c in cells if c.method == "joint"]) == 4
    assert len({c.key for c in cells}) == len(cells)


def test_what_an_ensemble_needs_comes_before_it() -> None:
    plan = Plan(methods=("ensemble",), pairs=PAIRS[:1], folds=2)
    cells = plan.cells()
    assert [c.method for c in cells[:3]] == ["image", "text", "ensemble"]
    for cell in cells:
        assert all(cells.index(need) < cells.index(cell) for need in plan.needs(cell))


def test_draws_and_seeds_multiply_cells_and_all_comes_first() -> None:
    plan = Plan(methods=("joint",), pairs=PAIRS[:1], folds=2, seeds=(1, 2), shots=(8, 16, None), draws=3)
    cells = plan.cells()
    assert len(cells) == 2 * 2 * (3 + 3 + 1)
    assert cells[0].shots is None


def test_a_dual_encoder_is_left_out_unless_one_is_named() -> None:
    without = Plan(methods=("clip", "joint"), pairs=PAIRS[:1])
    assert {c.method for c in without.cells()} == {"joint"}
    assert without.not_run() == {"clip": "needs --clip MODEL"}
    plan = Plan(methods=("clip", "joint"), pairs=PAIRS[:1], folds=2, clip="hf:a/clip")
    assert [c.method for c in plan.cells()] == ["joint", "joint", "clip", "clip"]
    assert plan.encoders_of(plan.cells()[-1]) == ("hf:a/clip", "hf:a/clip")
    assert not plan.not_run()


def test_a_folder_goes_by_its_last_part_wherever_it_lies(zoo: Zoo, tmp_path: Path) -> None:
    plan = tiny_plan(zoo, tmp_path)
    (cell, *_) = plan.cells()
    assert (cell.text, cell.image) == ("distilbert", "timm-resnet")
    assert plan.encoders_of(cell) == plan.pairs[0]
    assert str(tmp_path) not in cell.key
    zoo.copy("distilbert", tmp_path / "other" / "distilbert")
    with pytest.raises(ConfigError, match="rename one of the folders"):
        Plan(methods=("joint",), pairs=(*plan.pairs, (str(tmp_path / "other" / "distilbert"), plan.pairs[0][1])))


def test_names() -> None:
    assert short_name("hf:owner/name") == "name"
    assert short_name("bundled:name") == "name"
    assert encoder_name("timm:resnet50") == "timm:resnet50"
    key = Cell("joint", "hf:ow ner/näme", "timm:x", 3, 42, 8, 1).key
    assert key.isascii()
    assert "/" not in key


def test_cells_of_like_names_have_different_files() -> None:
    assert Cell("m", "hf:a/x", "i", 0, 1).key != Cell("m", "hf:b/x", "i", 0, 1).key
    assert Cell("m", "", "x", 0, 1).key != Cell("m", "x", "", 0, 1).key


@pytest.mark.parametrize(
    ("words", "expected"), [("all", (None,)), ("16,8,all", (8, 16, None)), ("8,8", (8,))]
)  # fmt: skip
def test_shots(words: str, expected: tuple[int | None, ...]) -> None:
    assert parse_shots(words.split(",")) == expected


@pytest.mark.parametrize("words", [["few"], ["-3"], []])
def test_bad_shots(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_shots(words)


@pytest.mark.parametrize(
    "settings",
    [{"methods": ()}, {"pairs": ()}, {"seeds": ()}, {"draws": 0}, {"shots": (0,)},
     {"fit": FitConfig(validation="held.csv")}],
)  # fmt: skip
def test_plans_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Plan(**{"methods": ("joint",), "pairs": PAIRS, **settings})  # type: ignore[arg-type]


def test_ready_grids() -> None:
    bundled = read_grid("bundled")
    assert len(bundled.pairs) == 3
    assert {name for pair in bundled.pairs for name in pair} == {f"bundled:{name}" for name in BUNDLES}
    hub = read_grid("hub")
    assert len(hub.text) == 6
    assert len(hub.image) == 5
    assert hub.methods == ("joint",)


def test_hub_grid_names_models_that_timm_knows() -> None:
    timm = pytest.importorskip("timm")
    known = set(timm.list_models(pretrained=True))
    assert {spec.removeprefix("timm:") for spec in read_grid("hub").image} <= known


def test_own_grid(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("text: [a, b]\nimage: [c]\nfolds: 5\nmethods: [joint, concat]\n")
    grid = read_grid(str(path))
    assert grid.pairs == (("a", "c"), ("b", "c"))
    assert (grid.folds, grid.methods) == (5, ("joint", "concat"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text: [a]\n", "image must be a list"),
        ("- a\n", "must hold"),
        ("text: [a]\nimages: [b]\n", "did you mean 'image'"),
        ("text: [a]\nimage: [b]\nfolds: 1\n", "at least 2"),
        ("text: a\nimage: [b]\n", "text must be a list"),
        ("text: [a\n", "not valid YAML"),
        ("text: [!!timestamp 2001-01-01x]\n", "not valid YAML"),
    ],
)
def test_bad_grids_say_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_grid(str(path))


def test_a_grid_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="did you mean 'bundled'"):
        read_grid("bundle")
