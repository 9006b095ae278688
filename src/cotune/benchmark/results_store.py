"""A results folder: what it was begun with, what is in it, and who may go on with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cotune._version import __version__
from cotune.benchmark import predictions
from cotune.benchmark.plan import Plan
from cotune.errors import CotuneError, RunError
from cotune.files import read_json, to_json, write_json
from cotune.ownership import BENCHMARK, Kind
from cotune.report.numbers import plural
from cotune.settings import FitConfig, current_names

FILE, FAILED = "bench.json", "failed.json"
_FORMAT = 2
# What tells cells apart, or changes no figure, may differ between two sessions.
_FREE = {"text_encoder", "image_encoder", "seed", "device", "cache", "cache_gb", "engine"}


def settings_of(plan: Plan, data_hash: str, *, fetched: bool = False) -> dict[str, Any]:
    """Return what all cells of a results folder have in common; `fetched` says whether images came by URL."""
    return {
        "fetched": fetched,
        "data": data_hash,
        "protocol": plan.protocol,
        "folds": plan.folds,
        "fold_seed": plan.fold_seed,
        "group_by": [] if plan.protocol == "paper" else sorted(plan.group_by),
        **({} if plan.published is None else {"published": plan.published.source, "roles": plan.published.digest[:12]}),
        **({"sanity": True} if plan.sanity else {}),
        "fit": plan.fit.model_dump(mode="json", exclude=_FREE),
    }


def begin(out: Path, plan: Plan, data_hash: str, *, resume: bool, fetched: bool = False) -> bool:
    """Make `out` a results folder for this plan, or check that it is one; true if it had been begun before.

    Raises
    ------
    RunError
        If it holds cells and `resume` is false, or was begun with other posts or settings.
    """
    settings = settings_of(plan, data_hash, fetched=fetched)
    path = out / FILE
    before = _read(path) if path.is_file() else None
    done = predictions.count(out)
    if not done:  # what was begun, and refused or stopped before its first cell, binds nobody
        before = None
    if before is None:
        if done:
            raise RunError(f"{out} holds {plural(done, 'cell')} but no {FILE}; choose another folder")
    else:
        refuse_other(out, before["settings"], settings)
        if done and not resume:
            raise RunError(
                f"{out} holds {plural(done, 'finished cell')}; go on with --resume, rebuild its tables with "
                "--tables-only, or choose another folder"
            )
    predictions.clean(out)
    predictions.merge(out)
    asked = list(dict.fromkeys([*(before or {}).get("methods", []), *plan.methods]))
    about = {"format": _FORMAT, "cotune": __version__, "settings": settings, "methods": asked}
    write_json(path, {**BENCHMARK.mark(), **about})
    return before is not None


def begun_precision(out: Path) -> str | None:
    """Return the number format in which the finished cells of `out` were computed; None if there are none."""
    if not (out / FILE).is_file() or not predictions.count(out):
        return None
    found = _read(out / FILE)["settings"]["fit"].get("precision", "auto")
    return "32" if found == "auto" else str(found)


def refuse_harm(out: Path, kind: Kind = BENCHMARK) -> None:
    """Refuse a folder in which results would replace what no benchmark, or other `kind`, wrote.

    Raises
    ------
    RunError
        If it holds such files, or a run or an encoder.
    """
    if (out / "config.json").exists():
        raise RunError(f"{out} holds a config.json, so it is a run or an encoder; choose another folder")
    if not (out / next(iter(kind.markers))).is_file():  # other faults are found when it is read
        kind.refuse_foreign(out)


def read_settings(out: Path) -> dict[str, Any]:
    """Return what ``bench.json`` says.

    Raises
    ------
    RunError
        If `out` is no results folder.
    """
    if not (out / FILE).is_file():
        raise RunError(f"{out} is no results folder (it has no {FILE}); `cotune bench POSTS --out {out}` makes one")
    return _read(out / FILE)


def write_failures(out: Path, failures: dict[str, str]) -> None:
    """Keep the reasons of cells that failed in this session; they are tried again when it is resumed."""
    if failures:
        write_json(out / FAILED, failures)
    else:
        (out / FAILED).unlink(missing_ok=True)


def read_failures(out: Path) -> dict[str, str]:
    """Return the reasons of the cells that failed in the last session."""
    try:
        found = read_json(out / FAILED) if (out / FAILED).is_file() else {}
    except CotuneError:  # it only informs; what failed is computed again in any case
        return {}
    return {str(key): str(reason) for key, reason in found.items()} if isinstance(found, dict) else {}


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Keep a second benchmark from writing into the same folder."""
    lock = FileLock(str(out / ".lock"), timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"another benchmark is writing into {out}; wait for it or choose another folder") from None
    except OSError as fault:
        raise RunError(f"cannot write into {out}: {fault.strerror}; choose another folder") from fault
    try:
        yield
    finally:
        lock.release()


def settle(out: Path) -> None:
    """Bring a results folder into its present form: all finished cells merged into one file.

    Raises
    ------
    RunError
        If `out` is no results folder, or is damaged.
    """
    found = read_settings(out)
    if predictions.merge(out) and found.get("format", 0) < _FORMAT:
        write_json(out / FILE, {**found, "format": _FORMAT})


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path)
    settings = found.get("settings") if isinstance(found, dict) else None
    needed = {"data", "protocol", "folds", "fit"}
    if not isinstance(settings, dict) or not needed <= settings.keys() or not BENCHMARK.wrote(FILE, found):
        raise RunError(f"{path} was not written by cotune; choose another folder")
    if not isinstance(found.get("format", 0), int) or found.get("format", 0) > _FORMAT:
        raise RunError(f"{path} was written by cotune {found.get('cotune')}, which is newer; update cotune")
    return found


def refuse_other(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on in a folder that was begun otherwise.

    Parameters
    ----------
    out : Path
        The folder.
    before, now : dict
        What it was begun with, and what is asked for: ``data`` (hash of the posts), ``fit`` (settings of training) and
        whatever else has to be equal.

    Raises
    ------
    RunError
        If the posts or a setting are others.
    """
    if before.get("sanity", False) != now.get("sanity", False):
        what = "a check on shuffled labels (--sanity)" if before.get("sanity") else "results on labels as they are"
        raise RunError(f"{out} holds {what}; choose another folder")
    if before["data"] != now["data"]:
        raise RunError(
            f"{out} holds results of another data set (hash {before['data'][:12]}..., these posts have "
            f"{now['data'][:12]}...); give the same posts or another folder"
        )
    now = json.loads(to_json(now))
    defaults = FitConfig().model_dump(mode="json")
    old = {
        "fetched": False,
        **{key: before[key] for key in before if key != "fit"},
        **defaults,
        **current_names(before["fit"]),
    }
    if old["precision"] == "auto":  # before it was decided by the processor, and stood for this on all CPUs
        old["precision"] = "32"
    new = {**{key: now[key] for key in now if key != "fit"}, **now["fit"]}
    differing = [f"{key} ({old.get(key)!r}, now {new[key]!r})" for key in new if old.get(key) != new[key]]
    if differing:
        raise RunError(f"{out} was begun with other settings: {', '.join(differing)}; use those or another folder")
