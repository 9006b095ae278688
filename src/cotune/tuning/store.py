"""The folder of a search: what it was begun with, its trials in Optuna's SQLite storage, and who works on which.

Any number of processes may work on one folder. Each of them holds a lock of its own while it lives, and notes its name
in the trials that it makes; the system lets go of the lock however a process ends, so that a trial under way whose
process is gone is known at once, marked as failed, and made again.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from cotune._version import __version__
from cotune.benchmark.results_store import refuse_other
from cotune.errors import ConfigError, RunError, first_line
from cotune.files import read_json, real_path, write_json
from cotune.ownership import SEARCH
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.tuning.parts import FILE as PARTS
from cotune.tuning.plan import TunePlan

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

FILE, DATABASE = "tune.json", "search.db"
STUDY = "cotune"
WORKER, INDEX, STARTED, ERROR = "worker", "index", "started", "error"
_FORMAT = 1
_LOCKS = ".locks"
# What changes no figure may differ between two sessions.
_FREE = {"device", "cache", "cache_gb", "engine"}
_SPACE = "space of "


def require_optuna() -> Any:
    """Import Optuna, and keep it from printing.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("searching needs optuna; install it with: pip install 'cotune[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def settings_of(plan: TunePlan, data_hash: str, *, fetched: bool) -> dict[str, Any]:
    """Return what all trials of a folder have in common; `fetched` says whether images came by URL."""
    assert plan.space is not None
    return {
        "fetched": fetched,
        "data": data_hash,
        "test": plan.test,
        "pruner": plan.pruner,
        **{f"{_SPACE}{name}": values for name, values in plan.space.plain().items()},
        "fit": {**plan.fit.model_dump(mode="json", exclude=_FREE), "validation": plan.validation},
    }


def begin(out: Path, plan: TunePlan, data_hash: str, *, resume: bool, fetched: bool = False) -> bool:
    """Make `out` a folder of this search, or check that it is one; true if trials were made in it before.

    Raises
    ------
    RunError
        If it holds trials and `resume` is false, or was begun with other posts, settings or another space.
    """
    now = settings_of(plan, data_hash, fetched=fetched)
    trials = _trials_of(out)
    if trials:  # what was begun, and refused or stopped before its first trial, binds nobody
        before = read_settings(out)["settings"]
        gone = {key: None for key in before if key.startswith(_SPACE) and key not in now}
        refuse_other(out, before, now | gone)
        if not resume:
            done = sum(finished(trial) for trial in trials)
            kept = plural(done, "finished trial")
            raise RunError(f"{out} holds {kept}; go on with --resume, or choose another folder")
        return True
    (out / PARTS).unlink(missing_ok=True)
    write_json(out / FILE, {**SEARCH.mark(), "format": _FORMAT, "cotune": __version__, "settings": now})
    return False


def note_encoders(out: Path, fingerprints: dict[str, str]) -> None:
    """Keep the fingerprints of the encoders, or compare them with those of the trials that are there.

    Raises
    ------
    RunError
        If other weights go by the same name now.
    """
    found = read_settings(out)
    before = found.setdefault("encoders", fingerprints)
    other = [name for name in fingerprints if before.get(name) != fingerprints[name]]
    if other and _trials_of(out):
        raise RunError(
            f"the trials in {out} were made with other weights of the {other[0]} encoder; give the same encoder or "
            "another folder"
        )
    write_json(out / FILE, {**found, "encoders": fingerprints})


def begun_precision(out: Path) -> str | None:
    """Return the number format in which the trials of `out` were trained; None if there are none."""
    return str(read_settings(out)["settings"]["fit"]["precision"]) if _trials_of(out) else None


def read_settings(out: Path) -> dict[str, Any]:
    """Return what ``tune.json`` says.

    Raises
    ------
    RunError
        If `out` is no folder of a search, or of a newer cotune.
    """
    path = out / FILE
    if not path.is_file():
        raise RunError(f"{out} is no folder of a search (it has no {FILE}); `cotune tune POSTS --out {out}` makes one")
    found: dict[str, Any] = read_json(path)
    if not SEARCH.wrote(FILE, found) or not isinstance(found.get("settings"), dict):
        raise RunError(f"{path} was not written by cotune; choose another folder")
    if not isinstance(found.get("format"), int) or found["format"] > _FORMAT:
        raise RunError(f"{path} was written by cotune {found.get('cotune')}, which is newer; update cotune")
    return found


# ---- trials ----------------------------------------------------------------------------------------------


def open_study(out: Path, plan: TunePlan) -> optuna.Study:
    """Open, or begin, the trials of a folder.

    Raises
    ------
    RunError
        If the storage is damaged, or of another Optuna.
    """
    library = require_optuna()
    if "?" in str(out):
        raise RunError(f"SQLite takes no ? in the name of a folder: {out}; choose another one")
    database = real_path(out) / DATABASE
    try:
        storage = library.storages.RDBStorage(
            f"sqlite:///{str(database).replace('{', '{{').replace('}', '}}')}",
            engine_kwargs={"connect_args": {"timeout": 60}},
        )
        study: optuna.Study = library.create_study(
            storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True, pruner=_pruner(plan)
        )
        return study
    except Exception as fault:
        if _is_full(fault):
            raise _no_room(database) from fault
        if type(fault).__module__.startswith(("sqlalchemy", "sqlite3")) or isinstance(fault, RuntimeError):
            raise RunError(
                f"{database} cannot be opened ({first_line(fault)}); begin again in another folder"
            ) from fault
        raise


@contextmanager
def named_faults(out: Path) -> Iterator[None]:
    """Turn what the storage raises in the block, such as on a full disk, into one line.

    Raises
    ------
    RunError
        If the storage cannot be written to, or read any more.
    """
    database = out / DATABASE
    try:
        yield
    except Exception as fault:
        if not is_storage_fault(fault):
            raise
        if _is_full(fault):
            raise _no_room(database) from fault
        reason = first_line(fault.__cause__ if isinstance(fault.__cause__, Exception) else fault)
        raise RunError(f"{database} cannot be used ({reason}); continue with --resume once it can") from fault


def is_storage_fault(fault: Exception) -> bool:
    """Tell whether an error is one of the storage, and nothing that a trial could help."""
    return (
        type(fault).__module__.startswith(("sqlalchemy", "sqlite3")) or type(fault).__name__ == "StorageInternalError"
    )


def _is_full(fault: Exception) -> bool:
    causes = (fault, fault.__cause__, fault.__context__)
    return any("disk is full" in str(cause) for cause in causes)


def _no_room(database: Path) -> RunError:
    return RunError(
        f"cannot write {database}: the disk is full; free some space and continue with --resume, or choose another "
        "folder"
    )


def _pruner(plan: TunePlan) -> Any:
    """Return what gives up trials; it looks at the epochs of a trial's last stage."""
    from optuna import pruners

    if plan.pruner == "none":
        return pruners.NopPruner()
    assert plan.space is not None
    epochs = plan.space.most_epochs(plan.start)
    if plan.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=max(2, epochs))
    # Five finished trials first, and no verdict on the first fifth of the epochs, in which learning rates still rise.
    return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 5))


