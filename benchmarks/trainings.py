"""Other ways to train the default head, as methods beside `joint`: one setting changed in each.

    PYTHONPATH=benchmarks cotune bench posts.csv --out DIR --folds 5 --emap 0 --plugin trainings \
        --methods joint,ema,longer,whole-posts,half-posts,slow-image

Without modality dropout a training post never loses its text or image, so that nothing asks either encoder to classify
alone; with twice as much, three of five posts are learned from one modality.
"""

from __future__ import annotations

from typing import Any

from cotune.benchmark import METHODS, Method
from cotune.benchmark.methods import fit

_CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "ema": ("Averaged weights", {"ema": 0.98}),
    "longer": ("Five epochs", {"epochs": 5, "min_epochs": 5}),
    "whole-posts": ("No modality dropout", {"modality_dropout": 0.0}),
    "half-posts": ("Twice the modality dropout", {"modality_dropout": 0.6}),
    "slow-image": ("A third of the image's rate", {"lr_image": 1e-4}),
}

for _name, (_title, _settings) in _CHANGED.items():
    METHODS.add(_name, Method(_title, run=fit, settings=_settings))
