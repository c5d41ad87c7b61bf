"""Services do not import slow packages at startup that only some requests need."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("service", "deferred"),
    [
        ("features", ["matplotlib", "monai", "scipy.stats"]),
        ("finetuning", ["kubernetes", "matplotlib", "scipy.optimize", "scipy.stats", "torch"]),
        ("mmd", ["matplotlib", "monai", "scipy.stats", "triton"]),
        ("monitoring", ["kubernetes", "matplotlib", "scipy", "torch"]),
    ],
)
def test_a_service_starts_without_deferred_imports(service, deferred):
    code = f"import sys, vfmalign.{service}.__main__; print(*sorted(sys.modules.keys() & set({deferred})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
