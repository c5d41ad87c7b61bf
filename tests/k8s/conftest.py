"""Without kubectl nothing can be rendered; `make k8s-check` refuses to begin, every other run skips."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(autouse=True)
def _kubectl() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not there")
