"""Tasks: what a target is, one module for each."""

from cotune.tasks import annotated, multi_label, regression, single_label  # noqa: F401 - they register themselves
from cotune.tasks.base import TASKS, Task, Watched
from cotune.tasks.choose import make_task, restore_task, task_of_posts

__all__ = ["TASKS", "Task", "Watched", "make_task", "restore_task", "task_of_posts"]
