"""The page of a search: the verdict on posts that no trial saw, then what the trials tried and how they did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from cotune.benchmark.tables import p_words, seconds
from cotune.report.charts import Spot, legend, point_plot
from cotune.report.drawing import log_ticks, nice_ticks, whole_ticks
from cotune.report.interval_charts import Bar, interval_chart
from cotune.report.numbers import SCORE_TITLES, number, plural, signed
from cotune.report.pages import render
from cotune.tuning.final import Compared
from cotune.tuning.results import FAILED, FINISHED, PRUNED, TrialResult, TuneResult
from cotune.tuning.space import Range, Values

REPORT = "report.html"
_LOOKS = {FINISHED: 0, PRUNED: 6}
_BEST_LOOK, _SHOWN = 1, 10


def tune_report(found: TuneResult) -> str:
    """Return the page of a search."""
    main = found.task.main_title
    drawn = [trial for trial in found.trials if trial.score is not None]
    ranked = sorted(found.trials, key=lambda trial: (trial.state != FINISHED, -(trial.score or -math.inf)))
    assert found.plan.space is not None  # it was chosen when the search began
    searched = found.plan.space.settings
    kept = [(_LOOKS[FINISHED], "finished"), (_LOOKS[PRUNED], "pruned"), (_BEST_LOOK, "best")]
    return render(
        "tune.html",
        main=main,
        compared=found.compared,
        rows=[] if found.compared is None else _rows(found.compared, found.task.table_scores),
        gap=None if found.compared is None else _gap(found.compared),
        intervals=Markup("") if found.compared is None else _intervals(found.compared, main, found.task.main_score),
        best=found.best,
        start_score=next((trial.score for trial in drawn if trial.number == 1), None),
        facts=_facts(found),
        failed=sum(trial.state == FAILED for trial in found.trials),
        history=_history(drawn, found.best, main),
        marks=legend([Spot(name, 0, 0, look) for look, name in kept]),
        importance=_importance(found.importance),
        settings=[_setting(name, values, drawn, found.best, main) for name, values in searched.items()],
        chosen=_chosen(found),
        names=[_hyphens(name) for name in searched],
        trials=[_trial(trial, list(searched)) for trial in ranked],
        shown=_SHOWN,
        made=_made(found),
    )


def _rows(compared: Compared, scores: Sequence[str]) -> list[tuple[str, str, str, str, str]]:
    def words(name: str, which: dict[str, Any]) -> tuple[str, str]:
        estimate = which[name]
        return number(estimate.value), f"{number(estimate.low)} to {number(estimate.high)}"

    return [
        (SCORE_TITLES.get(name, name), *words(name, compared.best), *words(name, compared.defaults)) for name in scores
    ]


def _gap(compared: Compared) -> str:
    test = compared.test
    interval = f"({signed(test.low, 4)} to {signed(test.high, 4)})"
    return f"{signed(test.difference, 4)} {interval}, {p_words(test.p)}, {test.name}"


def _intervals(compared: Compared, main: str, key: str) -> Markup:
    bars = [
        Bar(name, scores[key].value, scores[key].low, scores[key].high, marked=name.startswith("best"))
        for name, scores in (("best settings", compared.best), ("defaults", compared.defaults))
    ]
    return interval_chart(bars, title=f"{main} on the test posts, with 95 % intervals")


def _facts(found: TuneResult) -> list[tuple[str, str, str]]:
    states = [trial.state for trial in found.trials]
    parts, took = found.facts.get("posts", {}), sum(trial.seconds for trial in found.trials)
    others = [f"{states.count(state):,} {state}" for state in (PRUNED, FAILED) if state in states]
    return [
        ("Trials", f"{len(states):,}", ", ".join(others) or f"of {found.plan.trials:,}"),
        ("Test posts", f"{parts.get('test', 0):,}", f"{plural(sum(parts.values()), 'post')} in all"),
        (
            "Time of trials",
            seconds(took),
            f"encoders tuned: {found.plan.fit.tune}",
        ),
    ]


def _history(trials: Sequence[TrialResult], best: TrialResult | None, main: str) -> Markup:
    """Draw the score of each trial, and the best one so far."""
    line: list[tuple[float, float]] = []
    for trial in trials:
        if trial.state == FINISHED and trial.score is not None:
            top = max(trial.score, line[-1][1]) if line else trial.score
            line += [(trial.number, line[-1][1] if line else top), (trial.number, top)]
    last = max((trial.number for trial in trials), default=1)
    if line:
        line.append((last, line[-1][1]))
    ticks = [(0.0, ""), *((float(n), str(n)) for n in whole_ticks(last)), (last + 1.0, "")]
    spots = [_spot(trial, trial.number, best, main) for trial in trials]
    return point_plot(spots, title=f"Validation {main} by trial", x_name="trial", y_name=f"validation {main}",
                      x_ticks=ticks, line=line)  # fmt: skip


def _spot(trial: TrialResult, x: float, best: TrialResult | None, main: str) -> Spot:
    assert trial.score is not None
    look = _BEST_LOOK if best is not None and trial.number == best.number else _LOOKS.get(trial.state, 6)
    return Spot(f"trial {trial.number}, {trial.state}: {main} {trial.score:.4f}", x, trial.score, look)


def _setting(
    name: str, values: Values, trials: Sequence[TrialResult], best: TrialResult | None, main: str
) -> dict[str, Any]:
    """Return the score over the values of one setting."""
    mine = [trial for trial in trials if name in trial.settings]
    if isinstance(values, Range):
        ends = log_ticks(values.low, values.high) if values.log else nice_ticks(values.low, values.high)
        ticks = [(tick, f"{tick:g}") for tick in ends]
        places = [float(trial.settings[name]) for trial in mine]
    else:
        ticks = [(-0.5, ""), *((float(at), _word(value)) for at, value in enumerate(values)), (len(values) - 0.5, "")]
        # Spread a little, so that trials of one choice do not hide one another.
        spread = [0.4 * ((trial.number * 0.618) % 1 - 0.5) for trial in mine]
        places = [values.index(trial.settings[name]) + by for trial, by in zip(mine, spread, strict=True)]
    spots = [_spot(trial, place, best, main) for trial, place in zip(mine, places, strict=True)]
    log = isinstance(values, Range) and values.log
    drawn = point_plot(spots, title=f"Validation {main} by {_hyphens(name)}", x_name=_hyphens(name),
                       y_name=f"validation {main}", x_ticks=ticks, log=log)  # fmt: skip
    return {"name": _hyphens(name), "svg": drawn}


def _importance(found: dict[str, float]) -> list[tuple[str, float, str]]:
    top = max(found.values(), default=0.0) or 1.0
    return [(_hyphens(name), value / top, f"{value:.0%}") for name, value in found.items()]


def _chosen(found: TuneResult) -> list[tuple[str, str, str]]:
    """Return the best settings beside the defaults."""
    if found.best is None:
        return []
    start = found.plan.start
    return [(_hyphens(name), _word(value), _word(getattr(start, name))) for name, value in found.best.settings.items()]


def _trial(trial: TrialResult, names: Sequence[str]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "score": number(trial.score),
        "epochs": trial.epochs,
        "seconds": f"{trial.seconds:.0f}",
        "values": [_word(trial.settings[name]) if name in trial.settings else "" for name in names],
        "error": trial.error,
    }


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).rsplit("/", 1)[-1] if isinstance(value, str) else str(value)


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def _made(found: TuneResult) -> list[tuple[str, str]]:
    plan, facts = found.plan, found.facts
    parts = facts.get("posts", {})
    rows = [
        ("task", found.task.describe()),
        *((f"{name} posts", f"{n:,}") for name, n in parts.items()),
        ("posts kept together", plan.fit.folds_group),
        ("groups", f"{facts.get('groups', 0):,}"),
        ("sampler", "TPE (Optuna), the defaults first"),
        ("pruner", plan.pruner),
        ("seed", str(plan.fit.seed)),
        ("seeds compared", ", ".join(map(str, plan.compared_seeds))),
        ("resamples", f"{plan.bootstrap:,}"),
        ("hash of the posts", str(facts.get("data", ""))[:16]),
        *((_hyphens(name), str(value)) for name, value in plan.start.model_dump(mode="json").items()
          if value is not None and name not in (found.best.settings if found.best else {})),
        *facts.get("versions", {}).items(),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows]
