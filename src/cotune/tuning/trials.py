"""Making trials: a worker takes one after the other from the storage, trains, and reports epoch by epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock

from cotune.benchmark.bench import computed, reading_all
from cotune.benchmark.folds import Folds
from cotune.errors import ConfigError, CotuneError, EncoderError, first_line
from cotune.files import real_path
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tasks import Task
from cotune.training.build import open_encoders, prepare_posts, read_options
from cotune.training.callbacks import Callback, History
from cotune.training.features import Features
from cotune.training.model_rows import predict_rows
from cotune.training.stages import PROBE, Stage, StageState
from cotune.training.trainer import Trainer
from cotune.training.training_data import HeldOut, TrainingData
from cotune.tuning import store
from cotune.tuning.parts import TRAIN, VALIDATION
from cotune.tuning.plan import TunePlan

if TYPE_CHECKING:
    import optuna
    from optuna.trial import Trial

#: Settings that decide what is read of the posts; trials that differ in none of them share encoders and what is read.
_READ_BY = ("text_encoder", "image_encoder", "text_pooling", "image_crop", "max_tokens", "normalize_text")


@dataclass
class Workbench:
    """The posts as trials read them: encoders are opened, and images read, once for all that read alike.

    Attributes
    ----------
    posts : DataFrame
        The posts.
    allow_remote : bool
        Whether images may be fetched by URL.
    lock : Path or None
        A lock file; workers that hold it compute what all of them share.
    progress : Progress
        Progress reporter, told of long preparations.
    """

    posts: pd.DataFrame
    allow_remote: bool = False
    lock: Path | None = None
    progress: Progress = field(default_factory=Progress)
    _open: tuple[tuple[Any, ...], Features] | None = None

    def features(self, config: FitConfig, *, looks: bool = False) -> Features:
        """Return the prepared posts; `looks` asks for what near-duplicates are found by."""
        key = tuple(getattr(config, name) for name in _READ_BY)
        if self._open is None or self._open[0] != key:
            self._open = None  # two sets of encoders need not fit into memory
            encoders = open_encoders(reading_all(config), self.posts)
            options = read_options(config, allow_remote=self.allow_remote, looks=looks, progress=self.progress)
            self._open = (key, prepare_posts(self.posts, encoders, config, options))
        return self._open[1]

    def ready(self, config: FitConfig) -> Features:
        """Return the prepared posts, with all embeddings and activations stored that a training reads."""
        with nullcontext() if self.lock is None else FileLock(str(self.lock)):
            return computed(self.features(config), config)

    def keep(self, rows: np.ndarray) -> None:
        """Leave out all posts but those at `rows`; what was read of them stays."""
        self.posts = self.posts.iloc[rows].reset_index(drop=True)
        if self._open is not None:
            self._open = (self._open[0], self._open[1].subset(rows))

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of the pretrained encoders that are open."""
        assert self._open is not None
        return {name: e.fingerprint() for name, e in self._open[1].encoders.items() if not e.learned}


@dataclass(frozen=True)
class Search:
    """All that a worker needs to make trials, on this machine or another one that sees the folder.

    Attributes
    ----------
    posts : DataFrame
        The posts of the cut, in its order.
    cut : Folds
        Which part each of them is in.
    plan : TunePlan
        What is searched.
    out : Path
        The folder of the search.
    allow_remote : bool
        Whether images may be fetched by URL.
    """

    posts: pd.DataFrame
    cut: Folds
    plan: TunePlan
    out: Path
    allow_remote: bool = False

    def workbench(self) -> Workbench:
        """Return the posts, to be prepared once for all trials of a process."""
        return Workbench(self.posts, self.allow_remote, real_path(self.out) / ".locks" / "shared")


