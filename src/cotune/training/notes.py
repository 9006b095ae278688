"""What a user should know of a training that went through: notes for the terminal, the metrics and the report."""

from __future__ import annotations

from typing import Any

from cotune.settings import FitConfig
from cotune.tasks import Task

# Less than this between two AUC is not worth a word.
_NOTICED = 0.001


def undefined_score(found: str, task: Task, config: FitConfig) -> str:
    """Return a note on held-out posts of which no score can be given; `found` says why."""
    watched = f"; --stop validation watches their {task.loss_title} instead" if config.stop == "validation" else ""
    return (
        f"{found}, so that their {task.main_title} is not defined{watched}; hold out more posts, or give a validation "
        "table that holds every label"
    )


def below_the_probe(history: list[dict[str, Any]], task: Task, config: FitConfig) -> str | None:
    """Return a note where fine-tuning ended with a worse score of held-out posts than the probe; else None."""
    last = {row["stage"]: row for row in history}
    if config.stop == "validation" or len(last) < 2:
        return None  # the best weights are kept, be they the probe's
    probe, tuned = last["probe"], history[-1]
    for key, name, sign in (
        (f"validation_{task.main_score}", task.main_title, 1),
        ("validation_loss", task.loss_title, -1),
    ):
        before, after = probe.get(key), tuned.get(key)
        if before is None or after is None:
            continue
        if sign * (before - after) < _NOTICED:
            return None
        return (
            f"fine-tuning ended with a validation {name} of {after:.3f}, worse than the {before:.3f} of the probe; "
            "--stop validation keeps the best epoch, lower --lr-text and --lr-image or fewer --epochs change less, and "
            "--tune frozen stops at the probe"
        )
    return None


def below_chance(history: list[dict[str, Any]], task: Task) -> str | None:
    """Return a note where no epoch ranked the held-out posts better than chance does; else None."""
    found = [value for row in history if (value := row.get(f"validation_{task.main_score}")) is not None]
    if not found or task.chance is None or max(found) > task.chance:
        return None
    return (
        f"the validation {task.main_title} never rose above {max(found):.3f}, no better than chance: check the labels "
        "of the validation posts, or hold out more of them"
    )
