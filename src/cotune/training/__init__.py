"""Training: the probe, joint fine-tuning, and what is computed once for both."""
