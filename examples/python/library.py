"""The first number without a service."""

import numpy as np

from vfmalign.mmd import mmd_test

x = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)  # four rows (cases) of two channels
y = np.array([[2, 0], [3, 0], [2, 1], [3, 1]], np.float32)

result = mmd_test(x, y, pairing="independent", sigma=1.0, permutations=99, seed=1)
print("MMD²", result.mmd2)
print("p", result.p_value)
