"""Fusion heads: everything after the encoders."""

from cotune.heads import attention, concat, reference, single  # noqa: F401 - they register themselves
from cotune.heads.base import HEADS, Embeddings, FusionHead, make_head

__all__ = ["HEADS", "Embeddings", "FusionHead", "make_head"]
