"""Fusion heads: everything after the two encoders."""

from cotune.fusion import attention, concat, reference, single  # noqa: F401 - they register themselves
from cotune.fusion.base import HEADS, FusionHead, make_head

__all__ = ["HEADS", "FusionHead", "make_head"]
