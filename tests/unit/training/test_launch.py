"""The launcher of one machine's processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.launcher import api

from vfmalign.finetuning.launchers.kubernetes.manifest import Options, manifest
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


def test_a_pod_of_a_job_takes_its_rank_from_the_job_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    template = {"template": {"spec": {"containers": [{"name": "training"}]}}}
    job = manifest(template, "j", 1, "s3://bucket/jobs/j/spec.json", Options(nodes=3, processes_per_node=2))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    parsed = launch._parse(job["spec"]["template"]["spec"]["containers"][0]["args"])
    assert (parsed.node_rank, parsed.nodes, parsed.processes) == (2, 3, 2)
