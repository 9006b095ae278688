"""The scripts that measure hidden letters and known images work on a few posts."""

from __future__ import annotations

import json
import random
import runpy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cotune.encoders.normalizers import text_normalizer
from runs import write_table
from tiny import Zoo, make_posts

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with small tables where the packages have theirs."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / "augly-1.0.0-py3-none-any.whl", "w") as file:
        file.writestr(
            "augly/assets/text/letter_unicode_mapping.json", json.dumps({"a": ["\u03b1", "@"], "o": ["\u043e"]})
        )
        file.writestr("augly/assets/text/fun_fonts.json", json.dumps({"bold": {"a": "\U0001d41a", "o": "\U0001d428"}}))
        file.writestr(
            "augly/text/augmenters/utils.py", 'X = 1\nLETTER_CHAR_MAPPING = {\n"a": ["4"],\n"o": ["0", "()"],\n}\n'
        )
    with zipfile.ZipFile(folder / "silverspeak-3.0.0-py3-none-any.whl", "w") as file:
        file.writestr("silverspeak/homoglyphs/identical_map.json", json.dumps({"a": ["\u0430"], "o": ["\u03bf"]}))
    return folder


def test_attacks_change_words_and_are_undone(wheels: Path) -> None:
    script = runpy.run_path(str(SCRIPTS / "evasion.py"))
    kinds = script["attacks"](wheels)
    text = "good food and so very happy dogs @friend http://t.co/aaa"
    undone = text_normalizer("leet")
    for kind, attack in kinds.items():
        found = [script["attacked"](text, attack, 0.5, random.Random(seed)) for seed in range(5)]
        assert script["attacked"](text, attack, 0.5, random.Random(0)) == found[0]
        assert all(each.endswith("@friend http://t.co/aaa") for each in found)
        assert any(each != text for each in found), kind
        if kind in ("zero-width", "invisible, any", "bidi controls", "lookalikes (silverspeak)", "styled letters"):
            assert {undone.normalize_str(each) for each in found} == {text}, kind


def test_hidden_letters_are_measured(
    zoo: Zoo, wheels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(make_posts(tmp_path / "posts", 24, gaps=False), tmp_path / "posts.csv")
    settings: dict[str, Any] = {
        "text-encoder": zoo("distilbert"), "image-encoder": zoo("timm-resnet"), "cache": tmp_path / "cache", "width": 16,
        "probe-epochs": 2, "folds-group": "none",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    script = runpy.run_path(str(SCRIPTS / "evasion.py"))
    script["main"](
        [str(table), "--tables", str(wheels), "--out", str(tmp_path / "out"), "--seeds", "0", "--folds", "3", *words]
    )
    found = json.loads((tmp_path / "out" / "evasion.json").read_text())
    rows = pd.DataFrame(found["rows"]).set_index(["attack", "level"])
    assert len(rows) == 12 * 4
    assert rows.loc[("clean", "none"), "same tokens"] == 1
    assert rows.loc[("lookalikes (silverspeak)", "confusables"), "same tokens"] == 1
    assert rows.loc[("lookalikes (silverspeak)", "none"), "same tokens"] < 1
    assert rows["text"].between(0, 1).all()
    assert "| mixed |" in capsys.readouterr().out


def test_known_images_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(6):
        block = np.random.default_rng(at).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(block).resize((200, 150), Image.Resampling.BICUBIC).save(tmp_path / f"{at}.png")
    posts = pd.DataFrame({"id": range(6), "text": list("abcdef"), "image": [f"{at}.png" for at in range(6)]})
    posts.to_csv(tmp_path / "posts.csv", index=False)
    script = runpy.run_path(str(SCRIPTS / "known_images.py"))
    script["main"]([str(tmp_path / "posts.csv"), "--out", str(tmp_path / "out"), "--sample", "4", "--known", "30000"])
    found = json.loads((tmp_path / "out" / "known_images.json").read_text())
    assert found["found"]["the same file format, quality 95"][-1] == 1
    assert found["found"]["mirrored"][0] == 0
    assert found["false"]["pairs"] == 15
    assert "| grey |" in capsys.readouterr().out
