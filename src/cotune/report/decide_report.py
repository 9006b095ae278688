"""The page of decisions: how many posts take each route, what error to expect, and what the thresholds rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cotune.decide.choose import unreachable
from cotune.decide.expected import expected, rule
from cotune.decide.policy import ROUTES, ChosenPolicy
from cotune.decide.route import Decided
from cotune.report.charts import Line, legend, line_plot
from cotune.report.notices import Notice, sorted_notices
from cotune.report.numbers import percent, plural, whole_percent
from cotune.report.pages import render

_TICKS = [(tick / 4, f"{tick * 25} %") for tick in range(5)]


def decide_report(chosen: ChosenPolicy, found: Decided, *, run: str, posts: str) -> str:
    """Return the page of decisions.

    Parameters
    ----------
    chosen : ChosenPolicy
        The policy with its thresholds.
    found : Decided
        How many posts took each route.
    run, posts : str
        What they are called.
    """
    policy, record = chosen.policy, chosen.record
    routes = expected(chosen, found)
    top = max(found.routes.values()) or 1
    return render(
        "decide.html",
        title=f"Decisions on {posts}",
        notices=_notices(chosen, found),
        name=policy.class_,
        run=run,
        n=found.posts,
        routes=[{"name": name, "part": routes[name]["posts"] / top, **routes[name]} for name in ROUTES],
        targets=_targets(chosen),
        confidence=policy.confidence,
        both=policy.act is not None and policy.allow is not None,
        labelled=record["labelled"],
        charts=_charts(chosen),
        about=[
            ("Policy", f"version {policy.version}"),
            ("Policy hash", chosen.hash[:16]),
            ("Run hash", record["run"]["hash"][:16]),
            ("Engine", record["run"]["engine"]),
            ("cotune", record["cotune"]),
        ],
    )


def _notices(chosen: ChosenPolicy, found: Decided) -> list[Notice]:
    made = [Notice("warning", f"{note[:1].upper()}{note[1:]}.") for note in unreachable(chosen)]
    confidence = f"with {whole_percent(chosen.policy.confidence)} confidence"
    kept = [row for row in _targets(chosen) if row["threshold"] is not None]
    made += [Notice("good", f"{row['sentence']}, {confidence}.") for row in kept]
    if n := found.without_prediction:
        made.append(Notice("note", f"{plural(n, 'post')} without a prediction went to review."))
    if chosen.policy.known is not None:
        made.append(Notice("note", f"{plural(found.known, 'post')} with a known image: {chosen.policy.known}, whatever "
                           "the model says. The routes below are of the others."))  # fmt: skip
    return sorted_notices(made)


def _targets(chosen: ChosenPolicy) -> list[dict[str, Any]]:
    """Return what was asked for, and what was shown."""
    policy, name, found = chosen.policy, chosen.policy.class_, chosen.record["thresholds"]
    rows: list[dict[str, Any]] = []
    if policy.act is not None:
        sentence = f"At least {percent(policy.act.precision, 1)} of what is acted on has the class {name}"
        rows.append({"route": "act", "what": "precision", "target": policy.act.precision, "sentence": sentence})
    if policy.allow is not None:
        sentence = f"At most {percent(1 - policy.allow.recall, 1)} of the posts of class {name} are allowed"
        rows.append({"route": "allow", "what": "recall", "target": policy.allow.recall, "sentence": sentence})
    return [{**row, "rule": rule(chosen, row["route"]), "threshold": found[row["route"]]} for row in rows]


def _charts(chosen: ChosenPolicy) -> list[dict[str, Any]]:
    """Return the risk-coverage curves, with the targets and what was chosen."""
    curve, policy, name = chosen.record["curve"], chosen.policy, chosen.policy.class_
    routes, n = chosen.record["labelled"]["routes"], chosen.record["labelled"]["posts"]
    made = []
    if policy.act is not None:
        share = routes["act"]["share"]["value"]
        here = None if share is None else (routes["act"]["posts"] / n, 1 - share)
        made.append(_chart(curve, "act", f"acted on that is not {name}", 1 - policy.act.precision, here))
    if policy.allow is not None:
        total, missed = chosen.record["labelled"]["positive"], routes["allow"]["positive"]
        here = (routes["allow"]["posts"] / n, missed / total) if total and routes["allow"]["posts"] else None
        made.append(_chart(curve, "allow", f"of the class {name} that is allowed", 1 - policy.allow.recall, here))
    return made


def _chart(
    curve: Sequence[dict[str, float]], route: str, words: str, target: float, here: tuple[float, float] | None
) -> dict[str, Any]:
    key = f"{route}_risk"
    points = [(row["coverage"], row[key]) for row in curve if row[key] is not None]
    band = [(row[f"{key}_low"], row[f"{key}_high"]) for row in curve if row[key] is not None]
    lines = [
        Line("on the labelled posts", points, 2, band),
        Line("target", [(0.0, target), (1.0, target)], 6),
        *([Line("chosen threshold", [here], 0)] if here else []),
    ]
    what = f"Share {words}, by the share of posts that take the route"
    finding = f"At the chosen threshold {percent(here[1], 1)} at {percent(here[0], 1)} of the posts" if here else ""
    drawn = line_plot(lines, title=what, x_name=f"share of posts: {route}", y_name="risk", x_ticks=_TICKS,
                      finding=finding)  # fmt: skip
    return {"title": what, "svg": drawn, "legend": legend(lines)}
