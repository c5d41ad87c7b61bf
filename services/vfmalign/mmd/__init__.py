"""Maximum mean discrepancy (MMD) between two samples of features, with its uncertainty.

    from vfmalign.mmd import mmd2, mmd_test

`engine` sums kernel matrices tile by tile, and `single_pass` reads streams once. `statistics` turns sums into
estimates, p-values and intervals. `comparison` combines them over layers, `api` offers the library functions above, and
`service` the gRPC service.
"""

from vfmalign.mmd.api import MmdResult, mmd2, mmd_test

__all__ = ["MmdResult", "mmd2", "mmd_test"]
