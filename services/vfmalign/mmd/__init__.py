"""Maximum mean discrepancy (MMD) between two samples of features, with its uncertainty.

    from vfmalign.mmd import mmd2, mmd_test

`engine` sums kernel matrices tile by tile. `single_pass` estimates MMD from streams that are read only once.
`statistics` computes estimates, p-values and intervals from the sums of kernel matrices. `comparison` compares samples
layer by layer. `api` contains the library functions, and `service` contains the gRPC service.
"""

from vfmalign.mmd.api import MmdResult, mmd2, mmd_test

__all__ = ["MmdResult", "mmd2", "mmd_test"]
