"""The model as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin

from cotune.data.python_labels import checked_labels, indicator_labels, label_kind, label_names, labels_with_gaps
from cotune.data.python_posts import posts_from
from cotune.data.tables.cells import is_missing, label_name
from cotune.errors import ConfigError, DataError, python_words
from cotune.estimators.base import JointEstimator
from cotune.estimators.parameters import SETTINGS, EstimatorSettings, documents
from cotune.run import Run
from cotune.settings import FitConfig
from cotune.tasks.choose import annotates

_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda label: label == "True",
}
_AS_GIVEN = "labels_as_given"
_INDICATOR = "indicator"


@documents(EstimatorSettings)
class JointClassifier(ClassifierMixin, JointEstimator):  # type: ignore[misc]
    """Joint fine-tuning of pretrained encoders, as a scikit-learn classifier.

    `X` is a DataFrame (or a table of Arrow, or a list of dicts) with the columns `text` and `image`, or those that
    `fields` names; an image is a path, encoded bytes, a binary file, a PIL image, an array or a tensor. Each may be
    missing in a post.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray
        The labels seen in training, of the type they were given in.
    run_ : Run
        The trained model, its metrics and its environment.
    n_features_in_ : int
        Number of columns of `X`.

    Examples
    --------
    >>> model = JointClassifier(tune="frozen")  # doctest: +SKIP
    >>> model.fit(posts[["text", "image"]], posts["label"]).predict(new_posts)  # doctest: +SKIP
    """

    @python_words(SETTINGS)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> JointClassifier:
        """Train on labelled posts.

        Parameters
        ----------
        X : DataFrame or list of dict
            Posts with the fields' columns; a `group` column keeps posts together when a validation part is cut.
        y : array-like of shape (N,) or (N, n_labels), optional
            Labels: text, whole numbers, or True and False; or, for several labels a post, a table of 0 and 1 (a
            DataFrame names the labels by its columns). Without it the column `label` of `X` is taken. Where `X` has
            labels of fields (`label:text`, ...), some may be missing (None or NaN).
        sample_weight : array-like of shape (N,), optional
            How much each post counts in training; a post of weight 0 is left out.

        Raises
        ------
        DataError
            If posts, labels or weights cannot be used.
        """
        config = self._config()
        posts = posts_from(X, config.read_fields())
        gaps = annotates(posts, config)  # labels of fields teach without the post's
        if y is None:
            if posts["label"].isna().any() and not gaps:
                raise DataError("fit needs y, or a `label` for every post")
            y = _given_labels(X, posts)
        table = indicator_labels(y, len(posts))
        if table is not None:
            posts["label"] = table[1]
            self._train(X, posts, sample_weight)
            self.run_.label_type = _INDICATOR
            self._learn_from_run()
            return self
        if gaps:
            y, labelled = labels_with_gaps(y, len(posts))
        else:
            y, labelled = checked_labels(y, len(posts)), np.ones(len(posts), dtype=bool)
        names_of, names = label_names(np.unique(y)), np.full(len(posts), None, dtype=object)
        names[labelled] = [names_of[label] for label in y]
        posts["label"] = pd.Series(names, index=posts.index, dtype=object)
        start = getattr(self, "run_", None) if self.warm_start else None
        if start is not None:
            self._refuse_other_labels(start, y)
        self._train(X, posts, sample_weight)
        self.run_.label_type = label_kind(list(y)) or "str"
        if any(isinstance(label, str) and label != name for label, name in names_of.items()):
            self.run_.metrics["posts"][_AS_GIVEN] = {name: str(label) for label, name in names_of.items()}
        one_each = self.run_.task.target_type == "multiclass"
        if start is None and one_each and set(names_of.values()) == set(self.run_.classes):
            self.classes_ = np.unique(y)
            self._order_as_trained()
        else:
            self._learn_from_run()
        return self

    def _config(self) -> FitConfig:
        config = super()._config()
        if config.task == "regression":
            raise ConfigError("JointClassifier classifies; use JointRegressor for task='regression'")
        return config

    def _refuse_other_labels(self, start: Run, y: np.ndarray) -> None:
        found = label_kind(list(y)) or "str"
        if found != start.label_type:
            raise DataError(f"y holds labels of the type {found}, but the run to start from has {start.label_type}")

    def _learn_from_run(self) -> None:
        single = self.run_.task.target_type == "multiclass"
        self.classes_ = _labels_of(self.run_) if single else np.asarray(self.run_.classes)
        self._order_as_trained()

    def _order_as_trained(self) -> None:
        """Note which output of the model belongs to which of ``classes_``."""
        by_name = {label_name(label): label for label in self.classes_}
        outputs = [by_name[name] for name in self.run_.classes]
        self._columns = np.argsort([list(self.classes_).index(label) for label in outputs])

    @python_words(SETTINGS)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities, shape (N, n_classes), columns in the order of ``classes_``.

        Raises
        ------
        DataError
            If a post cannot be scored; :meth:`predict_frame` gives such posts a row with the reason instead.
        """
        return self._predictions(X)[:, self._columns]

    @python_words(SETTINGS)
    def predict(self, X: Any) -> np.ndarray:
        """Return the label of every post, shape (N,), or 0 and 1 for every label, shape (N, n_labels).

        The latter if the model was trained on such a table.
        """
        found, task = self._predictions(X), self.run_.task
        decoded = task.decode(found)
        if task.target_type == "multiclass":
            places = dict(zip(task.outputs, np.argsort(self._columns), strict=True))
            labels: np.ndarray = self.classes_[[places[name] for name in decoded]]
            return labels
        if self.run_.label_type != _INDICATOR:
            return np.asarray(decoded, dtype=object)
        return np.asarray(task.encode(decoded)[:, self._columns], dtype=np.int64)


def _given_labels(x: Any, posts: pd.DataFrame) -> Any:
    """Return the labels within `x` as they are there; those of several types go by the names that tables give them."""
    if isinstance(x, pd.DataFrame):
        given = list(x["label"]) if "label" in x else []
    elif isinstance(x, dict | list | tuple):
        given = [row.get("label") for row in ([x] if isinstance(x, dict) else x)]
    else:  # a table of Arrow
        return posts["label"].to_numpy()
    kind = label_kind([label for label in given if not is_missing(label)])
    return posts["label"].to_numpy() if kind is None else given


def _labels_of(run: Run) -> np.ndarray:
    """Return a run's labels, sorted, in the type that they had in Python."""
    convert = _FROM_TEXT[run.label_type]
    given = run.metrics.get("posts", {}).get(_AS_GIVEN, {})
    return np.unique(np.asarray([convert(given.get(label, label)) for label in run.classes]))
