"""Statistics of an experiment: rank correlations, claims and predictors."""
