"""Posts sent to their routes, chunk by chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cotune.decide.choose import output_of
from cotune.decide.policy import ROUTES, ChosenPolicy, route_of
from cotune.progress import Progress
from cotune.scoring import Scorer

DECISION_COLUMNS = ("id", "label", "probability", "route", "error")
#: Takes posts, their predictions and their decisions, chunk by chunk.
Watch = Callable[[pd.DataFrame, pd.DataFrame, pd.DataFrame, np.ndarray], None]


@dataclass
class Decided:
    """How many posts took each route.

    Attributes
    ----------
    routes : dict
        Posts by route.
    without_prediction : int
        Those among the reviewed that have no prediction.
    """

    routes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROUTES, 0))
    without_prediction: int = 0

    @property
    def posts(self) -> int:
        """All posts."""
        return sum(self.routes.values())


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
        decisions = decided(table, column, chosen.thresholds)
        watch(posts, table, decisions, scores.contributions[:, :, output])
        for route, n in Counter(decisions["route"]).items():
            found.routes[route] += n
        found.without_prediction += int(table[column].isna().sum())
    return found


def decided(table: pd.DataFrame, column: str, thresholds: dict[str, float | None]) -> pd.DataFrame:
    """Return one decision for every prediction.

    Parameters
    ----------
    table : DataFrame
        Predictions.
    column : str
        The one with the probability of the policy's class.
    thresholds : dict
        Those of `act` and `allow`.
    """
    probability = table[column].to_numpy(dtype=np.float64)
    routes = [route_of(value, thresholds) for value in probability.tolist()]
    made = {"id": table["id"], "label": table["label"], "probability": probability, "route": routes}
    return pd.DataFrame({**made, "error": table["error"]}, columns=list(DECISION_COLUMNS))
