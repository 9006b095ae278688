"""Small runs and posts for the tests of explanations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cotune.data.posts import read_posts
from cotune.explain.explainer import Explainer
from cotune.heads import make_head
from cotune.model import JointModel
from cotune.run import Run
from cotune.settings import FitConfig
from cotune.tasks.single_label import SingleLabel
from cotune.training.fit import fit_posts
from runs import tiny_config
from tiny import WORDS, Zoo, picture, stir

#: What a post, a label or a name may say and no page may run.
EVIL = "<script>document.title='owned'</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }} </style>"


def random_run(
    zoo: Zoo, *, text: str = "distilbert", image: str = "timm-resnet", head: str = "attention", classes: int = 3
) -> Run:
    """Return a run that was never trained, with weights that all tell."""
    used = {"text": ("text",), "image": ("image",)}.get(head, ("text", "image"))
    encoders = {name: zoo.text(text) if name == "text" else zoo.image(image) for name in used}
    dims = {name: encoder.dim for name, encoder in encoders.items()}
    torch.manual_seed(0)  # creating the zoo's encoders draws random numbers, opening them again does not
    made = make_head(head, dims, classes, width=16, heads=2)
    stir(made, 1)
    task = SingleLabel([f"class{i}" for i in range(classes)])
    model = JointModel(encoders, made, task)
    return Run(model.requires_grad_(False).eval(), FitConfig())


def explainer(run: Run, **settings: Any) -> Explainer:
    """Return an explainer on the CPU."""
    return Explainer(run, device="cpu", **settings)


def post(text: str | None, image: Any, **more: Any) -> pd.DataFrame:
    """Return one post as a frame."""
    row = pd.Series({"text": text, "image": image, **more}, dtype=object)
    return read_posts(pd.DataFrame([row], dtype=object))


Rule = Callable[[int, int], int]


def ruled_posts(folder: Path, rule: Rule, n: int, *, seed: int = 0) -> pd.DataFrame:
    """Return posts whose label is `rule(word, colour)`; words and colours are drawn independently of each other."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(n):
        word, colour = i % 2, (i // 2) % 2
        # Drawn, as a number that goes with `i` would give the word away.
        which = int(random.integers(8))
        name = folder / f"{colour}-{which}.png"
        if not name.exists():
            picture(which, tint=[(130, 0, 0), (0, 0, 130)][colour]).save(name)
        words = [["good", "bad"][word]] * 3 + [str(random.choice(WORDS[10:20]))]
        rows.append(
            {"id": f"p{i}", "text": " ".join(words), "image": str(name), "label": ["no", "yes"][rule(word, colour)]}
        )
    return read_posts(pd.DataFrame(rows, dtype=object))


def ruled_run(zoo: Zoo, folder: Path, rule: Rule, *, fusion: str) -> Run:
    """Train a head on such posts until it knows the rule."""
    config = tiny_config(
        zoo, folder / "cache", fusion=fusion, tune="frozen", text_pooling="mean", probe_epochs=150, probe_lr=1e-2,
        width=32, heads=4, dropout=0.0, modality_dropout=0.3, weight_decay=0.1,
    )  # fmt: skip
    return fit_posts(ruled_posts(folder / "posts", rule, 160), config).run


def evil_run(zoo: Zoo) -> Run:
    made = random_run(zoo)
    task = SingleLabel([EVIL, "b & c", "</table><b>"])
    return Run(JointModel(made.model.encoders, made.model.head, task).eval(), made.config)


def evil_posts(folder: Path) -> pd.DataFrame:
    folder.mkdir()
    name = folder / "<img src=x onerror=alert(1)>.png"
    picture(1).save(name)
    rows = [
        {"id": f"{EVIL}{i}", "text": f"good {EVIL} dog {i}", "image": str(name), "label": [EVIL, "other"][i % 2]}
        for i in range(4)
    ]
    rows.append({"id": "broken", "text": "x", "image": str(folder / "<b>gone</b>.png"), "label": EVIL})
    return read_posts(pd.DataFrame(rows, dtype=object))
