"""The model as a scikit-learn regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin

from cotune.data.python_labels import checked_numbers
from cotune.data.python_posts import posts_from
from cotune.errors import DataError, python_words
from cotune.estimators.base import JointEstimator
from cotune.estimators.parameters import SETTINGS, EstimatorSettings, documents


@documents(EstimatorSettings)
class JointRegressor(RegressorMixin, JointEstimator):  # type: ignore[misc]
    """Joint fine-tuning of pretrained encoders, as a scikit-learn regressor.

    `X` is what :class:`JointClassifier` takes.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    run_ : Run
        The trained model, its metrics and its environment.
    n_features_in_ : int
        Number of columns of `X`.
    """

    _task = "regression"

    @python_words(SETTINGS)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> JointRegressor:
        """Train on posts with a number each.

        Parameters
        ----------
        X : DataFrame or list of dict
            Posts with the fields' columns; a `group` column keeps posts together when a validation part is cut.
        y : array-like of shape (N,), optional
            Numbers. Without it the column `label` of `X` is taken.
        sample_weight : array-like of shape (N,), optional
            How much each post counts in training; a post of weight 0 is left out.

        Raises
        ------
        DataError
            If posts, numbers or weights cannot be used.
        """
        posts = posts_from(X, self._config().read_fields())
        if y is not None:
            posts["label"] = [repr(number) for number in checked_numbers(y, len(posts))]
        elif posts["label"].isna().any():
            raise DataError("fit needs y, or a `label` for every post")
        self._train(X, posts, sample_weight)
        return self

    @python_words(SETTINGS)
    def predict(self, X: Any) -> np.ndarray:
        """Return a number for every post, shape (N,).

        Raises
        ------
        DataError
            If a post cannot be scored; :meth:`predict_frame` gives such posts a row with the reason instead.
        """
        return self._predictions(X)[:, 0]
