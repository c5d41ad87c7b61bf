"""`python -m tests.hostile`: sends every row and runs every attack, and prints tables in Markdown.

The first table has code, survival and memory of every row, the second one what the attacks do to a legitimate client.
`python -m tests.hostile attacks` runs the attacks alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.hostile import side_by_side
from tests.hostile.client import running_services, store_inputs
from tests.hostile.table import ROWS

from vfmalign.cli.local import s3_server
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore


def main() -> int:
    """Prints the tables; returns 1 where an answer is not the expected one, or an attack does harm."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("what", nargs="?", choices=["all", "attacks"], default="all", help="what to run (default: all)")
    what = parser.parse_args().what
    return int((send_rows() if what == "all" else 0) + side_by_side.print_all() > 0)


def send_rows() -> int:
    """Prints the table of rows; returns how many were not answered as expected, or by a service that then is away."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        process, server = s3_server.start(Path(folder) / "s3")
        try:
            keys = {"access_key": server.access_key, "secret_key": server.secret_key}
            store = ObjectStore(StoreSettings(bucket="hostile", endpoint=server.endpoint, **keys))
            store.ensure_bucket()
            inputs = store_inputs(store)
            environment = {**os.environ, **server.environment(), "VFMALIGN_BUCKET": "hostile"}
            with running_services(environment, Path(folder)) as services:
                services.create_monitor(inputs)
                print("| RPC | input | code | survives | memory, MiB | seconds |\n|---|---|---|---|---|---|")
                for row in ROWS:
                    answer = services.send(row, inputs)
                    survives = services.answers(row.rpc)
                    wrong = answer.code != row.code or row.names not in answer.text
                    failures += wrong or not survives
                    note = f" (expected {row.code}, {row.names})" if wrong else ""
                    numbers = f"{answer.growth_mib:.0f} | {answer.seconds:.2f}"
                    print(
                        f"| {row.rpc} | {row.name} | {answer.code}{note} | {'yes' if survives else 'NO'} | {numbers} |"
                    )
        finally:
            s3_server.stop(process.pid, grace_s=0)
            process.wait()
    return failures


if __name__ == "__main__":
    sys.exit(main())
