"""Raw data sets turned into posts tables."""