def run_worker(
    search: Search,
    *,
    most: int | None = None,
    bench: Workbench | None = None,
    on_trial: Callable[[optuna.Study], None] | None = None,
) -> int:
    """Make trials until enough are finished, or under way in other workers; return how many were made.

    This is all that a process of any cluster has to call: workers find one another by the folder.

    Parameters
    ----------
    search : Search
        What is searched, and where.
    most : int, optional
        Trials to make at the most.
    bench : Workbench, optional
        The posts, if they are prepared already.
    on_trial : callable, optional
        Called after every trial with the study.

    Raises
    ------
    CotuneError
        If something is wrong that is wrong for every trial, such as a full disk.
    """
    study = store.open_study(search.out, search.plan)
    bench = bench or search.workbench()
    made = 0
    with store.named_faults(search.out), store.working(search.out) as worker:
        while most is None or made < most:
            asked = store.ask(study, search.plan, search.out, worker)
            if asked is None:
                break
            _make(study, *asked, bench, search.cut)
            made += 1
            if on_trial is not None:
                on_trial(study)
    return made


def _make(study: optuna.Study, trial: Trial, config: FitConfig, bench: Workbench, cut: Folds) -> None:
    """Make one trial and tell the storage what became of it."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    try:
        features = bench.ready(config)  # which takes minutes the first time, and is not the trial's own
        trial.set_user_attr(store.STARTED, time.time())
        score = score_settings(config, features, cut, [Pruning(trial, config, cut.task)])
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except (ConfigError, EncoderError) as fault:  # by its settings; as a bad trial it keeps the search away from there
        trial.set_user_attr(store.ERROR, str(fault))
        study.tell(trial, state=TrialState.PRUNED)
    except (CotuneError, OSError):
        study.tell(trial, state=TrialState.FAIL)  # made again
        raise
    except Exception as fault:
        if store.is_storage_fault(fault):  # nothing can be recorded; the trial is run again by the next process
            raise
        trial.set_user_attr(store.ERROR, f"{type(fault).__name__}: {first_line(fault)}")
        study.tell(trial, state=TrialState.FAIL)
    # Ctrl-C tells nothing, as it may have come in the midst of a transaction, whose lock would be waited for: the trial
    # counts as failed once the lock of this worker is gone.
    else:
        study.tell(trial, score)


def score_settings(config: FitConfig, features: Features, cut: Folds, callbacks: list[Callback]) -> float:
    """Train on the training part, and return the task's main score of the validation part.

    Raises
    ------
    ConfigError
        If training diverges.
    """
    task = cut.task
    held = HeldOut(features, cut.targets, cut.test(VALIDATION))
    data = TrainingData(features, cut.targets, cut.test(TRAIN), held_out=held, learned=cut.learned())
    trained = Trainer(data, task, config, callbacks=callbacks).fit()
    found = predict_rows(trained.model, task, features, held.rows, trained.source)
    score = task.watch(held.targets[held.rows], found).score
    if score is None:
        raise ConfigError(
            f"training diverged: the model gives no numbers, or the same for all posts, so no {task.main_title}"
        )
    return score


class Pruning(Callback):
    """Reports the score of the validation posts after every epoch of the last stage, and gives up where asked to.

    Parameters
    ----------
    trial : optuna.trial.Trial
        The trial.
    config : FitConfig
        Its settings.
    task : Task
        What is learned.
    """

    def __init__(self, trial: Trial, config: FitConfig, task: Task) -> None:
        self.trial = trial
        self.stage = PROBE if config.tune == "frozen" else config.tune
        self.column = f"validation_{task.main_score}"

    def on_epoch_end(self, stage: Stage, state: StageState, history: History) -> None:
        """Report the epoch.

        Raises
        ------
        optuna.TrialPruned
            If the trial is to be given up.
        """
        from optuna import TrialPruned

        row: Mapping[str, Any] = state.history[-1]
        if stage.name != self.stage or row[self.column] is None:
            return
        self.trial.report(row[self.column], state.epoch)
        if state.epoch < stage.epochs and self.trial.should_prune():
            raise TrialPruned
