"""Eight cases of a brain dataset."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.imaging.datasets.brain_files import Files, load_cases, make_case


@pytest.fixture(scope="session")
def brain_cases(shared_folder: Path) -> list[Files]:
    """Eight cases, real ones where they are on this machine."""
    return load_cases(shared_folder)


@pytest.fixture(scope="session")
def made_cases() -> list[Files]:
    """Four small synthetic cases."""
    return [make_case(number) for number in range(4)]


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Modes of files apply to the test, also if root runs it."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # see capget(2)
    assert libc.capget(header, capabilities) == 0
    effective = capabilities[0]
    capabilities[0] = effective & ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, capabilities) == 0
    yield
    capabilities[0] = effective
    assert libc.capset(header, capabilities) == 0
