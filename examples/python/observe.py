"""Creates a drift monitor, lets it observe one study after another, and reads its alarm.

usage: observe.py MONITOR REFERENCE < studies.jsonl
A line is a study: {"id": "o-17", "group": "9f86d081", "features": [0.12, -1.3]}
"""

import json
import sys

import numpy as np

from vfmalign.client import Client, MonitorReference, MonitorSpec, Observation, ObservedStudy

monitor_id, reference = sys.argv[1:]
spec = MonitorSpec(reference=MonitorReference(feature_set_id=reference), alpha=0.05)

with Client() as client:  # address and token come from two variables
    monitor = client.monitors.create(monitor_id, spec)  # the same call again returns the same monitor
    for line in sys.stdin:
        study = json.loads(line)
        observation = Observation(
            ObservedStudy(observation_id=study["id"], group=study["group"]),
            {monitor.spec.layer: np.array(study["features"], np.float32)},
        )
        # These lines do not say which weights produced them, so this program says it: those of the monitor.
        # Where Extract produced them, pass the digests of its response, and another model is refused.
        (result,) = client.monitors.observe(monitor_id, [observation], monitor.origin)
        if result.raised_alarm:
            print("alarm at row", result.row, "of epoch", result.epoch)

    monitor = client.monitors.get(monitor_id)
    print("outcomes", json.dumps(monitor.outcomes, sort_keys=True))
    for one in monitor.components:  # the evidence is absent while the statistic is 0
        print(one.component, one.log_evidence, "of", one.log_threshold)
    print("alarm", "none" if monitor.epoch.alarm is None else monitor.epoch.alarm.observation_id)
