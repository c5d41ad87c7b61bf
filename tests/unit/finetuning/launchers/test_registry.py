"""Which launcher the settings name, and whether it stops its jobs."""

from __future__ import annotations

from typing import get_args

import pytest

from vfmalign.finetuning.launchers.registry import LAUNCHERS
from vfmalign.finetuning.settings import LauncherSettings


def test_every_kind_has_a_launcher() -> None:
    assert set(LAUNCHERS) == set(get_args(LauncherSettings.model_fields["kind"].annotation))


@pytest.mark.parametrize(
    ("fields", "stops"),
    [
        ({"kind": "local"}, True),
        ({"kind": "kubernetes"}, False),
        ({"kind": "local", "stop_jobs": False}, False),
        ({"kind": "kubernetes", "stop_jobs": True}, True),
    ],
)
def test_jobs_of_a_cluster_outlive_the_service(fields: dict, stops: bool) -> None:
    assert LauncherSettings(**fields).stops_jobs is stops


@pytest.mark.parametrize("field", ["namespace", "pod_template", "queue"])
def test_names_are_those_of_kubernetes(field: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        LauncherSettings(**{field: "Not_A_Name"})
