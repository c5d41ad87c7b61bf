"""One small module per competitor, run in the competitor's own environment by `bench.worker`.

Every function takes the samples as numpy arrays (n, d) and (m, d) and returns the value, or a dict with `value` and
further results. σ is that of exp(−‖x−y‖² / 2σ²).
"""
