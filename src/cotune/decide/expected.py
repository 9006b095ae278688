"""What the routes of some posts are expected to hold, by the labelled posts that the thresholds were chosen on."""

from __future__ import annotations

from typing import Any

from cotune.decide.policy import ROUTES, ChosenPolicy
from cotune.decide.route import Decided
from cotune.report.numbers import percent, plural


def expected(chosen: ChosenPolicy, found: Decided) -> dict[str, dict[str, Any]]:
    """Return for every route its rule, its posts, and the error to expect among them.

    Returns
    -------
    dict
        By route: `rule`, `posts`, `share` of all posts, and `class_share`, the part of the route that has the policy's
        class on the labelled posts, with its 95 % interval; `errors`, how many posts are expected to be acted on
        without having the class, or allowed with it, again with the interval; and `words` for people.
    """
    labelled = chosen.record["labelled"]["routes"]
    made: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        n, share = found.routes[route], labelled[route]["share"]
        made[route] = {
            "rule": rule(chosen, route),
            "posts": n,
            "share": n / found.posts if found.posts else None,
            "class_share": share,
            "errors": _errors(route, n, share),
        }
        made[route]["words"] = _words(route, made[route], chosen)
    return made


def rule(chosen: ChosenPolicy, route: str) -> str:
    """Return which posts take a route."""
    value = chosen.thresholds.get(route)
    if route == "review":
        return "the others"
    if value is None:
        return "none"
    return f"p > {value:.6f}" if route == "act" else f"p < {value:.6f}"


def _errors(route: str, n: int, share: dict[str, float | None]) -> dict[str, float | None] | None:
    if route == "review" or share["value"] is None:
        return None
    low, value, high = (share[key] or 0.0 for key in ("low", "value", "high"))
    if route == "act":
        low, value, high = 1 - high, 1 - value, 1 - low
    return {"value": n * value, "low": n * low, "high": n * high}


def _words(route: str, row: dict[str, Any], chosen: ChosenPolicy) -> str:
    share, name = row["class_share"], chosen.policy.class_
    if share["value"] is None or not row["posts"]:
        return ""
    of = f"{percent(share['value'], 1)} are {name} ({percent(share['low'], 1)} to {percent(share['high'], 1)})"
    if row["errors"] is None:
        return of
    errors = row["errors"]
    return f"{of}: {plural(round(errors['value']), 'error')} ({errors['low']:,.0f} to {errors['high']:,.0f})"
