"""cotune: fine-tune any pretrained text and image encoders together to classify posts.

>>> import cotune
>>> posts = cotune.read_posts("posts.csv")  # doctest: +SKIP
>>> model = cotune.JointClassifier().fit(posts)  # doctest: +SKIP
>>> model.predict([{"text": "what a day", "image": "photo.jpg"}])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cotune._version import __version__
from cotune.errors import CotuneError

if TYPE_CHECKING:
    from cotune.data.posts import read_posts
    from cotune.estimators.classifier import JointClassifier
    from cotune.estimators.load import load
    from cotune.estimators.regressor import JointRegressor

__all__ = ["CotuneError", "JointClassifier", "JointRegressor", "__version__", "load", "read_posts"]

# torch and scikit-learn take seconds to import; nobody waits for them before they are used.
_LATER = {
    "JointClassifier": "cotune.estimators.classifier",
    "JointRegressor": "cotune.estimators.regressor",
    "load": "cotune.estimators.load",
    "read_posts": "cotune.data.posts",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'cotune' has no attribute {name!r}")
