"""MMD: how far two samples of features lie apart, with the uncertainty of that number.

    from vfmalign.mmd import mmd2, mmd_test

A tour: `kernels` and `rows` → `engine` (tiles to sums, on the `backends`) → `estimators` and `designs` (sums to
statistics) → `uncertainty` → `compare` (one call for all layers). `measures` holds what may stand beside MMD². `api` is
the library's face; `sources`, `servicer` and `settings` put the same engine behind gRPC.
"""

from vfmalign.mmd.api import MmdResult, mmd2, mmd_test

__all__ = ["MmdResult", "mmd2", "mmd_test"]
