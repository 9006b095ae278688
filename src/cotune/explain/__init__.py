"""Why a run predicts what it predicts.

One post: :mod:`~cotune.explain.explainer` makes an :mod:`~cotune.explain.explanation` of it. The number that is
explained is a :mod:`~cotune.explain.target`; :mod:`~cotune.explain.words` (cut by :mod:`~cotune.explain.segments`)
and :mod:`~cotune.explain.pixels` take the post apart, and :mod:`~cotune.explain.faithfulness` measures how far
they are true to the model. A set of posts: :mod:`~cotune.explain.emap`. A whole posts table, streamed and
resumable: :mod:`~cotune.explain.table`.
"""
