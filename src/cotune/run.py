"""A run: a folder that holds a trained model and everything needed to use and audit it.

Written and read as safetensors and JSON alone. It loads without a network and without the checkpoints the
encoders came from.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotune import self_test
from cotune._version import __version__
from cotune.checksums import checksums, damage, refuse_malformed, sealed
from cotune.data.kinds import FIELD_KINDS, refuse_missing_kinds
from cotune.data.seen import SEEN, SeenPosts
from cotune.drift.summary import PostsSummary, read_summary, write_summary
from cotune.encoders.resolve import encoder_kinds, load_encoder_config
from cotune.errors import CotuneError, EncoderError, RunError, first_line
from cotune.fields import Field
from cotune.files import atomic_path, read_json, remove, write_json, write_text
from cotune.heads import HEADS
from cotune.heads.members import MEMBERS, restore_head
from cotune.model import JointModel, head_name
from cotune.ownership import RUN
from cotune.plugins import origins, where_from
from cotune.report.model_card import model_card
from cotune.run_settings import (
    CARD,
    CONFIG,
    ENCODER_FOLDERS,
    ENVIRONMENT,
    FORMAT,
    LABELS,
    METRICS,
    POSTS_PAGE,
    REPORT,
    SUMMARY,
    WEIGHTS,
    damaged,
    encoder_folder,
    read_settings,
)
from cotune.settings import FitConfig
from cotune.tasks import TASKS, Task, restore_task

#: Files that only inform: what is wrong with them is said, and the run is opened all the same.
_INFORMING = (METRICS, ENVIRONMENT, SUMMARY, SEEN)
_STAGE = ".cotune-unfinished"


@dataclass
class Run:
    """A trained model with what belongs to it.

    Attributes
    ----------
    model : JointModel
        In evaluation mode.
    config : FitConfig
        How it was trained.
    metrics : dict
        History and evaluations.
    environment : dict
        Versions, seed, data hash, hardware.
    label_type : {"str", "int", "float", "bool"}
        The type that the labels had in Python; files and tables hold them as text.
    notes : list of str
        What was found when it was opened that harms no prediction, such as scores that cannot be read.
    summary : PostsSummary or None
        The training posts as numbers, which new posts are compared with; older runs have none.
    seen : SeenPosts or None
        Hashes of the posts that it was trained on; runs of before they were kept have none.
    """

    model: JointModel
    config: FitConfig
    metrics: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    label_type: str = "str"
    notes: list[str] = field(default_factory=list)
    summary: PostsSummary | None = None
    seen: SeenPosts | None = None

    @property
    def task(self) -> Task:
        """What the outputs mean."""
        return self.model.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the outputs: the labels, or what is measured."""
        return self.task.outputs

    @property
    def fields(self) -> tuple[Field, ...]:
        """What a post has."""
        return self.config.read_fields()


def save_run(folder: Path, run: Run, *, pages: Mapping[str, str] | None = None) -> None:
    """Write all files of a run, or none: a run that was there stays whole until the new one is complete.

    Parameters
    ----------
    folder : Path
        Made when absent. Files in it that belong to no run (a checkpoint, predictions) are left alone.
    run : Run
        What to write.
    pages : mapping, optional
        Text of ``report.html`` and ``posts.html`` by name; those of an earlier run are removed in any case.

    Raises
    ------
    CotuneError
        If the folder holds files of somebody else that would be replaced, the disk is full, or the folder cannot be
        written to; the files already there stay as they were.
    """
    RUN.refuse_foreign(folder)
    with atomic_path(folder / _STAGE, directory=True) as stage:
        _write_files(stage, run)
        for name, page in (pages or {}).items():
            write_text(stage / name, page)
    _move_in(folder / _STAGE, folder)


