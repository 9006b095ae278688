"""Parts that live in other packages: imported by name, and recorded by the runs that need them."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from cotune.errors import ConfigError, CotuneError, clip

_OWN = __name__.partition(".")[0]
_GROUPS = f"{_OWN}."
_named: set[str] = set()  # with --plugin, in this process


def load_plugins(modules: Sequence[str]) -> None:
    """Import modules that register parts of their own.

    Installed packages need not be named: theirs are found by their entry points.

    Raises
    ------
    ConfigError
        If a module cannot be imported.
    """
    if modules and "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, ".")
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
            module = Path(name).name.removesuffix(".py")
            hint = f"such as {module}" if module.isidentifier() else "such as my_package.head"
            raise ConfigError(
                f"--plugin {clip(name)} is no name of a module; name it as `import` does, {hint}, with its folder on "
                "PYTHONPATH or the current one"
            )
        try:
            importlib.import_module(name)
            _named.add(name.partition(".")[0])
        except CotuneError:
            raise
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
            raise ConfigError(f"--plugin {name} cannot be imported: {reason}") from error


def origins(parts: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Return where parts come from that are not cotune's own.

    Parameters
    ----------
    parts : mapping
        From what a part is ("fusion head 'mine'") to the part.

    Returns
    -------
    dict
        For each such part its ``module`` and, if it is installed, its ``package``.
    """
    found = {}
    for what, part in parts.items():
        module = type(part).__module__
        top = module.partition(".")[0]
        if top != _OWN:
            packages = metadata.packages_distributions().get(top)
            found[what] = {"module": module, **({"package": packages[0]} if packages else {})}
    return found


def is_own(part: object) -> bool:
    """Tell whether a part is cotune's own."""
    return type(part).__module__.partition(".")[0] == _OWN


def raised_in(error: BaseException) -> str | None:
    """Return the place in a plugin where an error, or what led to it, was raised; None if it was elsewhere.

    Parameters
    ----------
    error : BaseException
        As it was caught.
    """
    points = (point for package in metadata.distributions() for point in package.entry_points)
    offered = {point.module.partition(".")[0] for point in points if point.group.startswith(_GROUPS)}
    outside = (_named | offered) - {_OWN}
    found = None
    cause: BaseException | None = error
    while cause is not None and found is None:
        for frame, line in traceback.walk_tb(cause.__traceback__):
            module = str(frame.f_globals.get("__name__", ""))
            if module.partition(".")[0] in outside:
                found = f"{module}, line {line}"
        cause = cause.__cause__
    return found


def where_from(origin: Mapping[str, str] | None) -> str:
    """Return what to do about a part that is missing, for a message."""
    if not origin:
        return "install the package that it comes from, or name its module with --plugin"
    module = f"name its module with --plugin {origin['module']}"
    return f"pip install {origin['package']}, or {module}" if "package" in origin else module
