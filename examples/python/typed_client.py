"""The first request with vfmalign's own client."""

import numpy as np

from vfmalign.client import Client, ComputeOptions, Kernel, TestOptions
from vfmalign.core.domain.errors import VfmalignError

x = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)  # four rows (cases) of two channels
y = np.array([[2, 0], [3, 0], [2, 1], [3, 1]], np.float32)
options = ComputeOptions(
    pairing="independent",
    kernel=Kernel(fixed_sigma=1.0),
    test=TestOptions(permutations=99, seed=1),
)

with Client() as client:  # address and token come from the two variables
    response = client.mmd.compute(x, y, options, timeout_s=30)
    print("MMD²", response.layers[0].raw.mmd2.value)
    print("p", response.layers[0].raw.p_value.value)

    try:
        client.mmd.compute("some-feature-set", y, options)
    except VfmalignError as error:
        print(error.reason, "|", error.subject, "|", error.remedy)
