"""Tasks: what a target is, one module for each."""

from cotune.tasks import single_label  # noqa: F401 - it registers itself
from cotune.tasks.base import TASKS, Task, Watched
from cotune.tasks.choose import make_task, restore_task

__all__ = ["TASKS", "Task", "Watched", "make_task", "restore_task"]
