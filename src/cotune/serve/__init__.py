"""A service over HTTP: predictions and explanations of posts that clients send.

A leaf: nothing but the command line imports it. It needs the extra ``serve``.
"""
