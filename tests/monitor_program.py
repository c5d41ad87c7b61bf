"""Create a monitor, tell it what was observed, and print what it shows: runs where a client of a deployment runs.

`PROGRAM` is for `python -c` in a container of the command line, whose environment has the addresses and the token. Its
arguments are the monitor, the feature set of its reference, the one that it observes, and how many rows of that.
"""

from __future__ import annotations

from typing import Any

ROWS, EARLY_ROWS, REFERENCE_PATIENTS = 20, 8, 60
"""Rows of a whole run, those before something is disturbed, and the smallest reference that a monitor takes."""
SIZES = {"pretrain": 0, "train": REFERENCE_PATIENTS, "val": 0, "test": ROWS}
COUNTS = tuple(word for split, cases in SIZES.items() for word in ("--cases", f"{split}={cases}"))
"""Cases of a dataset of phantoms whose split train is the reference, and whose split test is observed."""
PROGRAM = """
import json, sys, time
from vfmalign.client import Client, MonitorReference, MonitorSpec
from vfmalign.client.messages.monitors import FeatureSetRows

name, reference, observed, rows = *sys.argv[1:4], int(sys.argv[4])
with Client(wait_for_ready=True) as client:
    spec = MonitorSpec(reference=MonitorReference(feature_set_id=reference), window_rows=16)
    client.monitors.create(name, spec)
    results = client.monitors.observe_feature_set(name, FeatureSetRows(feature_set_id=observed, rows=rows))
    deadline, windows = time.monotonic() + 120, []
    while not windows and time.monotonic() < deadline:
        time.sleep(1)
        shown = client.monitors.get(name)
        windows = [one.mmd2.value for one in shown.windowed_shifts if one.last_row == rows]
    print(json.dumps({
        "duplicates": sum(one.duplicate for one in results),
        "entered": shown.outcomes.get("entered", 0),
        "components": [one.to_json_dict() for one in shown.components],
        "mmd2": windows,
    }))
"""


def check_undisturbed(disturbed: Any, whole: Any) -> None:
    """Asserts that a monitor shows the same as one whose deployment was not disturbed, and that `mmd` compared windows.

    Args:
        disturbed: what `PROGRAM` printed for all rows, after it was run for the first ones.
        whole: what it printed for another monitor with all rows at once.
    """
    assert disturbed["duplicates"] == EARLY_ROWS, "observations that were recorded are recorded once"
    assert whole["duplicates"] == 0
    assert disturbed["entered"] == whole["entered"] == ROWS
    assert disturbed["components"] == whole["components"] != []
    assert disturbed["mmd2"] == whole["mmd2"] != []
