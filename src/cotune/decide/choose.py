"""Thresholds for a policy from labelled posts, and what the routes are expected to hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cotune.checksums import of_columns
from cotune.decide.policy import ROUTES, ChosenPolicy, Policy, route_of
from cotune.decide.thresholds import Bools, act_threshold, allow_threshold, fewest_posts, fewest_to_act, interval
from cotune.errors import ConfigError, DataError, did_you_mean, listed
from cotune.evaluation import EvaluatedPosts, evaluate_posts
from cotune.metrics.checks import Floats
from cotune.progress import Progress
from cotune.report.numbers import whole_percent
from cotune.scoring import Scorer
from cotune.seen_check import SEEN_POSTS
from cotune.tasks import Task

_POINTS = 24


@dataclass(frozen=True)
class LabelledPosts:
    """Posts whose class is known, scored.

    Attributes
    ----------
    positive : array of bool, shape (N,)
        Which have the class of the policy.
    scores : array of float, shape (N,)
        Their probabilities of it.
    left_out : dict
        How many posts could not be used, by reason.
    hash : str
        A hash of ids, classes and probabilities.
    """

    positive: Bools
    scores: Floats
    left_out: dict[str, int]
    hash: str


def output_of(task: Task, name: str) -> int:
    """Return which output is the probability of a class.

    Raises
    ------
    ConfigError
        If the task has no classes, or not this one.
    """
    if task.target_type == "continuous":
        raise ConfigError(f"a policy is about a class, and the run's task is {task.describe()}")
    if name not in task.outputs:
        raise ConfigError(
            f"the policy's class {name!r} is not known to the run{did_you_mean(name, task.outputs)}; it knows "
            f"{listed(task.outputs)}"
        )
    return task.outputs.index(name)


def hash_of(predictor: Scorer[Any]) -> str:
    """Return a hash of all that decides predictions but the engine; a run and its exports have the same."""
    settings = json.dumps(predictor.task.settings(), sort_keys=True)
    return hashlib.sha256(f"{predictor.weights_hash} {settings}".encode()).hexdigest()


def score_labelled(
    predictor: Scorer[Any], chunks: Iterable[pd.DataFrame], name: str, progress: Progress | None = None
) -> LabelledPosts:
    """Score labelled posts for a policy on the class `name`, without those that the run was trained on.

    Raises
    ------
    DataError
        If none is left.
    """
    task = predictor.task
    at = output_of(task, name)
    found = score_unseen(predictor, chunks, progress)
    table = found.predictions[found.scored]
    targets = np.asarray(task.encode(table["true"].tolist()))
    positive: Bools = targets == at if targets.ndim == 1 else targets[:, at] > 0
    scores = table[f"p_{name}"].to_numpy(dtype=np.float64)
    digest = of_columns([table["id"].astype(str).tolist(), positive, scores])
    return LabelledPosts(positive, scores, found.left_out, digest)


def score_unseen(
    predictor: Scorer[Any], chunks: Iterable[pd.DataFrame], progress: Progress | None = None
) -> EvaluatedPosts:
    """Score labelled posts without those that the run was trained on, or near-duplicates of such.

    Raises
    ------
    DataError
        If none is left.
    """
    found = evaluate_posts(predictor, chunks, n_bootstrap=0, progress=progress, seen="leave-out")
    if SEEN_POSTS in found.notes:  # the very table, of which there are no hashes of posts
        raise DataError(
            "these are the posts that the run was trained on, on which it is more often right than on others; give "
            "labelled posts that it has not seen"
        )
    if progress is not None and not found.seen:
        progress.say(
            "note: this model keeps no hashes of its training posts, so that those among the labelled posts cannot be "
            "left out; make sure that there are none"
        )
    return found


def choose_thresholds(policy: Policy, posts: LabelledPosts, predictor: Scorer[Any]) -> ChosenPolicy:
    """Return the policy with thresholds for its targets, and what each route held on the labelled posts."""
    act = allow = None
    if policy.act is not None:
        act = act_threshold(posts.positive, posts.scores, policy.act.precision, policy.confidence)
    if policy.allow is not None:
        most = None if act is None else act.value
        allow = allow_threshold(posts.positive, posts.scores, policy.allow.recall, policy.confidence, most=most)
    thresholds = {"act": act and act.to_dict(), "allow": allow and allow.to_dict()}
    values = {route: None if found is None else found.value for route, found in (("act", act), ("allow", allow))}
    labelled = {
        "posts": len(posts.scores),
        "positive": int(posts.positive.sum()),
        "left_out": posts.left_out,
        "hash": posts.hash,
        "routes": _routes(posts, values),
    }
    run = {"hash": hash_of(predictor), "engine": predictor.engine_version}
    curve = risk_coverage(posts.positive, posts.scores)
    return ChosenPolicy.make(policy, run, thresholds, labelled=labelled, curve=curve)


def _routes(posts: LabelledPosts, thresholds: dict[str, float | None]) -> dict[str, dict[str, Any]]:
    """Return how many labelled posts take each route, and the part that has the class."""
    taken = np.asarray([route_of(score, thresholds) for score in posts.scores.tolist()])
    return {
        route: {
            "posts": int((taken == route).sum()),
            "positive": int(posts.positive[taken == route].sum()),
            "share": interval(int(posts.positive[taken == route].sum()), int((taken == route).sum())),
        }
        for route in ROUTES
    }


def unreachable(chosen: ChosenPolicy) -> list[str]:
    """Return notes on targets that no threshold was shown to reach, and why."""
    policy, labelled, notes = chosen.policy, chosen.record["labelled"], []
    how = f"with {whole_percent(policy.confidence)} confidence"
    if policy.act is not None and chosen.thresholds["act"] is None:
        need = fewest_to_act(policy.act.precision, policy.confidence)
        why = "the posts with the highest probability are too often wrong for it, or too few to show it"
        if labelled["posts"] <= need:
            why = f"that takes more than {need:,} labelled posts, and there are {labelled['posts']:,}"
        notes.append(
            f"no threshold was shown to reach a precision of {policy.act.precision:g} {how}: {why}; no post is acted on"
        )
    if policy.allow is not None and chosen.thresholds["allow"] is None:
        need = fewest_posts(policy.allow.recall, 1 - policy.confidence)
        notes.append(
            f"no threshold was shown to reach a recall of {policy.allow.recall:g} {how}: "
            f"that takes at least {need:,} labelled posts of the class {policy.class_!r}, and there are "
            f"{labelled['positive']:,}; no post is allowed"
        )
    if notes and all(value is None for value in chosen.thresholds.values()):
        notes.append("every post goes to review")
    return notes


def risk_coverage(positive: Bools, scores: Floats, points: int = _POINTS) -> list[dict[str, Any]]:
    """Return what acting on, and allowing, a part of the posts would cost.

    Parameters
    ----------
    positive : array of bool, shape (N,)
        Which posts have the class.
    scores : array of float, shape (N,)
        Their probabilities of it.
    points : int
        Parts, evenly spread up to all posts.

    Returns
    -------
    list of dict
        `coverage`, the part of the posts; `act_risk`, the part of the most probable ones that do not have the class;
        `allow_risk`, the part of the class that is among the least probable ones; each risk with `_low` and `_high`,
        its 95 % interval.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.concatenate(([0], positive[order].cumsum()))
    n, total, found = len(order), int(hits[-1]), []
    for m in sorted({max(1, round(n * i / points)) for i in range(1, points + 1)}):
        act = interval(int(m - hits[m]), m)
        allow = interval(total - int(hits[n - m]), total)
        found.append({
            "coverage": m / n,
            **{f"{name}_risk{end}": value for name, risk in (("act", act), ("allow", allow))
               for end, value in (("", risk["value"]), ("_low", risk["low"]), ("_high", risk["high"]))},
        })  # fmt: skip
    return found
