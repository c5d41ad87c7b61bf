"""The launcher of one machine's processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.launcher import api

from vfmalign.training import launch


def test_the_launcher_leaves_no_folder_when_it_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process_as_before: None
) -> None:
    folders: list[list[str]] = []

    def start_processes(config: Any, _: str) -> Any:
        config.logs_specs.reify({0: {}, 1: {}})
        return lambda *_: folders.append(os.listdir(tmp_path))

    monkeypatch.setattr(api, "elastic_launch", start_processes)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("VFMALIGN_BUCKET", "bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert launch.main(["--processes", "2", "s3://bucket/jobs/j/spec.json"]) == 0
    assert folders == [[]]
