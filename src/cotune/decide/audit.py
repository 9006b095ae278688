"""A record of every decision, and its replay: the post is scored again, and what differs is said."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cotune._version import __version__
from cotune.checksums import seal_holds, sealed
from cotune.data.known_images import KNOWN
from cotune.data.posts import input_hashes
from cotune.decide.choose import hash_of, output_of
from cotune.decide.policy import ChosenPolicy, route_of
from cotune.environment import versions
from cotune.errors import DataError, clip
from cotune.files import to_json
from cotune.report.numbers import plural
from cotune.scoring import Scorer, share_column

FORMAT = 1
TOLERANCE = 1e-4
#: Contributions are on the scale of log-odds, where rounding shows more: by how many times `TOLERANCE` they may differ.
_OF_LOG_ODDS = 100
_RECORD = "cotune decision"
_CHUNK = 256


class AuditLog:
    """Makes the records of a run of ``cotune decide``.

    Parameters
    ----------
    predictor : Scorer
        The model.
    chosen : ChosenPolicy
        The policy.
    """

    def __init__(self, predictor: Scorer[Any], chosen: ChosenPolicy) -> None:
        self._predictor, self._chosen = predictor, chosen
        self._same: dict[str, Any] = {
            "record": _RECORD,
            "format": FORMAT,
            "run": {"hash": hash_of(predictor), "weights": predictor.weights_hash, "engine": predictor.engine_version},
            "policy": {"version": chosen.policy.version, "hash": chosen.hash, "class": chosen.policy.class_},
            "thresholds": chosen.thresholds,
            "versions": _versions(),
        }
        if predictor.known is not None:
            self._same["policy"]["known"] = chosen.policy.known
            self._same["known_images"] = predictor.known.digest

    def lines(
        self, posts: pd.DataFrame, table: pd.DataFrame, decisions: pd.DataFrame, contributions: np.ndarray
    ) -> Iterator[str]:
        """Yield the records of some posts, one line each, sealed by a checksum.

        Parameters
        ----------
        posts, table, decisions : DataFrame
            The posts, their predictions and their routes.
        contributions : ndarray
            What each field adds to the policy's class, on the task's scale, shape (N, F).
        """
        inputs = input_hashes(posts, self._predictor.fields)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        names = self._predictor.field_names
        rows = zip(table.to_dict("records"), decisions["route"], posts["row"], strict=True)
        for i, (row, route, number) in enumerate(rows):
            made = {
                "id": row["id"],
                "row": number,
                "time": now,
                "inputs": {name: hashes[i] for name, hashes in inputs.items()},
                "label": row["label"],
                "probabilities": {name: row[name] for name in self._predictor.task.columns()},
                "shares": {name: row[share_column(name)] for name in names},
                "contributions": dict(zip(names, contributions[i].tolist(), strict=True)),
                "route": route,
                "error": row["error"],
            }
            made |= {KNOWN: row[KNOWN]} if KNOWN in row else {}
            yield to_json(sealed({**made, **self._same}), indent=None) + "\n"


@dataclass
class Replayed:
    """What a replay found.

    Attributes
    ----------
    records : int
        Records read.
    differences : list of (int, str, list of str)
        Line, id and reasons of every record that differs.
    notes : list of str
        What a reader must know.
    largest : float
        Largest difference of a probability.
    """

    records: int = 0
    differences: list[tuple[int, str, list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    largest: float = 0.0

    def reasons(self) -> dict[str, int]:
        """Return how many records differ for each kind of reason, the most frequent first."""
        kinds = (reason.partition(":")[0] for _, _, reasons in self.differences for reason in reasons)
        return dict(Counter(kinds).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "records": self.records,
            "differ": len(self.differences),
            "reasons": self.reasons(),
            "largest_difference": self.largest,
            "notes": self.notes,
            "differences": [{"line": line, "id": id_, "reasons": reasons} for line, id_, reasons in self.differences],
        }


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and record of an audit file.

    Raises
    ------
    DataError
        If it cannot be read, or a line is no record.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                try:
                    record = json.loads(text)
                except (ValueError, RecursionError):
                    raise DataError(f"line {line} of {path} is no JSON; it was cut short or changed") from None
                if not isinstance(record, dict) or record.get("record") != _RECORD or record.get("format") != FORMAT:
                    raise DataError(
                        f"line {line} of {path} is no record that `cotune decide --audit` of this version wrote"
                    )
                yield line, record
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def replay(
    records: Iterable[tuple[int, dict[str, Any]]],
    posts: pd.DataFrame,
    predictor: Scorer[Any],
    *,
    policy: ChosenPolicy | None = None,
    tolerance: float = TOLERANCE,
) -> Replayed:
    """Score the posts of an audit file again and compare.

    Parameters
    ----------
    records : iterable
        As :func:`read_records` yields them.
    posts : DataFrame
        The posts, with the ids of then.
    predictor : Scorer
        The model of then.
    policy : ChosenPolicy, optional
        The policy that should have decided.
    tolerance : float
        By how much a probability may differ.
    """
    found, run, now = Replayed(), hash_of(predictor), _versions()
    place = {str(id_): at for at, id_ in enumerate(posts["id"])}
    others: set[str] = set()
    without = set(place)
    rest = iter(records)
    while chunk := list(islice(rest, _CHUNK)):
        at = [place.get(str(record.get("id"))) for _, record in chunk]
        part = posts.iloc[sorted({i for i in at if i is not None})]
        row_of = {str(id_): row for row, id_ in enumerate(part["id"])}
        again = _scored_again(predictor, part) if len(part) else []
        inputs = input_hashes(part, predictor.fields)
        for line, record in chunk:
            found.records += 1
            without.discard(str(record.get("id")))
            row = row_of.get(str(record.get("id")))
            reasons = _about_record(record, run, policy)
            if row is None:
                reasons.append("no such post: the posts table does not have its id")
            else:
                mine = {name: hashes[row] for name, hashes in inputs.items()}
                reasons += _about_input(record, mine)
                table, contributions = again[row]
                numbers, largest = _about_numbers(record, table, predictor.task.columns(), tolerance)
                found.largest = max(found.largest, largest)
                reasons += numbers + _about_contributions(record, contributions, predictor, tolerance)
                reasons += _about_known(record, table)
            others |= {_words(record)} if record.get("versions") != now else set()
            others |= _engine(record, predictor.engine_version)
            others |= _known(record, predictor)
            if reasons:
                found.differences.append((line, str(record.get("id")), reasons))
    found.notes = [words if words.startswith("known") else f"decided with {words}" for words in sorted(others)]
    if without:
        found.notes.append(f"{len(without):,} of {plural(len(place), 'post')} have no record; lines may be missing")
    return found


def _scored_again(predictor: Scorer[Any], posts: pd.DataFrame) -> list[tuple[dict[Any, Any], np.ndarray]]:
    """Return the row of predictions of every post, and its contributions, shape (F, n_outputs)."""
    scores = predictor.scores(posts)
    return list(zip(predictor.frame_of(posts, scores).to_dict("records"), scores.contributions, strict=True))


def _versions() -> dict[str, str | None]:
    return {"cotune": __version__, **versions()}


def _about_record(record: Mapping[str, Any], run: str, policy: ChosenPolicy | None) -> list[str]:
    reasons = [] if "checksum" in record and seal_holds(record) else ["record changed: its checksum differs"]
    if _of(record, "run", "hash") != run:
        reasons.append(f"other run: {str(_of(record, 'run', 'hash'))[:12]}, not {run[:12]}")
    if policy is not None and _of(record, "policy", "hash") != policy.hash:
        was = f"{str(_of(record, 'policy', 'hash'))[:12]} (version {_of(record, 'policy', 'version')})"
        reasons.append(f"other policy: {was}, not {policy.hash[:12]} (version {policy.policy.version})")
    elif policy is not None and record.get("thresholds") != policy.thresholds:
        reasons.append("other thresholds: the record's are not those of the policy")
    return reasons


def _about_input(record: Mapping[str, Any], inputs: Mapping[str, str | None]) -> list[str]:
    was = _part(record, "inputs")
    differ = [name for name in {**inputs, **was} if was.get(name) != inputs.get(name)]
    return [f"other input: {', '.join(differ)}"] if differ else []


def _about_numbers(
    record: Mapping[str, Any], row: Mapping[str, Any], columns: Iterable[str], tolerance: float
) -> tuple[list[str], float]:
    """Return how the probabilities and the route differ, and the largest difference of a probability."""
    was = _part(record, "probabilities")
    gaps = {name: _gap(was.get(name), row.get(name)) for name in dict.fromkeys([*columns, *was])}
    worst = max(gaps, key=lambda name: gaps[name], default=None)
    largest = 0.0 if worst is None else gaps[worst]
    reasons = []
    if worst is not None and not largest <= tolerance:
        reasons.append(f"other probability: {worst} {_number(was.get(worst))}, now {_number(row.get(worst))}")
    label, now = (_word(each.get("label")) for each in (record, row))
    if label != now:
        reasons.append(f"other label: {label}, now {now}")
    column = f"p_{_of(record, 'policy', 'class')}"
    value = row.get(column)
    given = _part(record, "thresholds")
    thresholds = {name: given.get(name) if _is_number(given.get(name)) else None for name in ("act", "allow")}
    route: object = route_of(math.nan if value is None else value, thresholds)
    if (row[KNOWN] if KNOWN in row else record.get(KNOWN)) is not None:
        route = _of(record, "policy", "known")
    if route != record.get("route"):
        reasons.append(f"other route: {record.get('route')}, now {route}")
    return reasons, 0.0 if math.isinf(largest) else largest


def _about_contributions(
    record: Mapping[str, Any], now: np.ndarray, predictor: Scorer[Any], tolerance: float
) -> list[str]:
    """Return which field adds something else to the policy's class; nothing where a record or a model does not tell."""
    was, class_ = _part(record, "contributions"), _of(record, "policy", "class")
    if class_ not in predictor.task.outputs:
        return []
    mine = dict(zip(predictor.field_names, now[:, output_of(predictor.task, class_)].tolist(), strict=True))
    gaps = {
        name: abs(value - mine[name])
        for name, value in was.items()
        if name in mine and _is_number(value) and _is_number(mine[name])
    }
    worst = max(gaps, key=lambda name: gaps[name], default=None)
    if worst is None or gaps[worst] <= tolerance * _OF_LOG_ODDS:
        return []
    return [f"other contribution: {worst} {_number(was[worst])}, now {_number(mine[worst])}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _about_known(record: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    was, now = record.get(KNOWN), row.get(KNOWN)
    return [f"other known image: {was or 'none'}, now {now or 'none'}"] if KNOWN in row and was != now else []


def _known(record: Mapping[str, Any], predictor: Scorer[Any]) -> set[str]:
    """Return what a reader must know of images that were looked for."""
    was = record.get("known_images")
    if predictor.known is None:
        return {"known images were not looked for again; give --known for it"} if was is not None else set()
    return {"known images are other ones than those of then"} if was != predictor.known.digest else set()


def _gap(was: Any, now: Any) -> float:
    known = [_is_number(value) for value in (was, now)]
    return abs(was - now) if all(known) else math.inf if any(known) else 0.0


def _word(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "none" if missing else clip(str(value), 60)


def _number(value: Any) -> str:
    return f"{value:.6f}" if _is_number(value) else "none"


def _part(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a part of a record; an empty one where it was changed into something else."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _of(record: Mapping[str, Any], part: str, key: str) -> Any:
    return _part(record, part).get(key)


def _words(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in _part(record, "versions").items() if version)


def _engine(record: Mapping[str, Any], now: str) -> set[str]:
    was = _of(record, "run", "engine")
    return {f"{was}; replayed with {now}"} if was != now else set()
