"""Erasures that each of the three services refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.hostile.row import Row

from vfmalign.v1 import erasure_pb2 as pb

SERVICES = ("FeatureService", "AlignmentService", "MonitoringService")
KEEP = pb.MODEL_POLICY_KEEP
INVALID = "INVALID_ARGUMENT"


def erase(service: str, name: str, names: str, code: str = INVALID, **fields: Any) -> Row:
    """A request of ErasePatient with some fields replaced."""
    request = {"erasure_id": "hostile", "group": "nobody", "models": KEEP, **fields}
    return Row(f"erasure: {name}", f"{service}/ErasePatient", lambda _: pb.ErasePatientRequest(**request), code, names)


def make_rows(service: str) -> Iterator[Row]:
    """Returns the rows of one service."""
    half = pb.PatientDigest(key="0" * 64)
    yield erase(service, "id with a path", "erasure_id", erasure_id="../models")
    yield erase(service, "group with a path", "group", group="../x")
    yield erase(service, "no patient", "group", group="")
    yield erase(service, "a patient named twice", "patient", patient=pb.PatientDigest(key="0" * 64, hmac="1" * 64))
    yield erase(service, "half a patient", "patient", group="", patient=half)
    yield erase(service, "a key that is no digest", "patient.key", group="", patient=pb.PatientDigest(key="x"))
    yield erase(service, "nothing said of models", "models", models=0)
    yield erase(service, "an unknown choice for models", "models", models=9)
    many = [pb.ErasedDataset(dataset_id="d", dataset_digest="0" * 64)] * 1001
    yield erase(service, "too many datasets", "datasets", datasets=many)
    yield erase(service, "too many observations", "observation_ids", observation_ids=["o"] * 1001)
    yield erase(service, "a long observation id", "observation_ids[0]", observation_ids=["o" * 129])
    yield Row(
        "receipt that is not there",
        f"{service}/GetErasure",
        lambda _: pb.GetErasureRequest(erasure_id="none"),
        "NOT_FOUND",
        "erasure none",
    )


ROWS = tuple(row for service in SERVICES for row in make_rows(service))
