"""alibi-detect's permutation test on many small datasets (Business Source Licence).

alibi-detect's interpreter runs `python -m bench.competitors.alibi_detect_many DATASETS.npz P_VALUES.npy PERMUTATIONS`.
"""

import sys

import numpy as np
import torch
from alibi_detect.cd import MMDDrift


def main() -> None:
    """Writes one p-value per dataset: (1 + #)/(1 + B), as vfmalign does; alibi-detect itself reports #/B."""
    inputs, output, permutations = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(inputs, allow_pickle=False) as stored:
        x_SND, y_SMD, sigma_S = stored["x"], stored["y"], stored["sigma"]
    p_values = []
    for x_ND, y_MD, sigma in zip(x_SND, y_SMD, sigma_S, strict=True):
        detector = MMDDrift(x_ND, backend="pytorch", sigma=np.array([sigma]), n_permutations=permutations, device="cpu")
        at_least = round(float(detector.score(y_MD)[0]) * permutations)
        p_values.append((1 + at_least) / (1 + permutations))
    np.save(output, np.array(p_values))


if __name__ == "__main__":
    main()
