from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cotune.errors import ConfigError
from cotune.settings import FitConfig, current_names, make_config, settings_of


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_valid_and_frozen() -> None:
    config = make_config({})
    assert config == FitConfig()
    with pytest.raises(ValidationError):
        config.epochs = 9  # type: ignore[misc]


def test_flags_win_over_the_file_and_none_counts_as_not_given(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs: 7\nbatch-size: 16\nlr-text: 1e-5\n")
    config = make_config({"epochs": 9, "batch_size": None}, file=path)
    assert (config.epochs, config.batch_size, config.lr_text) == (9, 16, 1e-5)


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'bach_size' \(did you mean 'batch_size'"):
        make_config({"bach_size": 3})


def test_unknown_setting_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "text-encodr: x\n")
    with pytest.raises(ConfigError, match=r"in .*settings\.yaml \(did you mean 'text_encoder'"):
        make_config({}, file=path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs: "),
        ({"dropout": 1.0}, "dropout: "),
        ({"lr_text": "fast"}, "lr-text: .*'fast'"),
        ({"lr_text": float("nan")}, "lr-text: "),
        ({"cache_gb": float("inf")}, "cache-gb: "),
        ({"seed": -1}, "seed: "),
        ({"tune": "all"}, "tune: "),
        ({"width": 30, "heads": 4}, r"heads \(4\) must divide width \(30\)"),
        ({"validation": 1.5}, "between 0 and 1"),
        ({"validation": 0.0}, "between 0 and 1"),
    ],
)
def test_values_out_of_range_say_so_in_one_line(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as fault:
        make_config(settings)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("line", "key", "meant"),
    [
        ("freeze_batch_norm: no", "freeze_batch_norm", "no"),
        ("freeze_batch_norm: yes", "freeze_batch_norm", "yes"),
        ("precision: 32", "precision", "32"),
        ("cache: 123", "cache", "123"),
    ],
)
def test_words_that_yaml_takes_for_something_else(tmp_path: Path, line: str, key: str, meant: str) -> None:
    assert getattr(make_config({}, file=write(tmp_path, line)), key) == meant


@pytest.mark.parametrize(("said", "meant"), [("0.2", 0.2), (0.2, 0.2), ("1e-1", 0.1), ("held out.csv", "held out.csv")])
def test_validation_is_a_part_or_a_table(said: object, meant: object) -> None:
    assert make_config({"validation": said}).validation == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "must hold `setting: value` lines, not a list"),
        ("epochs: [1\n", "not valid YAML"),
        ("just words", "not a str"),
    ],
)
def test_files_that_hold_no_settings(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as fault:
        make_config({}, file=write(tmp_path, text))
    assert "\n" not in str(fault.value)


def test_missing_unreadable_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        make_config({}, file=tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="there is no configuration file .*config.json"):
        make_config({}, file=tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"fusion: caf\xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        make_config({}, file=tmp_path / "latin.yaml")
    assert make_config({}, file=write(tmp_path, "# nothing said\n")) == FitConfig()


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        make_config({}, file=write(tmp_path, "epochs: !!python/object/apply:os.getpid []\n"))


@given(st.dictionaries(st.text(max_size=20), st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=20))))
def test_any_settings_give_a_configuration_or_a_config_error(settings: dict[str, object]) -> None:
    try:
        make_config(settings)
    except ConfigError as fault:
        assert str(fault)


@given(st.sampled_from(sorted(FitConfig.model_fields)), st.one_of(st.integers(), st.floats(), st.text(max_size=9)))
def test_any_value_of_a_known_setting_is_taken_or_refused_in_one_line(key: str, value: object) -> None:
    try:
        assert isinstance(make_config({key: value}), FitConfig)
    except ConfigError as fault:
        assert "\n" not in str(fault)


def test_a_configuration_survives_the_trip_through_plain_values() -> None:
    config = make_config({"text_top": 2, "validation": "v.csv", "precision": "bf16"})
    assert make_config(config.model_dump(mode="json")) == config


def test_every_setting_has_a_help_text_and_a_panel() -> None:
    for item in settings_of():
        assert item.help.endswith("."), item.name
        assert item.panel, item.name
        assert make_config({item.name: item.default}) == FitConfig()


def test_an_old_name_is_read_as_the_new_one(tmp_path: Path) -> None:
    path = write(tmp_path, "clip: 0.5\n")
    assert make_config({}, file=path).max_grad_norm == 0.5
    assert make_config({"clip": 2}, file=path).max_grad_norm == 2
    assert make_config({"max_grad_norm": 2}, file=path).max_grad_norm == 2
    assert FitConfig(**{"clip": 3}).max_grad_norm == 3
    assert current_names({"clip": 1, "max_grad_norm": 2}) == {"max_grad_norm": 2}
    with pytest.raises(ConfigError, match="max-grad-norm: "):
        make_config({"clip": -1})


def test_head_settings() -> None:
    assert set(FitConfig().head_settings()) >= {"width", "heads", "dropout", "modality_dropout"}
