"""The demo: posts that ship with the package, and a small experiment on them.

:mod:`~cotune.demo.posts` reads the posts of the folder ``data``; :mod:`~cotune.demo.experiment` is what
``cotune demo`` runs.
"""

from cotune.demo.posts import demo_posts_path, read_demo_posts

__all__ = ["demo_posts_path", "read_demo_posts"]
