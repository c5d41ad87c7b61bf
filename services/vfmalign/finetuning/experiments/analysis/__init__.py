"""Statistics of an experiment: rank correlations, claims, predictors, early prediction and bootstrap."""
