"""Table of the roles that may call each RPC of the API.

If an RPC has no row in the table, nobody may call the RPC, and a test fails. docs/security.md shows the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from vfmalign.core.domain.errors import BadOption, Forbidden
from vfmalign.core.rpc.access.credentials import TENANT
from vfmalign.core.rpc.access.identity import Identity

PEOPLE = ("viewer", "researcher", "curator", "admin", "router")
"""Roles of people and programs; a router, such as an orchestrator of AI, sends studies on: see `check_extraction`."""
SERVICES = ("features", "mmd", "finetuning", "monitoring")
ROLES = frozenset((*PEOPLE, *SERVICES))

_READ = frozenset({"viewer", "researcher", "curator", "admin"})
_READ_INPUTS = _READ | {"finetuning"}
_COMPUTE = frozenset({"researcher", "finetuning"})
_COMPARE = _COMPUTE | {"monitoring"}
_EXTRACT = _COMPUTE | {"router"}
_OBSERVE = frozenset({"researcher", "features", "router"})
_CREATE = frozenset({"researcher"})
_IMPORT = frozenset({"curator"})
_CURATE = frozenset({"curator", "admin"})
_ERASE = frozenset({"admin"})
_END = frozenset({"researcher", "admin"})
"""Cancel, retry, delete, and calls that change a monitor. Only the creator and admins may make them
(`check_ownership`), except that every researcher may acknowledge alarms."""

_EXTRACT_PATH = "/vfmalign.v1.FeatureService/Extract"
RPC_ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "/vfmalign.v1.FeatureService/ListModels": _READ_INPUTS,
        "/vfmalign.v1.FeatureService/GetModel": _READ_INPUTS,
        "/vfmalign.v1.FeatureService/ListDatasets": _READ_INPUTS,
        "/vfmalign.v1.FeatureService/GetDataset": _READ_INPUTS,
        "/vfmalign.v1.FeatureService/ListFeatureSets": _READ,
        "/vfmalign.v1.FeatureService/GetFeatureSet": _READ,
        "/vfmalign.v1.FeatureService/DeleteDataset": _CURATE,
        "/vfmalign.v1.FeatureService/DeleteModel": _CURATE,
        "/vfmalign.v1.FeatureService/DeleteFeatureSet": _CURATE,
        _EXTRACT_PATH: _EXTRACT,
        "/vfmalign.v1.FeatureService/ExtractDataset": _COMPUTE,
        "/vfmalign.v1.FeatureService/CreateStudyUpload": _CREATE,
        "/vfmalign.v1.FeatureService/ErasePatient": _ERASE,
        "/vfmalign.v1.FeatureService/GetErasure": _ERASE,
        "/vfmalign.v1.DatasetService/CreateDatasetUploads": _IMPORT,
        "/vfmalign.v1.DatasetService/PublishDataset": _IMPORT,
        "/vfmalign.v1.ModelService/CreateModelUploads": _IMPORT,
        "/vfmalign.v1.ModelService/PublishModel": _IMPORT,
        "/vfmalign.v1.MmdService/Compute": _COMPARE,
        "/vfmalign.v1.MmdService/ComputeBatch": _COMPUTE,
        "/vfmalign.v1.MmdService/CreateUpload": _CREATE,
        "/vfmalign.v1.FineTuningService/CreateJob": _CREATE,
        "/vfmalign.v1.FineTuningService/GetJob": _READ,
        "/vfmalign.v1.FineTuningService/ListJobs": _READ,
        "/vfmalign.v1.FineTuningService/WatchJob": _READ,
        "/vfmalign.v1.FineTuningService/CancelJob": _END,
        "/vfmalign.v1.FineTuningService/RetryJob": _END,
        "/vfmalign.v1.FineTuningService/DeleteJob": _END,
        "/vfmalign.v1.AlignmentService/CreateCheck": _CREATE,
        "/vfmalign.v1.AlignmentService/GetCheck": _READ,
        "/vfmalign.v1.AlignmentService/GetCheckReport": _READ,
        "/vfmalign.v1.AlignmentService/ListChecks": _READ,
        "/vfmalign.v1.AlignmentService/WatchCheck": _READ,
        "/vfmalign.v1.AlignmentService/CancelCheck": _END,
        "/vfmalign.v1.AlignmentService/RetryCheck": _END,
        "/vfmalign.v1.AlignmentService/DeleteCheck": _END,
        "/vfmalign.v1.AlignmentService/ErasePatient": _ERASE,
        "/vfmalign.v1.AlignmentService/GetErasure": _ERASE,
        "/vfmalign.v1.ExperimentService/CreateExperiment": _CREATE,
        "/vfmalign.v1.ExperimentService/GetExperiment": _READ,
        "/vfmalign.v1.ExperimentService/GetExperimentReport": _READ,
        "/vfmalign.v1.ExperimentService/ListExperiments": _READ,
        "/vfmalign.v1.ExperimentService/WatchExperiment": _READ,
        "/vfmalign.v1.ExperimentService/CancelExperiment": _END,
        "/vfmalign.v1.ExperimentService/RetryExperiment": _END,
        "/vfmalign.v1.ExperimentService/DeleteExperiment": _END,
        "/vfmalign.v1.MonitoringService/CreateMonitor": _CREATE,
        "/vfmalign.v1.MonitoringService/GetMonitor": _READ | {"features"},
        "/vfmalign.v1.MonitoringService/GetMonitorReport": _READ,
        "/vfmalign.v1.MonitoringService/ListMonitors": _READ_INPUTS,  # finetuning probes the service
        "/vfmalign.v1.MonitoringService/WatchMonitor": _READ,
        "/vfmalign.v1.MonitoringService/Observe": _OBSERVE,
        "/vfmalign.v1.MonitoringService/AcknowledgeAlarm": _END,
        "/vfmalign.v1.MonitoringService/ReplaceReference": _END,
        "/vfmalign.v1.MonitoringService/UpdateMonitor": _END,
        "/vfmalign.v1.MonitoringService/PauseMonitor": _END,
        "/vfmalign.v1.MonitoringService/ResumeMonitor": _END,
        "/vfmalign.v1.MonitoringService/DeleteMonitor": _END,
        "/vfmalign.v1.MonitoringService/ErasePatient": _ERASE,
        "/vfmalign.v1.MonitoringService/GetErasure": _ERASE,
        # The interfaces are public, but a stranger does not learn which ones this server has.
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": ROLES,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ROLES,
    }
)
"""Roles that may call each RPC, by the RPC's path."""

