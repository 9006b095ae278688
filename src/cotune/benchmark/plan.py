"""What is to be measured: the plan of a benchmark and the cells it falls into."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cotune.benchmark.methods import METHODS, Method
from cotune.data.published_folds import PublishedFolds
from cotune.data.splits import Protocol
from cotune.errors import ConfigError
from cotune.files import real_path
from cotune.settings import FitConfig

ANCHOR = "joint"
_SAFE = re.compile(r"[^A-Za-z0-9.]+")


@dataclass(frozen=True)
class Cell:
    """The smallest piece of work: one method, trained once, scored on one fold.

    Attributes
    ----------
    method : str
        Name of the method.
    text, image : str
        Names of the encoders; "" where the method uses none.
    fold : int
        The fold that is scored; all others are for training.
    seed : int
        Seed of the training.
    shots : int or None
        Training posts per class; None for all.
    draw : int
        Which draw of that many posts.
    """

    method: str
    text: str
    image: str
    fold: int
    seed: int
    shots: int | None = None
    draw: int = 0

    @property
    def key(self) -> str:
        """A name for the cell's file: readable, and unlike that of any other cell."""
        exact = hashlib.blake2b(f"{self.text}\0{self.image}".encode(), digest_size=3).hexdigest()
        names = [_SAFE.sub("_", short_name(name)) for name in (self.text, self.image) if name]
        size = "all" if self.shots is None else f"{self.shots}d{self.draw}"
        parts = [_SAFE.sub("_", self.method), *names, exact, f"fold{self.fold}", f"seed{self.seed}", size]
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """All that is to be measured; `fit` holds the settings of training.

    Attributes
    ----------
    methods : tuple of str
        Names out of :data:`~cotune.benchmark.methods.METHODS`.
    pairs : tuple of (str, str)
        Text and image encoders, as they are asked for.
    folds, protocol, fold_seed, group_by
        How posts are cut; see :func:`cotune.data.splits.make_folds`.
    published : PublishedFolds, optional
        The folds of the protocol "published", in which nothing is cut.
    seeds : tuple of int
        Seeds of training.
    shots : tuple of int or None
        Training posts per class; None stands for all.
    draws : int
        Draws of each size but all.
    clip : str, optional
        The dual encoder of the method ``clip``.
    emap : int
        Most posts of a fold for the additive projection; 0 for none.
    fit : FitConfig
        The settings of training.
    sanity : bool
        Shuffle the labels, to see whether a method sees those it is scored by.
    """

    methods: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    folds: int = 10
    protocol: Protocol = "grouped"
    fold_seed: int = 42
    group_by: tuple[str, ...] = ("text", "image")
    published: PublishedFolds | None = None
    seeds: tuple[int, ...] = (42,)
    shots: tuple[int | None, ...] = (None,)
    draws: int = 5
    clip: str | None = None
    emap: int = 1000
    fit: FitConfig = field(default_factory=FitConfig)
    sanity: bool = False

    def __post_init__(self) -> None:
        for name in self.methods:
            METHODS[name]  # an unknown one raises
        for what, values in (("method", self.methods), ("encoder pair", self.pairs), ("seed", self.seeds)):
            if not values:
                raise ConfigError(f"a benchmark needs at least one {what}")
        if (self.published is None) == (self.protocol == "published"):
            raise ConfigError("the protocol 'published' needs published folds, and no other takes them")
        if self.published is not None and self.folds != len(self.published.names):
            raise ConfigError(f"there are {len(self.published.names)} published folds, not {self.folds}")
        if self.draws < 1 or any(n is not None and n < 1 for n in self.shots):
            raise ConfigError("--shots and --draws take numbers of at least 1")
        if isinstance(self.fit.validation, str):
            raise ConfigError("a benchmark has no validation table of its own; give --validation a part such as 0.1")
        if self.fit.also:
            raise ConfigError("a benchmark trains on its own posts alone; leave `also` out of the settings")
        if self.fit.devices * self.fit.nodes > 1:
            raise ConfigError("a benchmark trains each cell on one device; --jobs computes several cells at once")
        self.specs()

    @property
    def runnable(self) -> tuple[str, ...]:
        """The methods that can be run, and what they need before them, in the registry's order."""
        wanted = set(self.methods) | {need for name in self.methods for need in METHODS[name].needs}
        return tuple(name for name in METHODS if name in wanted and not self._lacks(METHODS[name]))

    def not_run(self) -> dict[str, str]:
        """Return the methods that cannot be run, with the reason."""
        return {name: "needs --clip MODEL" for name in self.methods if self._lacks(METHODS[name])}

    def _lacks(self, method: Method) -> bool:
        return method.encoders == "clip" and self.clip is None

    def specs(self) -> dict[str, str]:
        """Map the names that encoders have in results to what they are asked for by.

        A local folder goes by its last part, so that results do not depend on where it lies.
        """
        found: dict[str, str] = {}
        for spec in dict.fromkeys(
            [*(spec for pair in self.pairs for spec in pair), *([self.clip] if self.clip else [])]
        ):
            name = encoder_name(spec)
            if found.setdefault(name, spec) != spec:
                raise ConfigError(f"{found[name]} and {spec} would both be called {name!r}; rename one of the folders")
        return found

    def encoders_of(self, cell: Cell) -> tuple[str, str]:
        """Return the specs of the pair of encoders (or twice the dual encoder) whose features a cell reads."""
        specs = self.specs()
        if METHODS[cell.method].encoders == "clip":
            return specs[cell.text], specs[cell.image]
        for text, image in self.pairs:
            if cell.text in ("", encoder_name(text)) and cell.image in ("", encoder_name(image)):
                return text, image
        raise KeyError(cell.key)

    def cell(self, method: str, pair: tuple[str, str], fold: int, seed: int, shots: int | None, draw: int) -> Cell:
        """Return the cell of a method; encoders that it does not use do not tell cells apart."""
        recipe = METHODS[method]
        if recipe.encoders == "clip":
            pair = (self.clip or "", self.clip or "")
        text, image = (
            encoder_name(spec) if name in recipe.uses else ""
            for name, spec in zip(("text", "image"), pair, strict=True)
        )
        return Cell(method, text, image, fold, seed, shots, draw)

    def needs(self, cell: Cell) -> list[Cell]:
        """Return the cells whose predictions `cell` combines."""
        pair = self.encoders_of(cell)
        return [
            self.cell(name, pair, cell.fold, cell.seed, cell.shots, cell.draw) for name in METHODS[cell.method].needs
        ]

    def cells(self) -> list[Cell]:
        """Return all cells, each once: encoders outermost, so that what is computed of them is used up."""
        found: Iterator[Cell] = (
            self.cell(method, pair, fold, seed, shots, draw)
            for pair in self.pairs
            for seed in self.seeds
            for shots in sorted(self.shots, key=lambda n: (n is not None, n or 0))  # the main table first
            for draw in range(1 if shots is None else self.draws)
            for fold in range(self.folds)
            for method in self.runnable
        )
        # Dual-encoder cells last, or features would be opened again for each of them.
        return sorted(dict.fromkeys(found), key=lambda cell: METHODS[cell.method].encoders == "clip")


def encoder_name(spec: str) -> str:
    """Return what an encoder is called in results: its spec, or the last part of a folder."""
    folder = Path(spec).expanduser()
    return real_path(folder).name if folder.is_dir() else spec


def short_name(name: str) -> str:
    """Return an encoder's name without prefix and owner."""
    return name.split(":")[-1].rstrip("/").split("/")[-1]


def parse_shots(words: Iterable[str]) -> tuple[int | None, ...]:
    """Read ``8,16,all``.

    Raises
    ------
    ConfigError
        If a word is neither a number nor ``all``.
    """
    found: list[int | None] = []
    for word in words:
        if word != "all" and not word.isdigit():
            raise ConfigError(f"--shots takes numbers and `all`, not {word!r}")
        found.append(None if word == "all" else int(word))
    if not found:
        raise ConfigError("--shots is empty; give numbers of posts per class, or `all`")
    numbers = sorted({n for n in found if n is not None})
    return (*numbers, *([None] if None in found else []))
