"""Whole tables explained: the shares of all posts in one pass, words and pixels of a few in a second one."""
