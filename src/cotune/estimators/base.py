"""What both estimators do alike: parameters, posts, training, saving."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from cotune.data.known_images import KnownImages, read_known
from cotune.data.python_posts import posts_from
from cotune.errors import DataError, RunError, python_words
from cotune.estimators.diagram import estimator_diagram
from cotune.estimators.parameters import SETTINGS, EstimatorSettings, accepts
from cotune.predict import Predictor
from cotune.progress import watched_progress
from cotune.report.numbers import plural
from cotune.run import Run, load_run, save_run
from cotune.settings import FitConfig, make_config
from cotune.sharing.fetch import local_folder
from cotune.training.fit import fit_posts
from cotune.training.start import checked_weights

if TYPE_CHECKING:
    from cotune.explain.explanation import Explanation


class JointEstimator(BaseEstimator):  # type: ignore[misc]
    """What the classifier and the regressor share."""

    run_: Run
    _task = "auto"

    @accepts(EstimatorSettings)
    def __init__(self, **settings: Any) -> None:
        for name, value in settings.items():
            setattr(self, name, value)

    def _config(self) -> FitConfig:
        settings = {name: getattr(self, name) for name in FitConfig.model_fields}
        if settings["task"] == "auto":
            settings["task"] = self._task
        return make_config(settings)

    def _posts(self, X: Any) -> pd.DataFrame:
        return posts_from(X, self.run_.fields)

    def _train(self, X: Any, posts: pd.DataFrame, sample_weight: Any) -> None:
        """Train on posts whose labels are text."""
        if sample_weight is not None:
            posts["weight"] = checked_weights(np.asarray(sample_weight), len(posts))
        result = fit_posts(
            posts,
            self._config(),
            start=getattr(self, "run_", None) if self.warm_start else None,
            allow_remote=self.allow_remote,
            allow_outside=self.allow_outside,
            progress=watched_progress() if self.verbose else None,
        )
        self.run_ = result.run
        self.n_features_in_ = X.shape[1] if isinstance(X, pd.DataFrame) else len(self.run_.fields)

    def _predictions(self, X: Any) -> np.ndarray:
        """Return the predictions for posts all of which can be scored, shape (N, n_outputs)."""
        check_is_fitted(self, "run_")
        posts = self._posts(X)
        scores = self._predictor().scores(posts)
        found = scores.predictions
        bad = np.flatnonzero(np.isnan(found[:, 0]))
        if len(bad):
            raise DataError(
                f"{len(bad):,} of {plural(len(posts), 'post')} cannot be scored, first at position {bad[0]}: "
                f"{scores.errors[bad[0]]}; predict_frame() gives them a row with the reason"
            )
        return found

    @python_words(SETTINGS)
    def predict_frame(self, X: Any, *, known: str | Path | KnownImages | None = None) -> pd.DataFrame:
        """Return the predictions table: id, label, probabilities, shares of the fields, error; one row a post.

        Parameters
        ----------
        X : list of dict, dict of lists, array or DataFrame
            The posts.
        known : path or KnownImages, optional
            A table of perceptual hashes, as ``cotune hashes`` writes it: columns `known` and `known_distance` say which
            of these images a post shows. :func:`cotune.data.known_images.read_known` reads it with another distance.

        Raises
        ------
        DataError
            If the table of hashes is damaged.
        ConfigError
            If the model reads no images.
        """
        check_is_fitted(self, "run_")
        predictor = self._predictor()
        if known is not None:
            predictor.look_for(known if isinstance(known, KnownImages) else read_known(known))
        return predictor.frame(self._posts(X))

    @python_words(SETTINGS)
    def explain(self, X: Any, *, words: bool = True, pixels: bool = True) -> Explanation:
        """Return why one post is predicted as it is.

        Parameters
        ----------
        X : dict, list of one dict, or DataFrame of one row
            The post; a `label` is shown beside the prediction.
        words, pixels : bool
            Whether to ask what each word and each part of the image did; both together take seconds.

        Returns
        -------
        Explanation
            Plain numbers, and a rendering for notebooks.

        Raises
        ------
        DataError
            If there is not exactly one post, or it cannot be scored.
        CotuneError
            If words are asked for and captum is not installed (``pip install 'cotune[explain]'``).
        """
        check_is_fitted(self, "run_")
        from cotune.explain.explainer import Explainer

        return Explainer(self.run_, **self._settings()).explain(self._posts(X), words=words, pixels=pixels)

    def _sk_visual_block_(self) -> Any:
        """Return the encoders and the head, for scikit-learn's diagram of an estimator."""
        run: Run | None = getattr(self, "run_", None)
        return estimator_diagram(self._config() if run is None else run.config, run)

    def _predictor(self) -> Predictor:
        return Predictor(self.run_, **self._settings())

    def _settings(self) -> dict[str, Any]:
        bad_images = "text-only" if self.bad_images == "text-only" else "error"
        return {"device": self.device, "bad_images": bad_images, "allow_remote": self.allow_remote}

    def save(self, folder: str | Path) -> None:
        """Write the run folder: weights as safetensors, everything else as JSON, no pickle."""
        check_is_fitted(self, "run_")
        save_run(Path(folder), self.run_)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Self:
        """Open a run folder; nothing outside of it is read, and no network is used but for ``hf:OWNER/NAME``.

        Raises
        ------
        RunError
            If the folder is no run, or is damaged; what harms no prediction is a warning.
        """
        return cls.from_run(opened_run(folder), device=device)

    @classmethod
    def from_run(cls, run: Run, *, device: str = "auto") -> Self:
        """Wrap a run that is open already.

        Raises
        ------
        RunError
            If it is a run of another task.
        """
        if run.task.text_label != issubclass(cls, ClassifierMixin):
            other = "JointClassifier" if run.task.text_label else "JointRegressor"
            raise RunError(f"the run's task is {run.task.name}; open it with {other}, or cotune.load")
        model = cls(**{**run.config.model_dump(), "fields": run.config.fields, "device": device})
        model.run_ = run
        model._learn_from_run()
        model.n_features_in_ = len(run.fields)
        return model

    def _learn_from_run(self) -> None:
        """Set what `fit` sets besides the run."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        return tags


def opened_run(folder: str | Path) -> Run:
    """Open a run folder for a public function; what harms no prediction is a warning at the line that called it."""
    run = load_run(local_folder(folder))
    for note in run.notes:
        warnings.warn(note, stacklevel=3)
    return run
