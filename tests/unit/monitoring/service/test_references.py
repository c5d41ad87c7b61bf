"""The largest reference fits into the memory of a pod, beside the states of monitors."""

from __future__ import annotations

from pathlib import Path

import yaml

from vfmalign.monitoring.service.references import MAX_REFERENCE_BYTES
from vfmalign.monitoring.service.states import READERS
from vfmalign.monitoring.settings import MonitoringOptions

MANIFEST = Path(__file__).resolve().parents[4] / "k8s/base/services/monitoring.yaml"
PREPARING = 9
"""Bytes that preparing a reference takes for each byte of its rows."""
LEADER = 2
"""The same of references of the leader: those that it keeps, and one that it reads."""

READING_BYTES = 3 * 8 * 20_000 * 1024
"""The same of reading a state of 1,024 channels: its bytes, its arrays, and room of the allocator."""


def test_the_largest_reference_fits_beside_the_states_of_monitors() -> None:
    (deployment,) = (one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    reading = max(READING_BYTES, PREPARING * MAX_REFERENCE_BYTES)  # or making a state of an earlier version anew
    taken = MonitoringOptions().memory_bytes + (PREPARING + LEADER) * MAX_REFERENCE_BYTES + READERS * reading
    assert taken <= int(limit[:-2]) * 2**30
