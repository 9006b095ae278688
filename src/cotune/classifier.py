"""The scikit-learn faces of one model: a classifier and a regressor."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, cast

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from cotune.data.known_images import KnownImages, read_known
from cotune.data.python_labels import (
    checked_labels,
    checked_numbers,
    has_label,
    indicator_labels,
    label_kind,
    label_names,
)
from cotune.data.python_posts import posts_from
from cotune.data.tables.cells import is_missing, label_name
from cotune.errors import ConfigError, DataError, RunError, python_words
from cotune.estimator_diagram import estimator_diagram
from cotune.predict import Predictor
from cotune.progress import watched_progress
from cotune.report.numbers import plural
from cotune.run import Run, load_run, save_run
from cotune.settings import FitConfig, make_config, setting, settings_of
from cotune.sharing.fetch import local_folder
from cotune.tasks.choose import annotates
from cotune.training.fit import fit_posts
from cotune.training.start import checked_weights

if TYPE_CHECKING:
    from cotune.explain.explanation import Explanation

_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda label: label == "True",
}
_AS_GIVEN = "labels_as_given"
P = ParamSpec("P")
T = TypeVar("T")


class EstimatorSettings(FitConfig):
    """The parameters of the scikit-learn classes: the settings of training, and four of their own."""

    allow_remote: bool = setting(False, "Whether images may be fetched by URL.")
    allow_outside: bool = setting(
        False,
        "Whether images of the tables that `validation` and `also` name may lie outside of the tables' folders; "
        "images of a DataFrame always may.",
    )
    warm_start: bool = setting(
        False,
        "Whether `fit` goes on from the weights of the last one, or of the run that was loaded, instead of starting "
        "from the pretrained encoders; labels that it does not know are refused then.",
    )
    verbose: bool | int = setting(
        False, "Whether to print a line for each stage and epoch on standard error, with bars in a terminal."
    )


_SETTINGS = set(EstimatorSettings.model_fields)


def accepts(settings: Callable[P, FitConfig]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give an `__init__` the parameters that `settings` defines, for scikit-learn, type checkers and editors.

    Values are kept as they are given, and checked by `fit`.
    """
    kind, fields = inspect.Parameter, settings_of(cast("type[FitConfig]", settings))
    named = [kind(item.name, kind.KEYWORD_ONLY, default=item.default, annotation=item.type) for item in fields]
    signature = inspect.Signature([kind("self", kind.POSITIONAL_OR_KEYWORD), *named], return_annotation=None)

    def decorate(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        @functools.wraps(init)
        def filled(*args: Any, **given: Any) -> None:
            bound = signature.bind(*args, **given)
            bound.apply_defaults()
            init(**bound.arguments)

        filled.__signature__ = signature  # type: ignore[attr-defined]
        return filled

    return decorate


def documents(settings: type[FitConfig]) -> Callable[[type[T]], type[T]]:
    """Write what `settings` defines in the docstring of a class, in the place of ``{parameters}``."""
    entries = "\n    ".join(
        f"{item.name} : {item.kind}, default {item.default!r}\n        {item.help}" for item in settings_of(settings)
    )

    def decorate(cls: type[T]) -> type[T]:
        cls.__doc__ = (cls.__doc__ or "").replace("{parameters}", entries)
        return cls

    return decorate


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


class _JointEstimator(BaseEstimator):  # type: ignore[misc]
    """What both faces do alike: settings, posts, training, saving."""

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

    @python_words(_SETTINGS)
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

    @python_words(_SETTINGS)
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
        run = load_run(local_folder(folder))
        for note in run.notes:
            warnings.warn(note, stacklevel=2)
        return cls.from_run(run, device=device)

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


_INDICATOR = "indicator"


@documents(EstimatorSettings)
class JointClassifier(ClassifierMixin, _JointEstimator):  # type: ignore[misc]
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

    @python_words(_SETTINGS)
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
        labelled = has_label(y, len(posts)) if gaps else np.ones(len(posts), dtype=bool)
        if labelled.all():
            y = checked_labels(y, len(posts))
        elif labelled.any():
            y = checked_labels([label for label, has in zip(y, labelled, strict=True) if has], int(labelled.sum()))
        else:
            y = np.empty(0, dtype=str)
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

    @python_words(_SETTINGS)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities, shape (N, n_classes), columns in the order of ``classes_``.

        Raises
        ------
        DataError
            If a post cannot be scored; :meth:`predict_frame` gives such posts a row with the reason instead.
        """
        return self._predictions(X)[:, self._columns]

    @python_words(_SETTINGS)
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


@documents(EstimatorSettings)
class JointRegressor(RegressorMixin, _JointEstimator):  # type: ignore[misc]
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

    @python_words(_SETTINGS)
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

    @python_words(_SETTINGS)
    def predict(self, X: Any) -> np.ndarray:
        """Return a number for every post, shape (N,).

        Raises
        ------
        DataError
            If a post cannot be scored; :meth:`predict_frame` gives such posts a row with the reason instead.
        """
        return self._predictions(X)[:, 0]


def load(folder: str | Path, *, device: str = "auto") -> JointClassifier | JointRegressor:
    """Open a run folder as a classifier or a regressor, whichever its task is; see :meth:`JointClassifier.load`."""
    run = load_run(local_folder(folder))
    for note in run.notes:
        warnings.warn(note, stacklevel=2)
    face: type[JointClassifier] | type[JointRegressor] = JointClassifier if run.task.text_label else JointRegressor
    return face.from_run(run, device=device)
