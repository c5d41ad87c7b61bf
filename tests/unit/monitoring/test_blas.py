"""Evidence does not depend on the number of cores: processes that compute it use one thread of BLAS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPORT = """
import json
from vfmalign.monitoring.__main__ import main
code = main([])
import numpy, threadpoolctl
print(json.dumps([code, [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]]))
"""


def test_the_service_computes_evidence_in_one_thread(tmp_path: Path) -> None:
    # It ends at once, because its database is of another kind.
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
    command = [sys.executable, "-c", REPORT]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    code, threads = json.loads(ended.stdout.splitlines()[-1])
    assert code == 2
    assert threads
    assert set(threads) == {1}
