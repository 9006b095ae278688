"""What may be done after every epoch: a checkpoint kept, the history handed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cotune.training.checkpoint import MEMBER, Checkpoint, plain, to_device
from cotune.training.ranks import ranks
from cotune.training.stages import Stage, StageState

History = Sequence[Mapping[str, Any]]
OnEpoch = Callable[[list[Mapping[str, Any]]], None]


class Callback:
    """Told how training goes on."""

    def begun_with(self) -> Mapping[str, Any]:
        """Return the settings of the training that is going to go on; nothing if it begins."""
        return {}

    def on_begin(self, key: Mapping[str, Any]) -> None:
        """Take what the training is made of (settings, hash of the posts), before it begins."""

    def on_resume(self, state: StageState, history: History) -> None:
        """Take the state that a stage goes on from, or ended with, and the history of the stages before."""

    def on_epoch_end(self, stage: Stage, state: StageState, history: History) -> None:
        """Take the state after an epoch, and the history of the stages before."""

    def of_member(self, member: int) -> Callback:
        """Return what is told of one of several trainings; by default nothing is."""
        return Callback()


class HistoryCallback(Callback):
    """Hands the whole history on after every epoch.

    Parameters
    ----------
    on_epoch : callable
        Takes the history, one row an epoch.
    """

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch
        self._members: dict[int, History] = {}

    def on_resume(self, state: StageState, history: History) -> None:
        """Hand on the rows of before: no epoch may be left to do it, and members that are finished have none."""
        self._hand_on(state, history)

    def on_epoch_end(self, stage: Stage, state: StageState, history: History) -> None:
        """Hand on all rows, those of members that were trained before first."""
        self._hand_on(state, history)

    def _hand_on(self, state: StageState, history: History) -> None:
        before = [row for rows in self._members.values() for row in rows]
        self.on_epoch([*before, *history, *state.history])

    def of_member(self, member: int) -> HistoryCallback:
        """Return what hands on the rows of one of several trainings, after those of the members before."""

        def on_epoch(history: History) -> None:
            rows = [{**row, "stage": f"{row['stage']}, member {member + 1}"} for row in history]
            before = [row for at, own in self._members.items() if at < member for row in own]
            self._members[member] = rows
            self.on_epoch([*before, *rows])

        return HistoryCallback(on_epoch)


@dataclass(frozen=True)
class Resumed:
    """Where an interrupted training stood: the stage under way, its state, and the histories of those before it."""

    stage: str
    state: StageState
    done: dict[str, list[dict[str, Any]]]


class CheckpointCallback(Callback):
    """Keeps the state after every epoch, and brings it back.

    Parameters
    ----------
    folder : Path
        Where it is kept.
    resume : bool
        Whether to go on from what is there.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self.checkpoint, self.resume = Checkpoint(folder), resume

    def begun_with(self) -> Mapping[str, Any]:
        """Return the settings that the checkpoint was kept with."""
        first = Checkpoint(self.checkpoint.folder / f"{MEMBER}0")
        return (self.checkpoint.settings() or first.settings()) if self.resume else {}

    def of_member(self, member: int) -> CheckpointCallback:
        """Return what keeps the state of one of several trainings; one that is finished stays until the last is."""
        own = CheckpointCallback(self.checkpoint.folder / f"{MEMBER}{member}", resume=self.resume)
        own.on_begin({**self.checkpoint.key, "member": member})
        return own

    def on_begin(self, key: Mapping[str, Any]) -> None:
        """Remove what an earlier training left, unless it is to go on: an interruption would bring it back."""
        self.checkpoint.key = plain(key)
        if not self.resume and ranks().first:
            self.checkpoint.remove()

    def load(self, device: torch.device) -> Resumed | None:
        """Return where training stood; None if it begins again."""
        if not self.resume or not self.checkpoint.exists():
            return None
        stage, state, done = self.checkpoint.load()
        return Resumed(stage, to_device(state, device), done)

    def last(self, stage: str) -> StageState | None:
        """Return the state that was kept last if it is one of this stage."""
        if not self.checkpoint.exists():
            return None
        name, state, _ = self.checkpoint.load()
        return state if name == stage else None

    def on_epoch_end(self, stage: Stage, state: StageState, history: History) -> None:
        """Write the state; the earlier stages' weights, from which later ones begin, are in it."""
        if not ranks().first:
            return
        done: dict[str, list[dict[str, Any]]] = {}
        for row in history:
            done.setdefault(str(row["stage"]), []).append(dict(row))
        self.checkpoint.save(stage.name, state, done)
