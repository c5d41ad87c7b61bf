"""Failures of a job: exit codes and `failure.json`."""

from __future__ import annotations

import re

from vfmalign.core.domain.errors import (
    BAD_DATA,
    BAD_SPEC,
    PROCESS_LOST,
    STORE_UNAVAILABLE,
    UNEXPECTED,
    ProcessLost,
    StoreUnavailable,
    VfmalignError,
    exit_code,
)
from vfmalign.core.domain.jobs import JobFailure
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.auth_settings import TENANT_PATTERN
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.store.object_store import ObjectStore

_FINAL_CODES = (UNEXPECTED, BAD_SPEC, BAD_DATA)
_SPEC_URI = re.compile(rf"s3://[^/]+/{TENANT_PATTERN}/jobs/([^/]+)/spec\.json")
_log = logs.get(__name__)


def get_exit_code(error: VfmalignError) -> int:
    """Returns the exit code of a training process that ends with this error.

    An unavailable store and a lost process have their own exit codes, because they are not failures of the training.
    Without the store, only the exit code can report how a process ended.
    """
    if isinstance(error, StoreUnavailable):
        return STORE_UNAVAILABLE
    return PROCESS_LOST if isinstance(error, ProcessLost) else exit_code(error)


def report(store: ObjectStore, spec_uri: str, error: VfmalignError) -> int:
    """Writes `failure.json` if the error would occur again, and returns the exit code.

    After a stop on request or a transient failure, the function writes no such file, because the job has not failed.
    """
    code = get_exit_code(error)
    match = _SPEC_URI.fullmatch(spec_uri)
    if code in _FINAL_CODES and match is not None:
        message = f"{error.subject}: {error.message}" if error.subject else error.message
        failure = JobFailure(exit_code=code, reason=error.reason, message=message, remedy=error.remedy)
        try:
            store.key(spec_uri)  # raises for a spec in another bucket: its job id means nothing here
            store.write(job_key(match[1], "failure.json"), failure)
        except VfmalignError as storage_error:
            _log.warning("failure_not_stored", job=match[1], error=storage_error)
    return code


def clear(store: ObjectStore, job: str) -> None:
    """Deletes the failure that an earlier attempt recorded.

    Without this, a job that runs again would count as failed.
    """
    store.delete(job_key(job, "failure.json"))
