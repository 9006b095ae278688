"""The verdict on a search: the best settings and the defaults on the test part, which no trial has seen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cotune.benchmark.compare import Paired, paired_test, scored
from cotune.benchmark.folds import Folds
from cotune.benchmark.methods import Trial, fit
from cotune.errors import RunError
from cotune.files import atomic_path, to_json
from cotune.metrics import Estimate
from cotune.metrics.intervals import resamples
from cotune.progress import Progress
from cotune.settings import FitConfig
from cotune.tuning.parts import FILE as PARTS
from cotune.tuning.parts import TEST
from cotune.tuning.plan import TunePlan
from cotune.tuning.trials import Workbench

FILE = "test_predictions.safetensors"
_FREE = {"device", "cache", "cache_gb", "engine"}
_SURE = 0.05


@dataclass(frozen=True)
class Compared:
    """The best settings and the defaults, each trained on all posts but the test part and scored on that.

    Attributes
    ----------
    best, defaults : dict of str to Estimate
        The task's scores with 95 % intervals, means over seeds.
    test : Paired
        Difference of the main score, best minus defaults.
    posts : int
        How many test posts there are.
    seeds : tuple of int
        Seeds of the trainings.
    same : bool
        Whether the best settings are the defaults.
    looks : int
        How many settings, besides the defaults, were ever scored on these test posts.
    """

    best: dict[str, Estimate]
    defaults: dict[str, Estimate]
    test: Paired
    posts: int
    seeds: tuple[int, ...]
    same: bool
    looks: int

    @property
    def verdict(self) -> str:
        """What the comparison says, in words."""
        if self.same:
            return "The search found nothing better than the defaults."
        if not self.test.p < _SURE:
            return "No difference that the test can tell between the best settings and the defaults."
        return f"The best settings are {'better' if self.test.difference > 0 else 'worse'} than the defaults."

    def to_dict(self) -> dict[str, Any]:
        """Return all figures by name."""
        scores = {
            name: {key: estimate.to_dict() for key, estimate in found.items()}
            for name, found in (("best", self.best), ("defaults", self.defaults))
        }
        return {**asdict(self), **scores, "verdict": self.verdict}


def compare_on_test(
    out: Path, bench: Workbench, cut: Folds, plan: TunePlan, best: FitConfig, progress: Progress
) -> Compared:
    """Train with the best settings and with the defaults as ``fit`` would, and compare them on the test part.

    Predictions that the folder has already are not made again.
    """
    kept, about = _read(out)
    tables = []
    for name, config in (("the best settings", best), ("the defaults", plan.start)):
        rows = []
        for seed in plan.compared_seeds:
            key = _key(config, seed)
            if key not in kept:
                progress.begin(f"training with {name} on all but the test posts, seed {seed}")
                kept[key] = _predict(config.model_copy(update={"seed": seed}), bench, cut)
                about[key] = _settings(config, seed)
                _write(out, kept, about)
            rows.append(kept[key])
        tables.append(np.stack(rows))
    alike = {to_json(settings | {"seed": 0}) for settings in about.values()}
    tried = alike - {to_json(_settings(plan.start, 0))}
    return _compare(cut, tables, plan, looks=len(tried))


def _predict(config: FitConfig, bench: Workbench, cut: Folds) -> np.ndarray:
    rows, test = np.flatnonzero((cut.fold >= 0) & (cut.fold != TEST)), cut.test(TEST)
    trial = Trial(bench.ready(config), cut.targets, rows, test, cut.task, config, cut.groups, learned=cut.learned())
    return fit(trial).predictions


def _compare(cut: Folds, tables: Sequence[np.ndarray], plan: TunePlan, *, looks: int) -> Compared:
    targets = cut.targets[cut.test(TEST)]

    def resampled() -> Any:
        return resamples(len(targets), plan.bootstrap, 0)

    (best, of_best), (defaults, of_defaults) = (scored(cut.task, targets, table, resampled) for table in tables)
    found = paired_test(cut.task, targets, (tables[0], of_best), (tables[1], of_defaults))
    same = np.array_equal(tables[0], tables[1])
    return Compared(best, defaults, found, len(targets), plan.compared_seeds, same, looks)


def _settings(config: FitConfig, seed: int) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_FREE) | {"seed": seed}


def _key(config: FitConfig, seed: int) -> str:
    return hashlib.sha256(to_json(_settings(config, seed), indent=None).encode()).hexdigest()[:16]


def _read(out: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the predictions of the test part that are there, and the settings of each."""
    if not (out / FILE).is_file():
        return {}, {}
    try:
        with safe_open(out / FILE, "numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["settings"])  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
        raise RunError(f"{out / FILE} is damaged ({fault}); delete it and continue with --resume") from fault


def _write(out: Path, kept: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    with atomic_path(out / FILE) as temporary:
        save_file(kept, temporary, {"settings": to_json(about, indent=None)})
    shutil.copymode(out / PARTS, out / FILE)  # safetensors lets nobody but the owner read
