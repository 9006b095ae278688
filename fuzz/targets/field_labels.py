"""Cells of labels, of posts and of their fields: read, and made into a task and its targets."""

from __future__ import annotations

from pathlib import Path

from cotune.data.posts import read_posts
from cotune.settings import FitConfig
from cotune.tasks import task_of_posts

WORDS = ("|", "||", "1.0", "nan", "inf", "1e308", "-0", "\n", ",", '"', "x", "y", "\u0130", "\u200b", "0x1", "1_000")
_HEADERS = (b"text,label\n", b"text,label,label:text,label:image\n", b"text,label,label:text:1,label:text:2\n",
            b"label,label:image,label:text,text\n")  # fmt: skip
_TASKS = ("auto", "single-label", "multi-label", "regression", "annotated")


def seeds() -> list[bytes]:
    """Return rows; the first two bytes choose columns and task."""
    return [
        b"00a,x\nb,y\nc,x\n", b"00a,x|y\nb,|\nc,y\n", b"00a,1.5\nb,2\nc,-3e4\n", b"10a,x,x,y\nb,y,y,x\nc,,x,x\n",
        b"24a,x,x,y\nb,y,y,\nc,y,,\n", b"01a,1.0\nb,2.0\n", b"34x,x,y,a\ny,y,y,b\n", b"03a,1\nb,0.25\n",
    ]  # fmt: skip


def read(data: bytes, folder: Path) -> None:
    """Learn the task, encode the labels and decode them again."""
    choice, rows = data[:2].ljust(2, b"0"), data[2:]
    path = folder / "posts.csv"
    path.write_bytes(_HEADERS[choice[0] % len(_HEADERS)] + rows)
    posts = read_posts(path)
    config = FitConfig(task=_TASKS[choice[1] % len(_TASKS)])
    labelled = posts[posts["label"].notna()]
    task = task_of_posts(labelled if len(labelled) else posts, config)
    task.encode([label for label in labelled["label"] if task.problem(label) is None])
