"""Reading a job's spec: what ends a job that cannot begin, before torch is imported, which takes seconds.

Knows where specs lie; knows nothing of what they ask for.
"""

from __future__ import annotations

from vfmalign.core.artifacts import JobSpec, job_key
from vfmalign.core.errors import BadOption, NotFound, PreconditionFailed
from vfmalign.core.store import ObjectStore


def read_spec(store: ObjectStore, uri: str) -> JobSpec:
    """Reads a job's spec and checks that it lies at its own address.

    Raises:
        BadOption: no such spec, or one that is not valid.
    """
    try:
        key = store.key(uri)
        spec = store.read(key, JobSpec)
    except NotFound as error:
        raise BadOption("no job spec is stored here", subject=uri, remedy="create the job first") from error
    except PreconditionFailed as error:
        raise BadOption(error.message, subject=uri, remedy="write a spec of this version") from error
    if key != job_key(spec.id, "spec.json"):
        raise BadOption(f"the spec of job {spec.id} lies at another job's address", subject=uri, remedy="move it")
    return spec
