"""The process of one method, as the benchmark talks to it."""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack
from pathlib import Path

import pytest
from bench import process
from bench.environments import VFMALIGN
from bench.process import MethodProcess

SELECT_LIMIT = 1024
"""Descriptors that `select` can wait for."""


def test_answers_are_read_where_many_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HOME", tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * SELECT_LIMIT:
        pytest.skip("this machine allows too few open files")
    call = {"module": "worker", "function": "resident_bytes", "arguments": {}}
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * SELECT_LIMIT, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) < SELECT_LIMIT:
            stack.callback(os.close, descriptor)
        stack.callback(os.close, descriptor)
        method = MethodProcess("method", VFMALIGN, call, (), threads=1, memory_bytes=0, start_limit_s=60)
        stack.callback(method.close)
        assert method.call(60)["value"] > 0
