"""Errors of settings at the start of a service are one sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("service", ["finetuning", "monitoring"])
def test_a_state_folder_that_cannot_be_created_is_an_error_of_settings(service, tmp_path):
    (tmp_path / "file").write_text("")
    environment = os.environ | {
        "VFMALIGN_STATE_DIR": str(tmp_path / "file" / "state"),
        "VFMALIGN_AUTH__MODE": "off",
        "VFMALIGN_FEATURES_ADDRESS": "127.0.0.1:9",
        "VFMALIGN_MMD_ADDRESS": "127.0.0.1:9",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    command = [sys.executable, "-m", f"vfmalign.{service}"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "VFMALIGN_STATE_DIR: the folder" in ended.stderr
    assert "Traceback" not in ended.stderr
