"""What a service's process must not load before it needs it: each of these takes seconds of a start."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("service", "unwanted"),
    [
        ("features", ["matplotlib", "monai", "scipy.stats", "timm"]),
        ("finetuning", ["kubernetes", "matplotlib", "scipy.stats", "torch"]),
        ("mmd", ["matplotlib", "monai", "scipy.stats", "triton"]),
    ],
)
def test_a_service_starts_without_what_only_some_work_needs(service, unwanted):
    code = f"import sys, vfmalign.{service}.__main__; print(*sorted(sys.modules.keys() & set({unwanted})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
