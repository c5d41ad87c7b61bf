"""`python -m vfmalign.training SPEC_URI`: run one job in this process.

Exit codes: 0 done, 1 internal error (see the log), 2 invalid spec, 3 invalid data, 69 the object store is unavailable,
75 another transient failure (try again), 76 another process of the job was lost, 143 stopped on request after storing
its state. `vfmalign.training.launch` starts several processes for one job.
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
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.training import failures
from vfmalign.training.settings import TrainingSettings, read_spec

_log = logs.get(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job whose spec is stored at a URI. Returns the exit code."""
    arguments = parser("training", TrainingSettings, (__doc__ or "").strip())
    arguments.add_argument("spec_uri", help="s3://BUCKET/TENANT/jobs/ID/spec.json")
    uri: str = arguments.parse_args(argv).spec_uri
    settings = load(TrainingSettings)
    logs.configure("training", settings.log)
    stop = ShutdownRequest()
    stop.listen()
    # torch reads these when it is imported. Without the first, some products on a GPU are not deterministic. Without
    # the second, idle OpenMP threads spin, and jobs that share cores slow each other down severalfold.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    store = ObjectStore(settings.store).of_uri(uri)
    logs.bind(tenant=store.tenant)
    try:
        spec = read_spec(store, uri)
        # Imported here because torch and monai take seconds: `--help` does without them, and signals must be handled
        # before. The garbage collector would spend a quarter of that time on objects that all stay alive, and as much
        # later: frozen, they are not traversed again, not even when the process ends.
        gc.disable()
        from vfmalign.training.job import run_job
        from vfmalign.training.process_group import init_process_group

        gc.freeze()
        gc.enable()
        with init_process_group(settings.training.device) as process_group:
            if process_group.world_size > 1:
                logs.bind(rank=process_group.rank)
            run_job(store, spec, settings.training, stop, process_group)
    except VfmalignError as error:
        _log.warning("job_stopped", error=error, reason=error.reason)
        return failures.report(store, uri, error)
    except Exception:
        _log.exception("job_crashed")
        return failures.report(store, uri, Internal("the training process failed"))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
