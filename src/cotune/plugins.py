"""Parts that live in other packages: imported by name, and recorded by the runs that need them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

from cotune.errors import ConfigError, CotuneError

_OWN = __name__.partition(".")[0]


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
        try:
            importlib.import_module(name)
        except CotuneError:
            raise
        except Exception as error:
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


def where_from(origin: Mapping[str, str] | None) -> str:
    """Return what to do about a part that is missing, for a message."""
    if not origin:
        return "install the package that it comes from, or name its module with --plugin"
    module = f"name its module with --plugin {origin['module']}"
    return f"pip install {origin['package']}, or {module}" if "package" in origin else module
