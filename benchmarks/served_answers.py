"""A client that knows the right answers of a service, and asks while it is killed."""

from __future__ import annotations

import base64
import csv
import http.client
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POSTS = 6
#: How far a number may be from the right one: posts that are scored together are rounded otherwise.
_TOLERANCE = 1e-5
_START = 120.0


@dataclass(frozen=True)
class Client:
    """Asks the service that writes `log`.

    Attributes
    ----------
    log : Path
        What the service prints, its address among it.
    inputs : Path
        Folder with ``posts.csv``.
    right : dict, optional
        The right answers, by what is asked.
    """

    log: Path
    inputs: Path
    right: dict[str, Any] | None = None

    @property
    def stop(self) -> Path:
        """The file that ends the asking."""
        return self.log.with_suffix(".stop")

    def right_answers(self) -> dict[str, Any]:
        """Return the answers to everything that may be asked.

        Raises
        ------
        RuntimeError
            If there is none.
        """
        address = self._address(_START)
        if address is None:
            raise RuntimeError(f"the service does not start: {self.log.read_text()[-2000:]}")
        found = {}
        for what in self._questions():
            for _ in range(100):
                answer = self._ask(address, what)
                if isinstance(answer, dict):
                    break
                time.sleep(0.05)
            if not isinstance(answer, dict):
                raise RuntimeError(f"{what}: {answer}")
            found[what] = answer
        return found

    def ask_until_stopped(self, seed: int) -> dict[str, Any]:
        """Ask at random until the file `stop` appears; return the numbers of answers by kind, and what was wrong."""
        dice, answers, wrong = random.Random(seed), {"right": 0, "error": 0, "closed": 0}, []
        questions = self._questions()
        assert self.right is not None
        address = None
        while not self.stop.exists():
            address = address or self._address(0)
            if address is None:
                time.sleep(0.005)
                continue
            what = dice.choice(questions)
            answer = self._ask(address, what)
            if not isinstance(answer, dict):
                answers["closed" if answer == "closed" else "error"] += 1
                time.sleep(0.01)
            elif problem := differing(answer, self.right[what], what):
                wrong.append(problem)
            else:
                answers["right"] += 1
        return {"answers": answers, "wrong": wrong}

    def differing(self, found: dict[str, Any], right: dict[str, Any]) -> list[str]:
        """Return what differs between two sets of answers."""
        return [problem for what in right if (problem := differing(found[what], right[what], what))]

    def _address(self, seconds: float) -> tuple[str, int] | None:
        until = time.monotonic() + seconds
        while True:
            text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
            for line in text.splitlines():
                if '"event": "serving"' in line and line.endswith("}"):
                    host, _, port = json.loads(line)["url"].removeprefix("http://").partition(":")
                    return host, int(port)
            if time.monotonic() >= until:
                return None
            time.sleep(0.02)

    def _questions(self) -> list[str]:
        """Return what may be asked: each post alone, and all of them."""
        return [*map(str, range(_POSTS)), "all", "explain"]

    def _ask(self, address: tuple[str, int], what: str) -> dict[str, Any] | str:
        """Return the answer, the status of an error, or that the connection was closed."""
        posts = self._posts()
        asked = posts if what == "all" else posts[:1] if what == "explain" else [posts[int(what)]]
        place = "/v1/explain" if what == "explain" else "/v1/predict"
        connection = http.client.HTTPConnection(*address, timeout=60)
        try:
            connection.request("POST", place, json.dumps({"posts": asked}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if what == "explain" and answer.status == 409:  # an export has no explanations
                return {"explained": "an export"}
            if answer.status != 200:
                return str(answer.status)
            return dict(json.loads(content))
        except (OSError, http.client.HTTPException):
            return "closed"
        finally:
            connection.close()

    def _posts(self) -> list[dict[str, Any]]:
        with (self.inputs / "posts.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for _, row in zip(range(_POSTS), csv.DictReader(file), strict=False)]
        return [
            {
                "id": row["id"],
                "fields": {
                    "text": row["text"],
                    "image": base64.b64encode((self.inputs / row["image"]).read_bytes()).decode(),
                },
            }
            for row in rows
        ]


def differing(found: Any, right: Any, where: str) -> str:
    """Return the first place where an answer is not the right one; nothing if there is none."""
    if isinstance(right, float) and isinstance(found, int | float):
        return "" if abs(found - right) <= _TOLERANCE else f"{where} is {found}, not {right}"
    if isinstance(right, dict) and isinstance(found, dict):
        if found.keys() != right.keys():
            return f"{where} has {sorted(found)}"
        keys = [key for key in right if key not in ("request_id", "overlays")]
        return next((text for key in keys if (text := differing(found[key], right[key], f"{where}.{key}"))), "")
    if isinstance(right, list) and isinstance(found, list):
        if len(found) != len(right):
            return f"{where} has {len(found)} entries, not {len(right)}"
        pairs = enumerate(zip(found, right, strict=True))
        return next((text for i, (a, b) in pairs if (text := differing(a, b, f"{where}.{i}"))), "")
    return "" if found == right else f"{where} is {found!r}, not {right!r}"
