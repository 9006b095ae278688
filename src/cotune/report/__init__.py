"""Everything that a person looks at.

Two floors. Below, what shows plain values and knows no run: :mod:`~cotune.report.numbers`,
:mod:`~cotune.report.pages` (the one Jinja environment), :mod:`~cotune.report.charts`,
:mod:`~cotune.report.terminal` (tables), :mod:`~cotune.report.data_report`, :mod:`~cotune.report.explanation` with its
:mod:`~cotune.report.overlay`, and :mod:`~cotune.report.model_card`. Above, the pages of a whole thing:
:mod:`~cotune.report.run_report`, :mod:`~cotune.report.benchmark_report` with its
:mod:`~cotune.report.benchmark_figures`, and :mod:`~cotune.report.explain_report`.
"""
