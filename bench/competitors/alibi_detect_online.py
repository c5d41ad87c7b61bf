"""alibi-detect's online MMD detector on many streams (Business Source Licence).

alibi-detect's interpreter runs `python -m bench.competitors.alibi_detect_online STREAMS.npz ALARMS.json RUN_LENGTH
WINDOW SEED`.
"""

import json
import sys

import numpy as np
import torch
from alibi_detect.cd import MMDDriftOnline


def main() -> None:
    """Writes the number of the row that alarms, from 1, of each stream of each reference; null without an alarm."""
    inputs, output, run_length, window, seed = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    alarms: list[list[int | None]] = []
    with np.load(inputs, allow_pickle=False) as stored:
        names = set(stored.files)
        while (name := f"reference-{len(alarms)}") in names:
            detector = MMDDriftOnline(
                stored[name],
                run_length,
                window,
                backend="pytorch",
                n_bootstraps=10 * run_length,  # it refuses fewer than the run length
                device="cpu",
                verbose=False,
            )
            found: list[int | None] = []
            while (stream := f"stream-{len(alarms)}-{len(found)}") in names:
                found.append(get_alarm(detector, stored[stream]))
            alarms.append(found)
    with open(output, "w") as file:
        json.dump(alarms, file)


def get_alarm(detector: MMDDriftOnline, rows_ND: np.ndarray) -> int | None:
    """Runs one stream from the detector's initial state."""
    detector.reset_state()
    for number, row_D in enumerate(rows_ND, start=1):
        if detector.predict(row_D, return_test_stat=False)["data"]["is_drift"]:
            return number
    return None


if __name__ == "__main__":
    main()
