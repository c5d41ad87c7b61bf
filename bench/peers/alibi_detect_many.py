"""alibi-detect's permutation test on many small datasets (Business Source Licence: compared with, never depended on).

Run as `python -m bench.peers.alibi_detect_many datasets.npz p-values.npy permutations` by alibi-detect's environment.
"""

import sys

import numpy as np
import torch
from alibi_detect.cd import MMDDrift


def main() -> None:
    """One p-value per dataset: (1 + #)/(1 + B), as ours; alibi-detect itself reports #/B."""
    inputs, output, permutations = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(inputs, allow_pickle=False) as stored:
        x_SND, y_SMD, sigma_S = stored["x"], stored["y"], stored["sigma"]
    found = []
    for x_ND, y_MD, sigma in zip(x_SND, y_SMD, sigma_S, strict=True):
        detector = MMDDrift(x_ND, backend="pytorch", sigma=np.array([sigma]), n_permutations=permutations, device="cpu")
        at_least = round(float(detector.score(y_MD)[0]) * permutations)
        found.append((1 + at_least) / (1 + permutations))
    np.save(output, np.array(found))


if __name__ == "__main__":
    main()
