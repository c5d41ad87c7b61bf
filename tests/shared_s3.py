"""One S3 server for all workers of a test run.

An idle server costs two per cent of a core. The process that starts it is not a worker, because it ends before the
server does.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import subprocess
import sys
from pathlib import Path

from vfmalign.cli.local import s3_server
from vfmalign.cli.local.s3_server import S3Server


def start(folder: Path) -> S3Server:
    """Starts the server of a test run, unless another worker has. `process_guard` stops it.

    Args:
        folder: a folder that all workers share.
    """
    from tests.process_guard import get_shared_environment  # this file is a program as well, which cannot import it

    description = folder / "s3.json"
    with (folder / "s3.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not description.exists():
            subprocess.run([sys.executable, __file__, str(folder)], check=True, env=get_shared_environment())
    return S3Server(**json.loads(description.read_text()))


if __name__ == "__main__":
    shared = Path(sys.argv[1])
    _, server = s3_server.start(shared / "s3")
    (shared / "s3.json").write_text(json.dumps(dataclasses.asdict(server)))
