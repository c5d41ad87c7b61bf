"""`python -m vfmalign.training SPEC_URI`: runs one job in this process.

Exit codes: 0 done, 2 bad spec, 3 bad data, 75 try again later, 143 stopped on request with its state stored, 1 a fault
of ours (the trace is in the log). `vfmalign.training.launch` starts several processes for one job.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from vfmalign.core.domain.errors import DONE, Internal, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.settings import load, parser
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.training import failures
from vfmalign.training.settings import TrainingSettings, read_spec

_log = logs.get(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job of the spec at a URI; returns the exit code."""
    arguments = parser("training", TrainingSettings, (__doc__ or "").strip())
    arguments.add_argument("spec_uri", help="s3://BUCKET/jobs/ID/spec.json")
    uri: str = arguments.parse_args(argv).spec_uri
    settings = load(TrainingSettings)
    logs.configure("training", settings.log)
    stop = ShutdownRequest()
    stop.listen()
    # Read when torch is imported. Without the first some products on a GPU are not deterministic; without the second
    # OpenMP's threads spin while they wait, and jobs that share their cores slow each other down several times over.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    store = ObjectStore(settings.store)
    try:
        spec = read_spec(store, uri)
        # torch and monai take seconds to import: not for --help, nor before the signals are taken. Python's collector
        # would make a quarter of them, in search of garbage that imports do not leave.
        gc.disable()
        from vfmalign.training.job import run_job
        from vfmalign.training.processes import joined

        gc.enable()
        with joined(settings.training.device) as processes:
            if processes.size > 1:
                logs.bind(rank=processes.rank)
            run_job(store, spec, settings.training, stop, processes)
    except VfmalignError as error:
        _log.warning("job_stopped", error=str(error), reason=error.reason)
        return failures.report(store, uri, error)
    except Exception:
        _log.exception("job_crashed")
        return failures.report(store, uri, Internal("the training process failed", remedy="see its log"))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
