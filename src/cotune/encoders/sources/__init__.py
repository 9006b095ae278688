"""Where encoders come from: one module for each source, and the registry that knows them by their prefix."""

from cotune.encoders.sources import bundled, clip, folder, hf, table, timm  # noqa: F401 - they register themselves
from cotune.encoders.sources.base import OFFLINE, SOURCES, ReadyEncoder, Source, Wanted, first_line

__all__ = ["OFFLINE", "SOURCES", "ReadyEncoder", "Source", "Wanted", "first_line"]
