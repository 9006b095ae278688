"""One small typed registry, used for encoders, fusion heads and benchmark methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Generic, TypeVar

from cotune.errors import ConfigError, clip, did_you_mean, first_line, listed

T = TypeVar("T")


class Registry(Generic[T]):
    """Names mapped to things; an unknown name answers with the nearest ones.

    Parameters
    ----------
    kind : str
        What the names stand for, used in messages ("fusion head").
    group : str, optional
        Entry points by which other packages add theirs ("cotune.heads"); they are looked up when a name is unknown.
    base : callable, optional
        Returns the class that every item is a subclass of, or with `instances` an instance of; anything else is
        refused. A function, as the class may be defined after the registry.
    instances : bool
        Whether items are instances.
    """

    def __init__(
        self, kind: str, group: str | None = None, *, base: Callable[[], type] | None = None, instances: bool = False
    ) -> None:
        self.kind = kind
        self.group = group
        self._base = base
        self._instances = instances
        self._items: dict[str, T] = {}
        self._asked = group is None

    def add(self, name: str, item: T) -> T:
        """Register `item` under `name`.

        Raises
        ------
        ConfigError
            If the name is taken, or the item is not what the registry holds.
        """
        if name in self._items:
            raise ConfigError(f"{self.kind} {name!r} is already registered; choose another name")
        if self._base is not None and (problem := self._problem(item, self._base())):
            raise ConfigError(f"the {self.kind} {name!r} {problem}; docs/extending.md shows how it is written")
        self._items[name] = item
        return item

    def _problem(self, item: object, base: type) -> str | None:
        """Say what is wrong with an item, None for nothing."""
        shown = clip(repr(item), 60)
        wanted = f"{base.__module__}.{base.__qualname__}"
        if self._instances:
            return None if isinstance(item, base) else f"is {shown}, expected an instance of {wanted}"
        if not (isinstance(item, type) and issubclass(item, base)):
            return f"is {shown}, expected a subclass of {wanted}"
        missing = sorted(getattr(item, "__abstractmethods__", ()))
        return f"lacks {listed(missing)}" if missing and inspect.isabstract(item) else None

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name`."""
        return lambda item: self.add(name, item)

    def all(self) -> dict[str, T]:
        """Return everything by name, what installed packages add included."""
        self._ask_packages()
        return dict(self._items)

    def _ask_packages(self) -> None:
        """Load the entry points of other packages, once.

        Raises
        ------
        ConfigError
            If one cannot be loaded, or takes a name that is taken.
        """
        if self._asked:
            return
        self._asked = True
        for point in metadata.entry_points(group=str(self.group)):
            try:
                item = point.load()
            except (Exception, SystemExit) as error:
                package = point.dist.name if point.dist is not None else point.value
                raise ConfigError(
                    f"the package {package} offers the {self.kind} {point.name!r}, but {point.value} cannot be loaded "
                    f"({first_line(error)}); update or uninstall it"
                ) from error
            if point.name not in self._items:  # a module that registers by itself when it is imported
                self.add(point.name, item)

    def __getitem__(self, name: str) -> T:
        if name not in self:
            known = ", ".join(sorted(self._items))
            raise ConfigError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._items)}; known are: {known}")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._items:
            self._ask_packages()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
