"""Search spaces: read, checked, chosen from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cotune.errors import ConfigError
from cotune.settings import FitConfig
from cotune.tuning import Range, default_space, make_space, read_space

FROZEN, TOP = FitConfig(tune="frozen"), FitConfig(tune="top")


class FirstValues:
    """A trial that takes the first value of everything, and notes what it was asked for."""

    def __init__(self, **fixed: Any) -> None:
        self.asked: list[str] = []
        self.fixed = fixed

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        self.asked.append(name)
        return self.fixed.get(name, choices[0])

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        self.asked.append(name)
        return low

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        self.asked.append(name)
        return self.fixed.get(name, low)


def test_a_file_is_read_with_hyphens_numbers_in_any_form_and_words_that_yaml_takes_for_others(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "lr-head: {low: 1e-5, high: 1e-3, log: true}\n"  # a string for YAML
        "width: {low: 64, high: 256, step: 64}\n"
        "freeze_batch_norm: [yes, no]\n"
        "dropout: [0, 0.5]\n"
        "text-top: [null, 1]\n"
    )
    space = read_space(path, TOP)
    assert space.settings == {
        "lr_head": Range(low=1e-5, high=1e-3, log=True),
        "width": Range(low=64, high=256, step=64),
        "freeze_batch_norm": ("yes", "no"),
        "dropout": (0.0, 0.5),
        "text_top": (None, 1),
    }
    path.write_text(space.yaml())
    assert read_space(path, TOP) == space


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lr-heat: [1, 2]", r"unknown setting 'lr-heat' \(did you mean 'lr_head'"),
        ("seed: [1, 2]", "seed is the same for all trials"),
        ("dropout: 0.5", "dropout must be {low: ..., high: ...} or a list of choices, not 0.5"),
        ("dropout: {low: 0.5, high: 0.2}", r"dropout: low \(0.5\) must be below high \(0.2\)"),
        ("dropout: {low: 0.5, high: 1.2}", "dropout: Input should be less than 1"),
        ("dropout: {low: 0.1, hihg: 0.2}", r"dropout: (high: Field required|hihg: is unknown \(did you mean 'high')"),
        ("dropout: {low: true, high: 0.2}", "dropout: low: must be a number"),
        ("probe-lr: {low: 0, high: 0.1, log: true}", "a logarithmic range begins above 0"),
        ("probe-lr: {low: 0.01, high: 0.1, log: true, step: 0.01}", "has no step"),
        ("width: {low: 10.5, high: 20}", "width: takes whole numbers"),
        ("width: {low: 64, high: 68}", r"width: heads \(4\) must divide width \(65\)"),
        ("width: [64, 66]", r"width: heads \(4\) must divide width \(66\)"),
        ("width: [64]", "two at least"),
        ("width: [64, 64]", "there twice"),
        ("width: [64, null]", "null is no value of it"),
        ("width: [64, [65]]", "single values"),
        ("fusion: {low: 1, high: 2}", "its values are words, so give a list"),
        ("tune: [frozen, all]", "tune: Input should be"),
        ("lr-text: {low: 0.0001, high: 0.001}", "lr-text has no effect with tune frozen; leave it out"),
        ("tune: [top, frozen]\nprobe-epochs: {low: 0, high: 5}", "nothing would be trained with tune frozen"),
        (
            "heads: [4, 8]\nwidth: [64, 68]",
            r"heads and width contradict each other: heads \(8\) must divide width \(68",
        ),
        ("width: [64, 128]\nwi-dth: 3", "unknown setting 'wi-dth'"),
        ("width: [64, 128]\n- 3", "is not valid YAML"),
        ("", "must hold lines such as"),
        ("[1]", "must hold lines such as"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_space(path, FROZEN)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_need_not_suit_a_default_that_is_searched_as_well() -> None:
    assert make_space({"heads": [3, 6], "width": [66, 132]}, FROZEN).settings["width"] == (66, 132)
    assert make_space({"probe-epochs": [0, 2], "tune": ["top", "joint"]}, FROZEN)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no search space .*--show-space"):
        read_space(tmp_path / "no.yaml", FROZEN)


def test_what_has_no_effect_beside_the_other_choices_is_not_chosen() -> None:
    space = make_space(
        {"lr-text": {"low": 1e-5, "high": 1e-3}, "text-top": [1, 2], "tune": ["frozen", "top", "joint"]}, TOP
    )
    chosen = {}
    for tune in ("frozen", "joint", "top"):
        trial: Any = FirstValues(tune=tune)
        assert space.choose(trial, TOP).tune == tune
        chosen[tune] = set(trial.asked)
    assert chosen == {"frozen": {"tune"}, "joint": {"tune", "lr_text"}, "top": {"tune", "lr_text", "text_top"}}


def test_a_probe_of_no_epochs_has_no_learning_rate() -> None:
    space = make_space({"probe-lr": [0.1, 0.2], "probe-epochs": [0, 2]}, TOP)
    trial: Any = FirstValues()
    assert space.choose(trial, TOP).probe_epochs == 0
    assert trial.asked == ["probe_epochs"]


def test_chosen_values_are_settings() -> None:
    space = make_space({"lr-head": {"low": 0.1, "high": 0.2}, "width": [64, 128]}, TOP)
    trial: Any = FirstValues()
    assert space.choose(trial, TOP) == TOP.model_copy(update={"lr_head": 0.1, "width": 64})


def test_the_defaults_are_within_the_space_unless_beyond_its_ranges() -> None:
    space = make_space({"dropout": {"low": 0.1, "high": 0.7}, "width": [64, 256], "probe-epochs": [5, 10]}, FROZEN)
    assert space.within(FROZEN) == {"dropout": 0.5, "probe_epochs": 10}
    stepped = make_space({"dropout": {"low": 0.1, "high": 0.7, "step": 0.3}}, FROZEN)
    assert stepped.within(FROZEN) == {}
    assert stepped.within(FROZEN.model_copy(update={"dropout": 0.4})) == {"dropout": 0.4}


@pytest.mark.parametrize("tune", ["frozen", "top", "joint", "lora"])
def test_the_spaces_that_come_with_cotune_hold_the_defaults(tune: str, tmp_path: Path) -> None:
    config = FitConfig(tune=tune)
    space = default_space(config)
    assert space.within(config).keys() == space.settings.keys()
    assert ("lr_text" in space.settings) == (tune != "frozen")
    path = tmp_path / "space.yaml"
    path.write_text(space.yaml())
    assert dict(read_space(path, config).settings) == dict(space.settings)


def test_the_space_follows_the_head_and_the_task() -> None:
    assert "label_smoothing" in default_space(FROZEN).settings
    assert "label_smoothing" not in default_space(FROZEN, "regression").settings
    assert "fusion" not in default_space(FROZEN.model_copy(update={"fusion": "reference"})).settings
    assert default_space(FitConfig(heads=3, width=48)).settings["width"] == (48, 96)


def test_how_many_epochs_a_trial_may_have() -> None:
    assert default_space(FROZEN).most_epochs(FROZEN) == 20
    assert default_space(TOP).most_epochs(TOP) == 5
    both = make_space({"tune": ["frozen", "top"]}, TOP)
    assert both.most_epochs(TOP) == 10
