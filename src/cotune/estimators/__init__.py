"""The model as scikit-learn knows models: a classifier and a regressor."""
