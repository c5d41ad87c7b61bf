"""Evidence does not depend on the number of cores: processes that compute it use one thread of BLAS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = """
import json, sys
from {module} import main
code = main(sys.argv[1:])
import numpy, threadpoolctl
print(json.dumps([code, [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]]))
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("vfmalign.monitoring.local.__main__", ["missing"]), ("vfmalign.monitoring.__main__", [])],
    ids=["drift", "service"],
)
def test_programs_that_compute_evidence_use_one_thread(module: str, arguments: list[str], tmp_path: Path) -> None:
    # Both end at once: without a request, and with a database of another kind.
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "2",
        "VFMALIGN_DATABASE__URL": "mysql://localhost/x",
        "VFMALIGN_STATE_DIR": str(tmp_path),
        "VFMALIGN_AUTH__MODE": "off",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "VFMALIGN_BUCKET": "bucket",
    }
    command = [sys.executable, "-c", REPORT.format(module=module), *arguments]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    code, threads = json.loads(ended.stdout.splitlines()[-1])
    assert code == 2
    assert threads
    assert set(threads) == {1}