def _write_files(folder: Path, run: Run) -> None:
    from safetensors.torch import save_file

    write_json(folder / LABELS, list(run.classes))
    own = _without_sharing(run.model.state_dict())
    tensors = {name: t.detach().cpu().contiguous() for name, t in own.items()}
    with atomic_path(folder / WEIGHTS) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    shutil.copymode(folder / LABELS, folder / WEIGHTS)  # safetensors lets nobody but the owner read
    distinct = run.model.distinct_encoders
    for name, encoder in distinct.items():
        encoder.save_config(folder / encoder_folder(name))
    write_json(folder / METRICS, run.metrics)
    write_json(folder / ENVIRONMENT, run.environment)
    if run.summary is not None:
        write_summary(run.summary, folder / SUMMARY)
        shutil.copymode(folder / LABELS, folder / SUMMARY)
    if run.seen is not None:
        run.seen.save(folder / SEEN)
        shutil.copymode(folder / LABELS, folder / SEEN)
    write_text(folder / CARD, model_card(run.model, run.config, run.metrics))
    settings = {
        **RUN.mark(),
        "format": FORMAT,
        "cotune": __version__,
        "fit": run.config.model_dump(mode="json"),
        "task": {"name": run.task.name, "settings": run.task.settings()},
        "head": {"name": head_name(run.model.head), "settings": run.model.head.settings()},
        "encoders": {name: encoder.describe() for name, encoder in distinct.items()},
        "shared": {
            name: owner
            for name, encoder in run.model.encoders.items()
            for owner, other in distinct.items()
            if other is encoder and owner != name
        },
        "dims": dict(run.model.head.dims),
        "parameters": run.model.parameter_counts(),
        "label_type": run.label_type,
        "needs": origins({**_parts(run.model), **_kinds(run.config)}),
        "self_test": self_test.record(distinct),
        "checksums": checksums(folder, _checked(folder)),
    }
    write_json(folder / CONFIG, sealed(settings))


def save_calibration(folder: Path, task: Task, about: Mapping[str, Any]) -> None:
    """Give a run another task of the same outputs, such as one with a temperature, and write down how it was found.

    ``config.json`` is replaced last, so that a run whose writing was cut off predicts as before.

    Parameters
    ----------
    folder : Path
        The run.
    task : Task
        Its task from now on.
    about : mapping
        What ``metrics.json`` says of it under ``calibration``.
    """
    settings = read_settings(folder)
    metrics = _read_if_there(folder / METRICS, [])
    write_json(folder / METRICS, {**metrics, "calibration": about})
    settings["task"] = {"name": task.name, "settings": task.settings()}
    if "checksums" in settings:
        settings["checksums"] |= checksums(folder, [METRICS])
    write_json(folder / CONFIG, sealed({key: value for key, value in settings.items() if key != "checksum"}))


def _parts(model: JointModel) -> dict[str, object]:
    """Return what may come from another package, by the name that messages give it."""
    faces = [encoder.face for encoder in model.distinct_encoders.values()]
    encoders = {f"encoder kind {face.describe()['kind']!r}": face for face in faces}
    task = {f"task {model.task.name!r}": model.task}
    head = model.head.face
    return {f"fusion head {head_name(head)!r}": head, **task, **encoders}


def _kinds(config: FitConfig) -> dict[str, object]:
    """Return the kinds of the fields that are read, as :func:`_parts` does."""
    kinds = {field.kind for field in config.read_fields()}
    return {f"kind of field {kind!r}": FIELD_KINDS[kind] for kind in sorted(kinds) if kind in FIELD_KINDS}


