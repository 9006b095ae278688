"""A package outside of cotune that adds one of each: head, source, task, kind of field, benchmark method."""
