"""Posts sent to their routes, chunk by chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cotune.data.known_images import DISTANCE, KNOWN
from cotune.decide.choose import output_of
from cotune.decide.policy import ROUTES, ChosenPolicy, Route, route_of
from cotune.progress import Progress
from cotune.scoring import Scorer

DECISION_COLUMNS = ("id", "label", "probability", "route", "error")
"""Columns of decisions; where known images are looked for also :data:`KNOWN` and :data:`DISTANCE`."""
#: Takes posts, their predictions and their decisions, chunk by chunk.
Watch = Callable[[pd.DataFrame, pd.DataFrame, pd.DataFrame, np.ndarray], None]


@dataclass
class Decided:
    """How many posts took each route.

    Attributes
    ----------
    routes : dict
        Posts by route, as the model's probability sends them.
    without_prediction : int
        Those among the reviewed that have no prediction.
    known : int
        Further posts, whose image is known: they go where the policy says.
    """

    routes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROUTES, 0))
    without_prediction: int = 0
    known: int = 0

    @property
    def posts(self) -> int:
        """All posts."""
        return sum(self.routes.values()) + self.known


def decide_posts(
    predictor: Scorer[Any], chunks: Iterable[pd.DataFrame], chosen: ChosenPolicy, watch: Watch, progress: Progress
) -> Decided:
    """Send every post to its route; posts without a prediction are reviewed.

    Parameters
    ----------
    predictor : Scorer
        The model.
    chunks : iterable of DataFrame
        The posts.
    chosen : ChosenPolicy
        The policy, with thresholds for this model.
    watch : callable
        Takes each chunk of posts with its predictions, its decisions, and what each field adds to the class, of shape
        (N, F).
    progress : Progress
        Progress reporter.
    """
    output = output_of(predictor.task, chosen.policy.class_)
    column = f"p_{predictor.task.outputs[output]}"
    found = Decided()
    for posts in progress.track(chunks, "posts (in chunks)", None):
        scores = predictor.scores(posts)
        table = predictor.frame_of(posts, scores)
        decisions = decided(table, column, chosen.thresholds, chosen.policy.known)
        watch(posts, table, decisions, scores.contributions[:, :, output])
        by_model = ~is_known(table)
        for route, n in Counter(decisions["route"][by_model]).items():
            found.routes[route] += n
        found.without_prediction += int(table[column][by_model].isna().sum())
        found.known += int((~by_model).sum())
    return found


def decided(
    table: pd.DataFrame, column: str, thresholds: dict[str, float | None], known: Route | None = None
) -> pd.DataFrame:
    """Return one decision for every prediction.

    Parameters
    ----------
    table : DataFrame
        Predictions.
    column : str
        The one with the probability of the policy's class.
    thresholds : dict
        Those of `act` and `allow`.
    known : {"act", "review", "allow"}, optional
        Where posts with a known image go.
    """
    probability = table[column].to_numpy(dtype=np.float64)
    routes = [route_of(value, thresholds) for value in probability.tolist()]
    if known is not None:
        routes = [known if match else route for match, route in zip(is_known(table), routes, strict=True)]
    made = {"id": table["id"], "label": table["label"], "probability": probability, "route": routes}
    further = {name: table[name] for name in (KNOWN, DISTANCE) if name in table}
    return pd.DataFrame({**made, **further, "error": table["error"]})


def is_known(table: pd.DataFrame) -> pd.Series:
    """Tell of every prediction whether the post has a known image."""
    return table[KNOWN].notna() if KNOWN in table else pd.Series(np.zeros(len(table), dtype=bool), index=table.index)


def decision_columns(predictor: Scorer[Any]) -> list[str]:
    """Return the columns of decisions by a model."""
    *first, last = DECISION_COLUMNS
    return [*first, *(() if predictor.known is None else (KNOWN, DISTANCE)), last]