def _refuse_missing_parts(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a run whose parts come from a package that is not here, and name the package."""
    needs = settings.get("needs", {})
    task = settings.get("task", {}).get("name", "single-label")
    head = settings["head"]["name"]
    head = settings["head"]["settings"]["member"]["name"] if head == MEMBERS else head
    kinds, used = encoder_kinds(), [each.get("of", each)["kind"] for each in settings["encoders"].values()]
    missing = [f"fusion head {head!r}"] if head not in HEADS else []
    missing += [f"task {task!r}"] if task not in TASKS else []
    missing += [f"encoder kind {kind!r}" for kind in used if kind not in kinds]
    refuse_missing_kinds(folder, [field.get("kind", "") for field in settings["fit"].get("fields") or ()], needs)
    if missing:
        raise RunError(f"{folder} needs the {missing[0]}, which is not available; {where_from(needs.get(missing[0]))}")


def weights_hash(model: JointModel) -> str:
    """Return a hash of all weights, and of what defines the encoders."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.head.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for name, encoder in sorted(model.distinct_encoders.items()):
        digest.update(f"{name} {encoder.fingerprint()}".encode())
    return digest.hexdigest()


def _checked(folder: Path) -> list[str]:
    """Return the files whose checksums are kept; a user may edit what is not among them."""
    own = [name for name in (LABELS, WEIGHTS, *_INFORMING) if (folder / name).is_file()]
    parts = [path for name in ENCODER_FOLDERS for path in sorted((folder / name).rglob("*"))]
    return [*own, *(path.relative_to(folder).as_posix() for path in parts if path.is_file())]


def _move_in(stage: Path, folder: Path) -> None:
    """Put the files of a complete run in their places: renames alone, which need no space.

    A folder without a config.json counts as no run, so a power cut in between cannot leave a mixture that loads.
    """
    (folder / CONFIG).unlink(missing_ok=True)
    for name in (REPORT, POSTS_PAGE, SUMMARY, SEEN, *ENCODER_FOLDERS):
        remove(folder / name)
    for new in sorted(stage.iterdir(), key=lambda path: path.name == CONFIG):
        new.replace(folder / new.name)
    stage.rmdir()


def load_run(folder: str | Path, *, verify: bool = True) -> Run:
    """Open a run folder; nothing outside of it is read.

    Parameters
    ----------
    folder : path
        The run.
    verify : bool
        Whether to compare the files with the checksums that were saved with them, and tokens and pixels of fixed
        inputs with those of then. Runs older than cotune's checksums are opened without.

    Raises
    ------
    RunError
        If the folder is no run, is not complete or damaged, was made by a later version, or if another version of a
        library makes other tokens or pixels of the same files.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    notes: list[str] = []
    if verify and "written_by" in settings and "checksums" not in settings:
        notes.append(f"the checksums of {folder} were removed from its {CONFIG}; its files are not verified")
    recorded = settings.get("checksums", {}) if verify else {}
    try:
        refuse_malformed(recorded)
    except ValueError as fault:
        raise RunError(damaged(folder / CONFIG, f"is damaged: {fault}")) from fault
    with ThreadPoolExecutor(1) as pool:
        small = {name: entry for name, entry in recorded.items() if name != WEIGHTS}
        # The weights take longest, and are read while the encoders are built.
        weights = pool.submit(list, damage(folder, {WEIGHTS: recorded[WEIGHTS]} if WEIGHTS in recorded else {}))
        for name, what in damage(folder, small):
            if name not in _INFORMING:
                raise RunError(damaged(folder / name, what))
            if name == SUMMARY and not (folder / name).exists():
                continue  # who does not want it may delete it
            notes.append(f"{folder / name} {what}; it has no effect on predictions")
        run = _build(folder, settings, notes, lambda: weights.result())
    if verify:
        added = [name for name in _checked(folder) if name not in recorded]
        self_test.refuse_changed(folder, run.model.encoders, settings.get("self_test", {}), added)
    return run


def _build(
    folder: Path, settings: Mapping[str, Any], notes: list[str], damage_of_weights: Callable[[], list[tuple[str, str]]]
) -> Run:
    try:
        _refuse_missing_parts(folder, settings)
        labels = tuple(str(label) for label in read_json(folder / LABELS))
        task = restore_task(settings.get("task") or {"name": "single-label", "settings": {"classes": labels}})
        if task.outputs != labels:
            raise RunError(damaged(folder / LABELS, "does not fit the run's task"))
        encoders = {name: load_encoder_config(folder / encoder_folder(name)) for name in settings["encoders"]}
        encoders |= {name: encoders[owner] for name, owner in settings.get("shared", {}).items()}
        head = restore_head(settings["head"]["name"], settings["dims"], task.n_outputs, settings["head"]["settings"])
        model = JointModel(encoders, head, task)
        for name, what in damage_of_weights():
            raise RunError(damaged(folder / name, what))
        _load_weights(model, folder / WEIGHTS)
        config = FitConfig(**settings["fit"])
    except EncoderError as fault:
        raise RunError(
            f"an encoder of {folder} cannot be opened ({str(fault)[:300]}); copy the run again from where it was "
            "whole, or train it again"
        ) from fault
    except CotuneError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as fault:
        raise RunError(f"{folder} is damaged: {first_line(fault, 300)}; train it again") from fault
    label_type = str(settings.get("label_type", "str"))
    metrics, environment = (_read_if_there(folder / name, notes) for name in (METRICS, ENVIRONMENT))
    summary = None
    if (folder / SUMMARY).is_file() and not any(note.startswith(f"{folder / SUMMARY} ") for note in notes):
        try:
            summary = read_summary(folder / SUMMARY)
        except RunError as fault:
            notes.append(f"{fault}; it has no effect on predictions")
    seen = _read_seen(folder / SEEN, notes)
    return Run(model.requires_grad_(False).eval(), config, metrics, environment, label_type, notes, summary, seen)


def _load_weights(model: JointModel, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as fault:
        raise RunError(f"{path} cannot be read ({fault}); the run is damaged") from fault
    tensors = current_weights(tensors, list(model.encoders))
    own = model.state_dict()
    shared = set(own) - set(tensors) - {"head.prior"}  # runs of before it was kept have none
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    # Tied tensors are written once; whatever else is absent is a fault.
    written = {own[name].data_ptr() for name in own.keys() & tensors.keys()}
    if unexpected or any(own[name].data_ptr() not in written for name in shared):
        raise RunError(f"{path} does not fit its configuration (missing {missing[:2]}, unknown {unexpected[:2]})")
    for encoder in model.distinct_encoders.values():
        encoder.weights_changed()


def current_weights(tensors: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Return weights of a run under the names of today; older runs have a text and an image, and say so in names."""
    found = {}
    for name, tensor in tensors.items():
        for at, own in enumerate(fields):
            name = f"_encoders.{at}.{name[len(own) + 1 :]}" if name.startswith(f"{own}.model.") else name
            for old, new in (("head.absent_", "head.absent."), ("head.project_", "head.project.")):
                name = f"{new}{at}{name[len(old + own) :]}" if name.startswith(old + own) else name
        name = {"head.log_prior": "head.prior", "head.modality_embedding": "head.field_embedding"}.get(name, name)
        if tensor.numel() or not name.startswith("head."):  # heads of one field alone had an empty one for the other
            found[name] = tensor
    return found


def _without_sharing(tensors: dict[str, Any]) -> dict[str, Any]:
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        place = tensor.data_ptr()
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        kept[name] = tensor
    return kept


def _read_seen(path: Path, notes: list[str]) -> SeenPosts | None:
    """Return the hashes of the posts that a run was trained on; without them predictions are the same."""
    if not path.is_file() or any(note.startswith(f"{path} ") for note in notes):
        return None
    try:
        return SeenPosts.load(path)
    except CotuneError as fault:
        notes.append(f"{fault}; posts that were trained on are not told from others")
        return None


def _read_if_there(path: Path, notes: list[str]) -> dict[str, Any]:
    """Return what a file that only informs holds; one that cannot be read is no reason not to predict."""
    try:
        result = read_json(path) if path.is_file() else {}
    except CotuneError as fault:
        result, reason = None, str(fault)
    else:
        reason = f"{path} holds no object"
    if isinstance(result, dict):
        return result
    if not any(note.startswith(f"{path} ") for note in notes):
        notes.append(f"{reason}; it has no effect on predictions")
    return {}
