"""Tables of every kind read into records: their cells, and the errors of their rows."""