_OPEN = "/grpc.health.v1.Health/Check"
"""The RPC for load balancers, which have no identity. It reports only whether a service is ready."""


def needs_identity(path: str) -> bool:
    """Returns whether callers of an RPC must prove their identity."""
    return path != _OPEN


def choose_tenant(identity: Identity, metadata: Iterable[tuple[str, str | bytes]], path: str) -> str:
    """Returns the tenant for which a call acts: the tenant that the metadata name, or else the caller's only tenant.

    Args:
        identity: the caller.
        metadata: metadata of the call.
        path: the RPC, such as `/vfmalign.v1.MmdService/Compute`.

    Raises:
        Forbidden: the caller may not act for the named tenant. Tenants that do not exist cause the same error.
        BadOption: the caller has several tenants, and the call does not name one.
    """
    named = [value for key, value in metadata if key == TENANT]
    if not identity.tenants or (named and named[0] not in identity.tenants):
        raise Forbidden(
            "your token does not allow calls for this tenant",
            subject=path,
            remedy="name one of your own tenants (VFMALIGN_TENANT), or call the deployment that serves it",
            reason="WRONG_TENANT",
        )
    if len(named) != 1 and (named or len(identity.tenants) > 1):
        raise BadOption(
            "the call must name one of your tenants",
            field=TENANT,
            remedy=f"set VFMALIGN_TENANT, or send {TENANT} with the call: {', '.join(sorted(identity.tenants))}",
            reason="TENANT_REQUIRED",
        )
    return str(named[0]) if named else min(identity.tenants)


