"""Statistics of an experiment: rank correlations, claims, predictors and early prediction."""
