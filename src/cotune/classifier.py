"""The scikit-learn face of one model."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from cotune.data.cells import label_name
from cotune.data.python_labels import checked_labels, label_kind, label_names
from cotune.errors import DataError, python_words
from cotune.predict import Predictor, posts_from
from cotune.progress import TerminalProgress
from cotune.run import Run, load_run, save_run
from cotune.settings import FitConfig, make_config, setting, settings_of
from cotune.training.fit import fit_posts

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


class ClassifierSettings(FitConfig):
    """The parameters of :class:`JointClassifier`: the settings of training, and three of its own."""

    allow_remote: bool = setting(False, "Whether images may be fetched by URL.")
    warm_start: bool = setting(
        False,
        "Whether `fit` goes on from the weights of the last one, or of the run that was loaded, instead of starting "
        "from the pretrained encoders; labels that it does not know are refused then.",
    )
    verbose: bool | int = setting(
        False, "Whether to print a line for each stage and epoch on standard error, with bars in a terminal."
    )


_SETTINGS = set(ClassifierSettings.model_fields)


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
        given = list(x["label"])
    elif isinstance(x, dict | list | tuple):
        given = [row["label"] for row in ([x] if isinstance(x, dict) else x)]
    else:  # a table of Arrow
        return posts["label"].to_numpy()
    return posts["label"].to_numpy() if label_kind(given) is None else given


def _labels_of(run: Run) -> np.ndarray:
    """Return a run's labels, sorted, in the type that they had in Python."""
    convert = _FROM_TEXT[run.label_type]
    given = run.metrics.get("posts", {}).get(_AS_GIVEN, {})
    return np.unique(np.asarray([convert(given.get(label, label)) for label in run.classes]))


@documents(ClassifierSettings)
class JointClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Joint fine-tuning of a text and an image encoder, as a scikit-learn classifier.

    `X` is a DataFrame (or a table of Arrow, or a list of dicts) with the columns `text` and `image`; an image is a
    path, encoded bytes, a binary file, a PIL image, an array or a tensor. Either may be missing in a post.

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

    @accepts(ClassifierSettings)
    def __init__(self, **settings: Any) -> None:
        for name, value in settings.items():
            setattr(self, name, value)

    @python_words(_SETTINGS)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> JointClassifier:
        """Train on labelled posts.

        Parameters
        ----------
        X : DataFrame or list of dict
            Posts with `text` and `image`; a `group` column keeps posts together when a validation part is cut.
        y : array-like of shape (N,), optional
            Labels: text, whole numbers, or True and False; without it the column `label` of `X` is taken.
        sample_weight : array-like of shape (N,), optional
            How much each post counts in training; a post of weight 0 is left out.

        Raises
        ------
        DataError
            If posts, labels or weights cannot be used.
        """
        posts = posts_from(X)
        if y is None:
            if posts["label"].isna().any():
                raise DataError("fit needs y, or a `label` for every post")
            y = _given_labels(X, posts)
        y = checked_labels(y, len(posts))
        self.classes_ = np.unique(y)
        names = label_names(self.classes_)
        posts["label"] = [names[label] for label in y]
        settings = {name: getattr(self, name) for name in FitConfig.model_fields}
        progress = TerminalProgress() if self.verbose else None
        start = getattr(self, "run_", None) if self.warm_start else None
        if start is not None:
            self._refuse_other_labels(start, y)
        result = fit_posts(
            posts,
            make_config(settings),
            sample_weight=None if sample_weight is None else np.asarray(sample_weight),
            start=start,
            allow_remote=self.allow_remote,
            progress=progress,
        )
        self.run_ = result.run
        self.run_.label_type = label_kind(list(y)) or "str"
        if any(isinstance(label, str) and label != name for label, name in names.items()):
            self.run_.metrics["posts"][_AS_GIVEN] = {name: str(label) for label, name in names.items()}
        if start is not None:
            self.classes_ = _labels_of(start)
        self._order_as_trained()
        self.n_features_in_ = X.shape[1] if isinstance(X, pd.DataFrame) else 2
        return self

    def _refuse_other_labels(self, start: Run, y: np.ndarray) -> None:
        found = label_kind(list(y)) or "str"
        if found != start.label_type:
            raise DataError(f"y holds labels of the type {found}, but the run to start from has {start.label_type}")

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
        check_is_fitted(self, "run_")
        posts = posts_from(X)
        proba, _, errors = self._predictor().scores(posts)
        bad = np.flatnonzero(np.isnan(proba[:, 0]))
        if len(bad):
            raise DataError(
                f"{len(bad)} of {len(posts)} posts cannot be scored, first at position {bad[0]}: {errors[bad[0]]}; "
                "predict_frame() gives them a row with the reason"
            )
        return proba[:, self._columns]

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely label of every post, shape (N,)."""
        proba = self.predict_proba(X)
        labels: np.ndarray = self.classes_[proba.argmax(axis=1)]
        return labels

    @python_words(_SETTINGS)
    def predict_frame(self, X: Any) -> pd.DataFrame:
        """Return the predictions table: id, label, probabilities, modality shares, error; one row a post."""
        check_is_fitted(self, "run_")
        return self._predictor().frame(posts_from(X))

    @python_words(_SETTINGS)
    def explain(self, X: Any, *, words: bool = True, pixels: bool = True) -> Explanation:
        """Return why one post is predicted as it is.

        Parameters
        ----------
        X : dict, list of one dict, or DataFrame of one row
            The post, with `text` and `image`; a `label` is shown beside the prediction.
        words, pixels : bool
            Whether to ask what each word and each part of the picture did; both together take seconds.

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

        posts = posts_from(X)
        return Explainer(self.run_, **self._settings()).explain(posts, words=words, pixels=pixels)

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
    def load(cls, folder: str | Path, *, device: str = "auto") -> JointClassifier:
        """Open a run folder; nothing outside of it is read, and no network is used.

        Raises
        ------
        RunError
            If the folder is no run, or is damaged; what harms no prediction is a warning.
        """
        run = load_run(folder)
        for note in run.notes:
            warnings.warn(note, stacklevel=2)
        return cls.from_run(run, device=device)

    @classmethod
    def from_run(cls, run: Run, *, device: str = "auto") -> JointClassifier:
        """Wrap a run that is open already."""
        model = cls(**{**run.config.model_dump(), "device": device})
        model.run_ = run
        model.classes_ = _labels_of(run)
        model._order_as_trained()
        model.n_features_in_ = 2
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        return tags
