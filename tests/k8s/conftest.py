"""Skip the tests of the manifests without kubectl, which renders them; `make k8s-check` fails instead."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(autouse=True)
def _kubectl() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
