"""How a job that cannot go on says so: exit codes and `failure.json`.

Knows errors, codes and where `failure.json` lies; knows nothing of training.
"""

from __future__ import annotations

import re

from vfmalign.core.domain.artifacts import JobFailure, job_key
from vfmalign.core.domain.errors import BAD_DATA, BAD_SPEC, UNEXPECTED, VfmalignError, exit_code
from vfmalign.core.runtime import logs
from vfmalign.core.storage.object_store import ObjectStore

_FINAL_CODES = (UNEXPECTED, BAD_SPEC, BAD_DATA)
_SPEC_URI = re.compile(r"s3://[^/]+/jobs/([^/]+)/spec\.json")
_log = logs.get(__name__)


def report(store: ObjectStore, spec_uri: str, error: VfmalignError) -> int:
    """Writes `failure.json` where the same job would fail again, and returns the exit code.

    A job that stopped on request or may be retried gets none: it has not failed.
    """
    code = exit_code(error)
    place = _SPEC_URI.fullmatch(spec_uri)
    if code in _FINAL_CODES and place is not None:
        message = f"{error.subject}: {error.message}" if error.subject else error.message
        failure = JobFailure(exit_code=code, reason=error.reason, message=message, remedy=error.remedy)
        try:
            store.key(spec_uri)  # only in our own bucket
            store.write(job_key(place[1], "failure.json"), failure)
        except VfmalignError as second:
            _log.warning("failure_not_stored", job=place[1], error=str(second))
    return code


def clear(store: ObjectStore, job: str) -> None:
    """Removes what an earlier attempt left behind, so that a job that runs again is not taken for a failed one."""
    store.delete(job_key(job, "failure.json"))