def _sampler(plan: TunePlan, index: int) -> Any:
    """Return what chooses the values of one trial.

    It is seeded by the trial's place alone, so that a search that was killed and resumed goes on as it would have.
    """
    from optuna.samplers import TPESampler

    seed = int(np.random.SeedSequence([plan.fit.seed, index]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna 4 calls this experimental, Optuna 5 has it as its default
        return TPESampler(seed=seed, constant_liar=True)


@contextmanager
def working(out: Path) -> Iterator[str]:
    """Hold a lock by which other processes know that this one lives; yields its name."""
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    with locked(out, name):
        try:
            yield name
        finally:
            with suppress(OSError):
                (out / _LOCKS / name).unlink()


@contextmanager
def locked(out: Path, name: str) -> Iterator[None]:
    """Be the only process that does something in a folder; others wait."""
    (out / _LOCKS).mkdir(parents=True, exist_ok=True)
    with FileLock(str(out / _LOCKS / name)):
        yield


def ask(study: optuna.Study, plan: TunePlan, out: Path, worker: str) -> tuple[Trial, FitConfig] | None:
    """Begin a trial; None if enough are finished or under way.

    Returns
    -------
    (Trial, FitConfig) or None
        The trial, and the settings that it chose.
    """
    from optuna.trial import TrialState

    assert plan.space is not None
    while True:
        with locked(out, "ask"):
            fail_stale(study, out)
            there = [trial for trial in study.get_trials(deepcopy=False) if _counts(trial)]
            if len(there) >= plan.trials:
                return None
            taken = {trial.user_attrs.get(INDEX) for trial in there}
            index = next(i for i in range(plan.trials) if i not in taken)
            study.sampler = _sampler(plan, index)
            if not index and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                study.enqueue_trial(plan.space.within(plan.start))  # the search has the defaults to beat
            trial = study.ask()
            trial.set_user_attr(WORKER, worker)
            trial.set_user_attr(INDEX, index)
            try:
                return trial, plan.space.choose(trial, plan.start)
            except ConfigError as fault:
                trial.set_user_attr(ERROR, str(fault))
                study.tell(trial, state=TrialState.PRUNED)


def fail_stale(study: optuna.Study, out: Path) -> None:
    """Mark trials as failed whose process is gone; they are made again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _lives(out, trial.user_attrs.get(WORKER)):
            study.tell(trial.number, state=TrialState.FAIL)


def _lives(out: Path, worker: str | None) -> bool:
    path = out / _LOCKS / str(worker)
    if worker is None or not path.exists():
        return False
    try:
        with FileLock(str(path), timeout=0):
            pass
    except Timeout:
        return True
    with suppress(OSError):
        path.unlink()
    return False


def finished(trial: FrozenTrial) -> bool:
    """Tell whether a trial came to an end of its own: with a score, pruned, or by settings that do not work."""
    return trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and ERROR in trial.user_attrs)


def _counts(trial: FrozenTrial) -> bool:
    return finished(trial) or trial.state.name == "RUNNING"


def under_way(study: optuna.Study, out: Path) -> int:
    """Return how many trials some process is making."""
    with locked(out, "ask"):
        fail_stale(study, out)
    return sum(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False))


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that came to an end of their own, in the order in which they were begun."""
    return [trial for trial in study.get_trials(deepcopy=False) if finished(trial)]


def _trials_of(out: Path) -> list[FrozenTrial]:
    """Return the trials that a folder holds, whatever became of them."""
    if not (out / DATABASE).is_file():
        return []
    study = open_study(out, TunePlan(pruner="none"))
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]
