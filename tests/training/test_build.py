"""Encoders and heads are opened as the settings say, before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest

from cotune.errors import ConfigError
from cotune.settings import FitConfig, make_config
from cotune.tasks.single_label import SingleLabel
from cotune.training.build import build_model, open_encoders, prepare_posts
from tiny import PostsMaker, Zoo


@pytest.fixture
def names(zoo: Zoo) -> dict[str, str]:
    return {"text_encoder": str(zoo("distilbert")), "image_encoder": str(zoo("timm-resnet"))}


def config(names: dict[str, str], **settings: Any) -> FitConfig:
    return make_config({**names, "width": 8, "heads": 2, "device": "cpu", "tune": "joint", **settings})


def test_an_unknown_head(names: dict[str, str], new_posts: PostsMaker) -> None:
    posts = new_posts(4)
    features = prepare_posts(posts, open_encoders(config(names)), config(names))
    with pytest.raises(ConfigError, match="did you mean 'attention'"):
        build_model(features, SingleLabel(["a", "b"]), config(names, fusion="atention"), rows=posts.index.to_numpy())
    with pytest.raises(ConfigError, match="unknown fusion head"):
        open_encoders(config(names, fusion="nothing"))


def test_heads_of_one_field_open_one_encoder(names: dict[str, str]) -> None:
    assert list(open_encoders(config(names, fusion="text", image_encoder="no such encoder"))) == ["text"]
    assert list(open_encoders(config(names, fusion="image", text_encoder="no such encoder"))) == ["image"]
