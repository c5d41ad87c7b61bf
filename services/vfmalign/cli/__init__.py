"""`vfmalign`: the local stack, checks, reports and doctor."""
