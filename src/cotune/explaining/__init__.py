"""Explanations of posts: one at a time, or a whole table."""
