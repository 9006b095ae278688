"""Posts, images, folds, quality checks and importers of raw data sets."""
