"""cotune: fine-tune any text encoder together with any image encoder to classify posts.

>>> import cotune
>>> posts = cotune.read_posts("posts.csv")  # doctest: +SKIP
>>> model = cotune.JointClassifier().fit(posts)  # doctest: +SKIP
>>> model.predict([{"text": "what a day", "image": "photo.jpg"}])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotune._version import __version__
from cotune.errors import CotuneError

if TYPE_CHECKING:
    from cotune.classifier import JointClassifier
    from cotune.data.posts import read_posts

    load = JointClassifier.load

__all__ = ["CotuneError", "JointClassifier", "__version__", "load", "read_posts"]


def __getattr__(name: str) -> Any:
    # torch and scikit-learn take seconds to import; nobody waits for them before they are used.
    if name in ("JointClassifier", "load"):
        from cotune.classifier import JointClassifier

        return JointClassifier if name == "JointClassifier" else JointClassifier.load
    if name == "read_posts":
        from cotune.data.posts import read_posts

        return read_posts
    raise AttributeError(f"module 'cotune' has no attribute {name!r}")
