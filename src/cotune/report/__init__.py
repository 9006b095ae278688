"""Reports of runs and evaluations: one self-contained HTML page, readable on any screen."""
