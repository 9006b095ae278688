"""Acting on predictions with a known error: a policy, thresholds with their bounds, routes, and a record of each."""
