"""What a search found: its trials, the best settings, which settings matter, and the files that say so."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cotune.files import atomic_path, write_json, write_text
from cotune.report.numbers import plural
from cotune.settings import FitConfig
from cotune.tuning import store
from cotune.tuning.final import Compared
from cotune.tuning.plan import TunePlan
from cotune.tuning.space import with_settings

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from cotune.tasks import Task

BEST, TRIALS, SUMMARY = "best.yaml", "trials.csv", "summary.json"
FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"
#: Fewer finished trials say nothing of which settings matter.
_ENOUGH = 8


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Attributes
    ----------
    number : int
        Its place in the search, from 1.
    state : {"finished", "pruned", "failed"}
        What became of it.
    score : float or None
        The main score of the validation posts: of the trained model, or of the last epoch of a trial that was pruned.
    epochs : int
        Epochs of the last stage that were reported.
    seconds : float
        How long it took.
    settings : dict
        What it chose.
    error : str
        Why it failed.
    """

    number: int
    state: str
    score: float | None
    epochs: int
    seconds: float
    settings: dict[str, Any]
    error: str = ""


@dataclass
class TuneResult:
    """What a search found.

    Attributes
    ----------
    plan : TunePlan
        What was searched.
    task : Task
        What is learned.
    trials : list of TrialResult
        The finished trials.
    best : TrialResult or None
        The one of the best score on the validation posts.
    importance : dict
        How much of the spread of the scores each setting accounts for, adding up to 1; empty with few trials.
    compared : Compared or None
        Best settings and defaults on the test part: the result. None while trials are to be made.
    facts : dict
        Hash of the posts, sizes of the parts, versions.
    interrupted : bool
        Whether the user stopped it.
    """

    plan: TunePlan
    task: Task
    trials: list[TrialResult]
    best: TrialResult | None
    importance: dict[str, float]
    compared: Compared | None
    facts: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def settings(self) -> FitConfig | None:
        """The best settings, for a training as by ``fit``."""
        return None if self.best is None else with_settings(self.plan.start, self.best.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures by name."""
        return {
            **self.facts,
            "main_score": self.task.main_score,
            "trials": [asdict(trial) for trial in self.trials],
            "best_settings": None if self.best is None else self.best.settings,
            "score_searched_on": None if self.best is None else self.best.score,
            "importance": self.importance,
            "test": None if self.compared is None else self.compared.to_dict(),
            "interrupted": self.interrupted,
        }


def results_of(study: optuna.Study, plan: TunePlan, task: Task) -> TuneResult:
    """Return what the trials so far say."""
    trials = trials_of(study)
    return TuneResult(plan, task, trials, best_of(trials), _importance(study, plan), None)


def trials_of(study: optuna.Study) -> list[TrialResult]:
    """Return the finished trials by their number."""
    return sorted((_result(trial) for trial in store.finished_trials(study)), key=lambda trial: trial.number)


def best_of(trials: Sequence[TrialResult]) -> TrialResult | None:
    """Return the trial of the best score, of equal ones the first; None if none has a score of a trained model."""
    scored = [trial for trial in trials if trial.state == FINISHED and trial.score is not None]
    return max(scored, key=lambda trial: (trial.score, -trial.number), default=None)


def _result(trial: FrozenTrial) -> TrialResult:
    error = str(trial.user_attrs.get(store.ERROR, ""))
    state = FAILED if error else FINISHED if trial.state.name == "COMPLETE" else PRUNED
    reported, ended = trial.intermediate_values, trial.datetime_complete
    started = trial.user_attrs.get(store.STARTED)
    last = trial.value if state == FINISHED else reported[max(reported)] if reported else None
    return TrialResult(
        int(trial.user_attrs[store.INDEX]) + 1,
        state,
        last if last is not None and math.isfinite(last) else None,
        max(reported, default=0),
        # Never negative, though the clock may have been set back meanwhile.
        max(0.0, ended.timestamp() - started) if ended is not None and started is not None else 0.0,
        dict(trial.params),
        error,
    )


def _importance(study: optuna.Study, plan: TunePlan) -> dict[str, float]:
    """Return how much each setting accounts for: functional ANOVA of a forest (Hutter, Hoos and Leyton-Brown, 2014)."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < _ENOUGH or len({trial.value for trial in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=plan.fit.seed))
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


# ---- files -----------------------------------------------------------------------------------------------


def write_results(out: Path, found: TuneResult, asked: FitConfig) -> None:
    """Write the best settings, the table of trials and the summary.

    Parameters
    ----------
    out : Path
        The folder of the search.
    found : TuneResult
        What to write.
    asked : FitConfig
        The settings as they were asked for, with a precision that each machine may choose for itself.
    """
    write_json(out / SUMMARY, found.to_dict())
    _write_trials(out / TRIALS, found.trials)
    if found.best is not None:
        write_text(out / BEST, best_yaml(found, asked))


def best_yaml(found: TuneResult, asked: FitConfig) -> str:
    """Return the best settings as a file that ``cotune fit --config`` takes."""
    assert found.best is not None
    assert found.settings is not None
    usual = FitConfig().model_dump(mode="json")
    settings = found.settings.model_dump(mode="json", exclude={"validation", "device", "cache", "cache_gb", "engine"})
    settings["precision"] = asked.precision
    kept = {
        name.replace("_", "-"): value
        for name, value in settings.items()
        if value != usual[name] or name in found.best.settings
    }
    lines = [f"# {line}" for line in _comments(found)]
    return "\n".join(lines) + "\n" + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _comments(found: TuneResult) -> list[str]:
    assert found.best is not None
    main = found.task.main_title
    lines = [f"The best of {plural(len(found.trials), 'trial')} of `cotune tune`, trial {found.best.number}."]
    if found.compared is None:
        return [*lines, "The search is not finished, and these settings were not compared with the defaults yet."]
    scores = [getattr(found.compared, name)[found.task.main_score] for name in ("best", "defaults")]
    best, defaults = (f"{score.value:.4f} ({score.low:.4f} to {score.high:.4f})" for score in scores)
    return [
        *lines,
        f"{main} on {found.compared.posts:,} test posts that no trial saw: {best}; defaults {defaults}.",
        found.compared.verdict,
    ]


def _write_trials(path: Path, trials: Sequence[TrialResult]) -> None:
    import pandas as pd

    rows = [_row(trial) for trial in trials]
    names = ["trial", "state", "score", "epochs", "seconds"]
    names += [name for name in dict.fromkeys(key for row in rows for key in row) if name not in (*names, "error")]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows, columns=[*names, "error"]).to_csv(temporary, index=False)


def _row(trial: TrialResult) -> Mapping[str, Any]:
    settings = {name.replace("_", "-"): value for name, value in trial.settings.items()}
    return {
        "trial": trial.number, "state": trial.state, "score": trial.score, "epochs": trial.epochs,
        "seconds": round(trial.seconds, 1), **settings, "error": trial.error,
    }  # fmt: skip
