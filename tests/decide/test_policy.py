"""Policies: what a file may say, and what its record keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotune.checksums import sealed
from cotune.decide.policy import ChosenPolicy, make_policy, read_policy, route_of
from cotune.errors import CotuneError
from cotune.files import write_json

GOOD = "class: hateful\nact: {precision: 0.95}\nallow: {recall: 0.9}\nversion: 3\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clas: hateful\nact: {precision: 0.9}", "unknown key 'clas' (did you mean 'class'?)"),
        ("class: a\nact: {precison: 0.9}", "unknown key 'act.precison' (did you mean 'precision'?)"),
        ("class: a\nact: {}", "act.precision is missing"),
        ("class: a", "a policy needs a target"),
        ("act: {precision: 0.9}", "class is missing"),
        ("class: a\nact: {precision: 95}", "act.precision: "),
        ("class: a\nallow: {recall: 1}", "allow.recall: "),
        ("class: a\nact: 0.9", "act: give its target, such as `act: {precision: 0.95}` (got 0.9)"),
        ("class: a\nallow: [0.9]", "allow: give its target, such as `allow: {recall: 0.95}`"),
        ("class: a\nact: {precision: .9}\nconfidence: 0.9999999999999999", "confidence: "),
        ("class: a\nact: {precision: .9}\nconfidence: 0.2", "confidence: "),
        ("class: [a]\nact: {precision: .9}", "class: "),
        ("- class: a", "holds no policy"),
        ("", "holds no policy"),
        ("class: a: b", "is not valid YAML"),
        ("class: !!python/object/apply:os.system [ls]", "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(CotuneError, match="policy.yaml") as error:
        read_policy(tmp_path / "policy.yaml")
    assert words in str(error.value)


def test_a_file_and_its_record(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(GOOD)
    policy = read_policy(tmp_path / "policy.yaml")
    assert not isinstance(policy, ChosenPolicy)
    assert (policy.class_, policy.version, policy.confidence) == ("hateful", "3", 0.95)
    assert make_policy(policy.plain()) == policy
    thresholds = {"act": {"value": 0.8}, "allow": None}
    chosen = ChosenPolicy.make(policy, {"hash": "x"}, thresholds)
    assert chosen.hash == ChosenPolicy.make(policy, {"hash": "x"}, thresholds).hash
    assert chosen.hash != ChosenPolicy.make(policy, {"hash": "y"}, thresholds).hash
    write_json(tmp_path / "policy.json", chosen.record)
    again = read_policy(tmp_path / "policy.json")
    assert isinstance(again, ChosenPolicy)
    assert (again.policy, again.hash, again.thresholds) == (policy, chosen.hash, {"act": 0.8, "allow": None})


def test_a_record_that_was_changed_is_refused(tmp_path: Path) -> None:
    record = ChosenPolicy.make(make_policy({"class": "a", "act": {"precision": 0.9}}), {"hash": "x"},
                               {"act": {"value": 0.8}, "allow": None}).record  # fmt: skip
    for change in ({"thresholds": {"act": {"value": 0.1}, "allow": None}}, {"format": 99}, {"kind": "run"}):
        (tmp_path / "policy.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(CotuneError, match="choose its thresholds again"):
            read_policy(tmp_path / "policy.json")
    (tmp_path / "policy.json").write_text(json.dumps({k: v for k, v in record.items() if k != "checksum"}))
    with pytest.raises(CotuneError, match="was changed"):
        read_policy(tmp_path / "policy.json")


def test_routes() -> None:
    both = {"act": 0.8, "allow": 0.2}
    assert [route_of(p, both) for p in (0.9, 0.8, 0.5, 0.2, 0.1)] == ["act", "review", "review", "review", "allow"]
    assert [route_of(p, {"act": None, "allow": None}) for p in (0.0, 1.0)] == ["review", "review"]
    assert route_of(float("nan"), both) == "review"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"policy": None}, "damaged .policy"),
        ({"policy": {"class": "a", "act": {"precision": 3}}}, "act.precision"),
        ({"thresholds": {}}, "damaged .thresholds"),
        ({"thresholds": {"act": {}, "allow": None}}, "damaged .thresholds.act.value"),
        ({"thresholds": {"act": 0.8, "allow": None}}, "damaged .thresholds.act"),
    ],
)
def test_a_sealed_record_of_another_form_is_named(tmp_path: Path, harm: dict[str, object], words: str) -> None:
    policy = make_policy({"class": "a", "act": {"precision": 0.9}})
    record = ChosenPolicy.make(policy, {"hash": "x"}, {"act": {"value": 0.8}, "allow": None}).record | harm
    del record["checksum"]
    write_json(tmp_path / "policy.json", sealed(record))
    with pytest.raises(CotuneError, match=words):
        read_policy(tmp_path / "policy.json")
