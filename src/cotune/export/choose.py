"""Which engine scores posts for a run: torch, or its export by ONNX Runtime or OpenVINO.

A run is exported once, into the cache, when a table is scored; from then on it starts without torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cotune._version import __version__
from cotune.data.kinds import refuse_missing_kinds
from cotune.data.store import default_root
from cotune.engines.failures import failure, remember_failure
from cotune.engines.sessions import ENGINES, Engine, choose_engine, installed
from cotune.errors import ConfigError, CotuneError, ExportError, clip
from cotune.export.package import FORMAT, Export, is_export, open_export
from cotune.fields import Field
from cotune.files import real_path
from cotune.progress import Progress
from cotune.run_settings import read_settings
from cotune.settings import FitConfig

if TYPE_CHECKING:
    import pandas as pd

    from cotune.run import Run

_COMPARED = 64
#: Exporting takes some fifteen seconds, which a few posts do not win back.
_WORTH_IT = 200


class EngineChoice:
    """How a run, or an export, is going to be scored.

    Parameters
    ----------
    folder : Path
        A run or an export.
    engine : {"auto", "torch", "onnx", "openvino"}
        What is asked for.
    device : str
        Where torch runs; on another one than the CPU ``auto`` means torch.
    plugins : sequence of str
        Modules that the run needs; with any, ``auto`` means torch.
    cache : Path, optional
        Where exports are kept; cotune's cache folder by default.

    Raises
    ------
    ConfigError
        If the engine is not installed, or torch is asked for an export.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine = "auto",
        *,
        device: str = "auto",
        plugins: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        self.folder, self.asked, self.plugins = folder, engine, tuple(plugins)
        self.exported = is_export(folder)
        if engine == "torch" and self.exported:
            raise ConfigError(f"{folder} is an export, which torch does not run; leave --engine out, or give the run")
        if engine in ENGINES or self.exported:
            choose_engine(engine)
        needs_torch = bool(plugins) or device not in ("auto", "cpu") or _has_gpu(device)
        self._by_torch = engine == "torch" or (engine == "auto" and needs_torch and not self.exported)
        self._kept = None if self.exported or self._by_torch else _place(folder, cache)

    @property
    def fields(self) -> tuple[Field, ...]:
        """What a post has."""
        if self.exported:
            return open_export(self.folder, verify=False).fields
        settings = read_settings(self.folder)
        found = FitConfig(**settings["fit"]).read_fields()
        refuse_missing_kinds(self.folder, [field.kind for field in found], settings.get("needs", {}))
        return found

    @property
    def identity(self) -> str:
        """A hash of the run or export: of all that its settings and checksums say."""
        return identity_of(self.folder)

    @property
    def ready(self) -> Export | None:
        """The export to score with, if there is one already."""
        if self.exported:
            return open_export(self.folder)
        if self._kept is None or not is_export(self._kept) or not installed():
            return None
        try:
            return open_export(self._kept)
        except ExportError:  # damaged in the cache: it is made again
            return None

    def prepare(
        self, open_run: Callable[[], Run], posts: pd.DataFrame | None, progress: Progress, *, n_posts: float
    ) -> tuple[Export | None, Run | None]:
        """Return the export to score with, made if that pays for `n_posts`; or the opened run.

        Parameters
        ----------
        open_run : callable
            Opens the run; called only where it is needed.
        posts : DataFrame or None
            Some posts to compare a new export on; without them none is made.
        progress : Progress
            Progress reporter.
        n_posts : float
            How many posts are going to be scored.
        """
        export = self.ready
        if export is not None:
            return export, None
        run = open_run()
        if posts is not None and len(posts) and self.may_export(n_posts):
            export = self.export(run, posts, progress)
        return export, run

    def may_export(self, n_posts: float) -> bool:
        """Tell whether the run is to be exported before so many posts are scored, and can be."""
        if self._kept is None or self.exported:
            return False
        if self.asked in ENGINES:
            return True
        able = n_posts >= _WORTH_IT and bool(installed()) and all(map(find_spec, ("onnx", "onnxscript")))
        return able and failure(self._kept) is None

    def export(self, run: Run, posts: pd.DataFrame, progress: Progress) -> Export | None:
        """Export a run into the cache, checked on some posts; None where that is not possible and torch will do.

        Raises
        ------
        CotuneError
            If it is not possible, and an engine was asked for by name.
        """
        from cotune.export.export_run import export_run

        assert self._kept is not None
        try:
            progress.say(f"note: preparing {self.folder} for {choose_engine('auto')}, once")
            export_run(run, self._kept, posts.head(_COMPARED), progress=progress)
            return open_export(self._kept)
        except CotuneError as error:
            if self.asked in ENGINES:
                raise
            progress.say(f"note: torch is used; {clip(str(error), 300)}")
            if isinstance(error, ExportError):
                remember_failure(self._kept, str(error))
            return None

    def describe(self) -> str:
        """Return in one line what scores posts, and why."""
        there = ", ".join(f"{name} {version}" for name, version in installed().items())
        if self._by_torch:
            return "torch"
        if not there:
            return "torch; pip install 'cotune[export]' brings faster engines"
        reason = None if self._kept is None else failure(self._kept)
        if reason is not None:
            return f"torch, as the run cannot be exported: {clip(reason, 200)}"
        if self.ready is None:
            engine = next(iter(installed()))
            return f"torch until a table of {_WORTH_IT} posts or more is scored, then {engine} ({there} installed)"
        return f"{choose_engine(self.asked)} ({there} installed)"


def engine_for(engine: Engine, precision: str) -> Engine:
    """Return the engine that is meant if a number format is asked for, which is torch's business.

    Raises
    ------
    ConfigError
        If another engine is asked for.
    """
    if precision == "32":
        return engine
    if engine not in ("auto", "torch"):
        raise ConfigError(f"--precision is about torch; leave it out, or --engine {engine}")
    return "torch"


def identity_of(folder: Path) -> str:
    """Return a hash of a run or export: of all that its settings and checksums say."""
    return str(open_export(folder, verify=False).about["checksum"]) if is_export(folder) else _identity(folder)


def _place(folder: Path, cache: Path | None) -> Path:
    """Return where the export of a run is kept."""
    return (cache or default_root()) / "exports" / _identity(folder)


def _identity(folder: Path) -> str:
    """Return a hash of all that a run's settings and checksums say."""
    settings = read_settings(folder)
    digest = hashlib.blake2b(f"{FORMAT} {__version__} {settings.get('checksum')}".encode(), digest_size=16)
    if "checksum" not in settings:  # runs of before checksums are known by their files
        for name in sorted(path.name for path in folder.glob("*") if path.is_file()):
            stat = (folder / name).stat()
            digest.update(f"{real_path(folder)} {name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _has_gpu(device: str) -> bool:
    """Tell whether torch would run on a GPU; asked without importing it."""
    return device == "auto" and (Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists())
