"""Runs on the model hub: pushed as ``OWNER/NAME``, used as ``hf:OWNER/NAME``."""
