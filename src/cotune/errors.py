"""Errors that speak to the user.

Everything a user can fix is a :class:`CotuneError`: the command line prints its message on one line and
leaves with exit code 2, without a traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice


class CotuneError(Exception):
    """Base of every error that a user can fix; its text says what is wrong, where, and what to do."""


class DataError(CotuneError):
    """A posts table, label or raw data set that cannot be used as it stands."""


class NoPostsError(DataError):
    """A table without rows, or without any that is asked for."""


class LabelError(DataError):
    """A label that a task cannot read.

    Parameters
    ----------
    label : str
        The label.
    problem : str
        What is wrong, as the rest of "the label ...".
    """

    def __init__(self, label: str, problem: str) -> None:
        super().__init__(f"the label {clip(label)!r} {problem}")
        self.label = label
        self.problem = problem

    def __reduce__(self) -> tuple[type[LabelError], tuple[str, str]]:
        """Let the error travel from a worker process."""
        return type(self), (self.label, self.problem)


class ConfigError(CotuneError):
    """A setting that does not exist or has a value out of range."""


class EncoderError(CotuneError):
    """An encoder that cannot be found, opened or trusted."""


class RunError(CotuneError):
    """A run folder that is missing, incomplete or made for other data."""


class HubError(CotuneError):
    """A repository of the model hub that is not there, may not be used, or cannot be reached."""


class ExportError(CotuneError):
    """A model that cannot be exported, or an export that cannot be opened."""


def did_you_mean(word: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return `` (did you mean 'x' or 'y'?)`` for the names nearest to `word`, or an empty string.

    Parameters
    ----------
    word : str
        What the user wrote.
    known : iterable of str
        The names that exist.
    most : int
        How many names to offer at the most.
    """
    # Comparing is slow, and a table may have any number of columns, of any length.
    others = [name for name in islice(dict.fromkeys(known), 1_000) if name != word and len(name) <= 200]
    near = difflib.get_close_matches(word[:200], others, n=most, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(clip(name, 60)) for name in near)}?)" if near else ""


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of an error's message, or its type where it has none, for messages of ours."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__


def clip(text: str, most: int = 200) -> str:
    """Return `text` shortened in the middle to `most` characters, for cells and names in messages."""
    if len(text) <= most:
        return text
    head = (most - 3) // 2
    return f"{text[:head]}...{text[len(text) - (most - 3 - head) :]}"


def listed(names: Iterable[object], *, most: int = 10, quote: bool = False) -> str:
    """Return the first `most` names on one line, each shortened, and how many more there are.

    Parameters
    ----------
    names : iterable
        What to list.
    most : int
        How many to show.
    quote : bool
        Whether to put quotes around each, for names that may hold spaces or look alike.
    """
    every = [str(name) for name in names]
    shown = [repr(clip(name, 60)) if quote else clip(name, 60) for name in every[:most]]
    return ", ".join(shown) + (f" and {len(every) - most:,} more" if len(every) > most else "")


@contextmanager
def python_words(settings: Collection[str]) -> Iterator[None]:
    """Name the arguments of Python, rather than flags, in errors that leave the block.

    Parameters
    ----------
    settings : collection of str
        The arguments that there are; other flags stay as they are.
    """
    try:
        yield
    except CotuneError as error:
        plain = re.sub(r"[;,] (or )?name it with --[a-z]+-column", "", str(error))
        error.args = (re.sub(r"--([a-z][a-z-]*[a-z])", lambda flag: _argument(flag, settings), plain), *error.args[1:])
        raise


def _argument(flag: re.Match[str], settings: Collection[str]) -> str:
    name = flag.group(1).replace("-", "_")
    return f"`{name}`" if name in settings else flag.group()
