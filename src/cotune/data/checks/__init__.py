"""What is wrong with a posts table, and what to do about it."""
