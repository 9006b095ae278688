"""Posts, pictures, folds, quality checks and importers of raw data sets."""
