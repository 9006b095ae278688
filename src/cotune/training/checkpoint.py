"""A stage's state on disk, between epochs: safetensors for what is large, JSON for the rest, no pickle."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cotune.checksums import checksums, damage, seal_holds, sealed
from cotune.errors import RunError
from cotune.files import atomic_path, remove, write_json
from cotune.settings import current_names
from cotune.training.stages import StageState

_FILE, _TENSORS = "state.json", "tensors-*.safetensors"
#: Beginning of the names of folders that hold the states of several trainings that make one run.
MEMBER = "member-"
_PARTS = ("weights", "best_weights", "average")


class Checkpoint:
    """The folder that holds an unfinished run's state.

    Parameters
    ----------
    folder : Path
        Where it lies.
    key : mapping, optional
        What the run is made of (settings, data hash); a state saved under another key is refused.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.key = plain(key or {})

    def save(self, stage: str, state: StageState, done: dict[str, list[dict[str, Any]]]) -> None:
        """Write the state of `stage`; the one before stays whole until the new one is complete.

        The tensors get a name of their own; renaming the small file that points to them is the one step that
        counts, so that a process killed at any moment leaves one state or the other.

        Parameters
        ----------
        stage : str
            The stage that is under way.
        state : StageState
            Where it stands.
        done : dict
            Histories of the stages before.
        """
        tensors = {f"{part}/{name}": t for part in _PARTS for name, t in getattr(state, part).items()}
        for number, slots in state.optimizer.get("state", {}).items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in slots.items()}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        name = _TENSORS.replace("*", secrets.token_hex(4))
        with atomic_path(self.folder / name) as path:
            save_file(tensors, path)
        recorded = {
            "key": self.key,
            "stage": stage,
            "tensors": name,
            "files": checksums(self.folder, [name]),
            "done": done,
            "epoch": state.epoch,
            "history": state.history,
            "best": state.best if state.best != float("-inf") else None,
            "stale": state.stale,
            "finished": state.finished,
            "param_groups": state.optimizer.get("param_groups", []),
            "precision": state.precision,
        }
        write_json(self.folder / _FILE, sealed(recorded))
        for old in [*self.folder.glob(_TENSORS), *self.folder.glob(".tmp-*")]:
            if old.name != name:
                old.unlink(missing_ok=True)

    def exists(self) -> bool:
        """Tell whether there is a state to go on from."""
        return (self.folder / _FILE).is_file()

    def settings(self) -> Mapping[str, Any]:
        """Return the settings that the state was saved with; nothing if there are none to be read."""
        try:
            found = json.loads((self.folder / _FILE).read_text(encoding="utf-8"))["key"]["settings"]
        except (OSError, ValueError, LookupError, TypeError):  # what is wrong with it, :meth:`load` says
            return {}
        return found if isinstance(found, dict) else {}

    def load(self) -> tuple[str, StageState, dict[str, list[dict[str, Any]]]]:
        """Return stage, state and the histories of earlier stages.

        Raises
        ------
        RunError
            If the state is damaged or belongs to other settings or other posts.
        """
        try:
            recorded = json.loads((self.folder / _FILE).read_text(encoding="utf-8"))
            if not seal_holds(recorded):
                raise ValueError(f"{_FILE} was changed")
            for name, what in damage(self.folder, recorded.get("files", {})):
                raise ValueError(f"{name} {what}")
            key = dict(recorded["key"])
            if "settings" in key:
                key["settings"] = current_names(key["settings"])
            tensors = load_file(self.folder / Path(recorded["tensors"]).name)
            state = _state(recorded, tensors)
            stage, done = str(recorded["stage"]), dict(recorded["done"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as fault:
            reason = f"{fault} is missing" if isinstance(fault, KeyError) else str(fault)
            raise RunError(
                f"the checkpoint {self.folder} cannot be read ({reason}); start again without --resume"
            ) from fault
        differing = list(differences(key, self.key))
        if differing:
            raise RunError(
                f"{self.folder} was begun with other {', '.join(differing)}; "
                "resume with the same posts and settings, or start again without --resume"
            )
        return stage, state, done

    def remove(self) -> None:
        """Delete the state once the run is saved; a file of somebody else in its folder stays."""
        remove_state(self.folder)


def plain(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return a key as it comes back from JSON."""
    found: dict[str, Any] = json.loads(json.dumps(key, default=str))
    return found


def _state(recorded: dict[str, Any], tensors: dict[str, Tensor]) -> StageState:
    """Return the state that :meth:`Checkpoint.save` has written."""
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        if part == "optimizer":
            number, _, slot = rest.partition("/")
            slots.setdefault(int(number), {})[slot] = tensor
        else:
            parts[part][rest] = tensor
    return StageState(
        epoch=recorded["epoch"],
        history=recorded["history"],
        best=float("-inf") if recorded["best"] is None else recorded["best"],
        stale=recorded["stale"],
        finished=recorded["finished"],
        optimizer={"state": slots, "param_groups": recorded["param_groups"]},
        precision=recorded.get("precision", {}),
        **parts,
    )


def remove_state(folder: Path) -> None:
    """Delete the files of a checkpoint, those of its members too, and their folders once they are empty."""
    for member in folder.glob(f"{MEMBER}*"):
        remove_state(member)
    for pattern in (_FILE, _TENSORS, ".tmp-*"):
        for path in folder.glob(pattern):
            remove(path)
    with suppress(OSError):
        folder.rmdir()


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Name what a checkpoint was made of and what is asked for now, where the two differ; settings one by one."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            yield from (f"{key.replace('_', '-')} ({old.get(key)}, now {new.get(key)})" for key in keys)
        else:
            yield name


def to_device(state: StageState, device: torch.device) -> StageState:
    """Move a loaded state to where the model is."""
    for part in _PARTS:
        setattr(state, part, {name: tensor.to(device) for name, tensor in getattr(state, part).items()})
    return state
