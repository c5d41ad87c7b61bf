"""One small module per peer, run in the peer's own environment by `bench.worker`.

Every function takes the samples as numpy arrays (n, d) and (m, d) and returns the value, or a dict with `value` and
what else there is to print. σ is that of exp(−‖x−y‖² / 2σ²).
"""
