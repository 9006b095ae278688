"""A package outside of cotune that adds one of each: a fusion head, a source of encoders, a benchmark method."""
