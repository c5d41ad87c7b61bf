"""The page of a drift monitor, drawn from one document."""