def check_access(identity: Identity, path: str) -> str:
    """Checks that one of a caller's roles may call an RPC.

    Args:
        identity: the caller.
        path: the RPC, such as `/vfmalign.v1.MmdService/Compute`.

    Returns:
        The role that allows the call. If several roles allow the call, the first of them in `PEOPLE` and `SERVICES`.

    Raises:
        Forbidden: none of the roles may call the RPC.
    """
    allowed = RPC_ROLES.get(path, frozenset())
    role = next((one for one in (*PEOPLE, *SERVICES) if one in identity.roles & allowed), None)
    if role is None:
        needed = " or ".join(role for role in PEOPLE if role in allowed)
        raise Forbidden(
            "your roles do not allow this call",
            subject=path,
            remedy=f"ask an administrator for the role {needed}",
            reason="MISSING_ROLE",
        )
    return role


def check_extraction(identity: Identity | None, *, by_reference: bool) -> None:
    """Checks that a caller may send this Extract request. The role `router` may only request studies at a PACS.

    Args:
        identity: the caller; None if the service itself acts.
        by_reference: True if the study is at a PACS, and its features are returned but not stored.

    Raises:
        Forbidden: the caller may not.
    """
    if identity is None or by_reference or identity.roles & _COMPUTE:
        return
    raise Forbidden(
        "the role router allows Extract only for a study at a PACS, without storing its features",
        subject=_EXTRACT_PATH,
        remedy="name the study as `study.dicom.reference` and leave `store_as` empty, or ask an administrator for the "
        "role researcher",
        reason="MISSING_ROLE",
    )


def check_observation(identity: Identity | None, *, stored: bool) -> None:
    """Checks that a caller may send this Observe request. The role `router` may not use stored features.

    Args:
        identity: the caller; None if the service itself acts.
        stored: whether the request names stored features.

    Raises:
        Forbidden: the caller may not.
    """
    if identity is None or not stored or identity.roles & (_OBSERVE - {"router"}):
        return
    raise Forbidden(
        "the role router allows Observe only for features in the request",
        subject="/vfmalign.v1.MonitoringService/Observe",
        remedy="send the features as tensors, or ask an administrator for the role researcher",
        reason="MISSING_ROLE",
    )


def get_creator(identity: Identity | None, on_behalf_of: str = "") -> str:
    """Returns the value of `created_by` for an object that a caller creates. Empty if a service acts for nobody known.

    Args:
        identity: the caller; None if the service itself acts.
        on_behalf_of: `Identity.key` of the person or program for which the service finetuning calls.

    Raises:
        Forbidden: another caller names somebody.
    """
    if identity is not None and on_behalf_of and "finetuning" not in identity.roles:
        raise Forbidden(
            "only the service finetuning may call on behalf of somebody else",
            subject="created_by",
            remedy="leave the field empty",
            reason="MISSING_ROLE",
        )
    if identity is None or identity.roles.issubset(SERVICES):
        return on_behalf_of
    return on_behalf_of or identity.key


def check_ownership(identity: Identity | None, created_by: str, subject: str) -> None:
    """Checks that a caller may end or restart an object. Only the creator of the object and admins may do this.

    Args:
        identity: the caller; None if the service itself acts.
        created_by: `Identity.key` of the creator; empty if the service itself created the object.
        subject: id of the object.

    Raises:
        Forbidden: the caller may not.
    """
    if identity is None or "admin" in identity.roles or identity.key == created_by:
        return
    raise Forbidden(
        "it was created by somebody else",
        subject=subject,
        remedy="ask its creator or an administrator",
        reason="NOT_OWNER",
    )
