"""The parameters of the estimators: the settings of training, and what scikit-learn asks of an `__init__`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from cotune.settings import FitConfig, setting, settings_of

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


#: Names of all parameters.
SETTINGS = set(EstimatorSettings.model_fields)


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
