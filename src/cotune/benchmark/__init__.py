"""The paper's experiment on any posts: methods, folds, paired tests, learning curves, grids of encoders."""

from cotune.benchmark.compare import Summary, summarise
from cotune.benchmark.methods import METHODS, Method, Outcome, Trial
from cotune.benchmark.plan import Cell, Plan
from cotune.benchmark.results import Results, read_results
from cotune.benchmark.runner import Session, Watcher, run_plan

__all__ = [
    "METHODS", "Cell", "Method", "Outcome", "Plan", "Results", "Session", "Summary", "Trial", "Watcher",
    "read_results", "run_plan", "summarise",
]  # fmt: skip
