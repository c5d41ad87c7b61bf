"""Studies: models × tasks × seeds as one question, each cell an alignment check."""
