"""Keys of the artifacts in object storage.

A step of work is done once its artifact exists. The address of an artifact is therefore deterministic and must not
change. Addresses do not include the tenant. `ObjectStore` adds the tenant's name in front.
"""

from __future__ import annotations

import re

from vfmalign.core.domain.declarations import VolumeKind


def volumes_prefix(dataset: str) -> str:
    """Returns the prefix of a dataset's volumes."""
    return f"volumes/{dataset}/"


def volume_key(dataset: str, case: str, kind: VolumeKind) -> str:
    """Returns the address of one volume."""
    return f"{volumes_prefix(dataset)}{case}/{kind}.nii.gz"


def dataset_prefix(dataset: str) -> str:
    """Returns the prefix of a dataset's datalist."""
    return f"datasets/{dataset}/"


def dataset_key(dataset: str) -> str:
    """Returns the address of a dataset's datalist, which is written last to commit the dataset."""
    return f"{dataset_prefix(dataset)}dataset.json"


def model_prefix(model: str) -> str:
    """Returns the prefix of a model's card and weights."""
    return f"models/{model}/"


def model_card_key(model: str) -> str:
    """Returns the address of a model card, which is written last to commit the model."""
    return f"{model_prefix(model)}model.json"


def weights_key(model: str, sha256: str) -> str:
    """Returns the address of a model's weights."""
    return f"{model_prefix(model)}{sha256}.safetensors"


def provenance_key(prefix: str, digest: str) -> str:
    """Returns the address of the record of who created the object below a prefix. `digest` identifies its content."""
    return f"{prefix}provenance/{digest}.json"


FEATURES = "features/"
"""Prefix of feature sets and of the stored features of studies."""


def features_prefix(feature_set: str) -> str:
    """Returns the prefix of a feature set's parts and manifest."""
    return f"{FEATURES}{feature_set}/"


def manifest_key(feature_set: str) -> str:
    """Returns the address of a feature set's manifest, which is written last to commit the set."""
    return f"{features_prefix(feature_set)}manifest.json"


def unfinished_key(feature_set: str) -> str:
    """Returns the address of the request of a feature set that is not committed."""
    return f"{features_prefix(feature_set)}request.json"


UPLOADS = "uploads/features/"
"""Prefix of safetensors files that clients upload for comparisons."""


def upload_key(sha256: str) -> str:
    """Returns the address of a safetensors file that a client uploads for a comparison.

    `sha256` is the file's digest.
    """
    return f"{UPLOADS}{sha256}.safetensors"


ROOM_KEY = "jobs/ROOM"
"""Address of a small object that the leader of finetuning overwrites. No id of a job has capital letters."""


def job_key(job: str, name: str) -> str:
    """Returns the address of one of a job's artifacts, such as `spec.json`, `result.json` or `progress/0003.json`."""
    return f"jobs/{job}/{name}"


def check_key(check: str, name: str) -> str:
    """Returns the address of one of a check's artifacts, such as `report.json`."""
    return f"checks/{check}/{name}"


CELLS = "cells/"
"""Prefix of the results of experiments' cells."""


def cell_key(cell: str) -> str:
    """Returns the address of the result of an experiment's cell. `cell` is the digest of the cell's specification."""
    return f"{CELLS}{cell}.json"


def experiment_key(experiment: str, name: str) -> str:
    """Returns the address of one of an experiment's artifacts, such as `report.json`."""
    return f"experiments/{experiment}/{name}"


def monitor_key(monitor: str, uid: str, name: str) -> str:
    """Returns the address of a monitor's artifact.

    A new monitor has a new `uid`, even if a deleted monitor had the same id.
    """
    return f"monitors/{monitor}/{uid}/{name}"


def deletion_key(kind: str, object_id: str) -> str:
    """Returns the address of the mark that shows that an object is being deleted. See `deletion`."""
    return f"deletions/{kind}/{object_id}"


USES = "uses/"
"""Prefix of the marks of objects that unfinished operations read; see `deletion`."""


def uses_prefix(kind: str, object_id: str) -> str:
    """Returns the prefix of the marks that operations set while they read an object."""
    return f"{USES}{kind}/{object_id}/"


def erasures_prefix(service: str) -> str:
    """Returns the prefix of a service's receipts for the erasure of patients."""
    return f"erasures/{service}/"


INCOMING = "incoming/"
"""Prefix of files that clients upload for an import."""


def incoming_prefix(owner: str, import_id: str) -> str:
    """Returns the prefix of one import's files. `owner` identifies the caller and has no slashes."""
    return f"{INCOMING}{owner}/{import_id}/"


STUDY_UPLOADS = f"{INCOMING}studies/"
"""Prefix of zips of DICOM files that clients upload for Extract. No owner of an import has this name."""


def study_upload_prefix(owner: str) -> str:
    """Returns the prefix of one caller's zip files. See `incoming_prefix`."""
    return f"{STUDY_UPLOADS}{owner}/"


OUTBOX = "outbox/"
"""Prefix of observations that wait for their monitors."""


def outbox_prefix(monitor: str) -> str:
    """Returns the prefix of the observations that a monitor has not processed yet."""
    return f"{OUTBOX}{monitor}/"


_OUTBOX_KEY = re.compile(rf"{OUTBOX}([^/]+)/(\d{{20}})-[0-9a-f]{{8}}-([0-9a-f]{{64}})\.pb")


def outbox_key(monitor: str, time_ns: int, writer: str, sha256: str) -> str:
    """Returns the address of a waiting observation. The addresses of one monitor's observations sort by time.

    Args:
        monitor: id of the monitor.
        time_ns: nanoseconds since 1970. Each observation of the same writer needs a different time.
        writer: 8 hexadecimal digits that identify the writing process.
        sha256: digest of the object. The key contains the digest instead of the ids of the observation.
    """
    return f"{outbox_prefix(monitor)}{time_ns:020d}-{writer}-{sha256}.pb"


def is_outbox_key(key: str) -> bool:
    """Returns whether a key belongs to a waiting observation."""
    return _OUTBOX_KEY.fullmatch(key) is not None


def parse_outbox_key(key: str) -> tuple[str, int, str] | None:
    """Returns the monitor, time and digest of a waiting observation. Returns None for other keys."""
    match = _OUTBOX_KEY.fullmatch(key)
    return None if match is None else (match[1], int(match[2]), match[3])
