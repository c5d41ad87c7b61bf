"""The launcher as each tenant sees it: equal ids of jobs never meet."""

from __future__ import annotations

from unittest.mock import MagicMock

from vfmalign.finetuning.launchers.base import Launcher, Origin, lead_always
from vfmalign.finetuning.launchers.by_tenant import TenantLauncher
from vfmalign.finetuning.launchers.kubernetes.manifest import Options, identity_labels, job_name, manifest


def test_every_call_names_the_job_with_its_tenant():
    launcher = MagicMock(spec=Launcher)
    for tenant, name in (("default", "j"), ("ward-7", "ward-7:j")):
        launcher.reset_mock()
        own = TenantLauncher(launcher, tenant)
        own.launch("j", 1, "uri", origin=Origin(check="c"))
        own.observe("j", 1, None)
        own.stop("j", 1, None, force=True)
        own.log_command("j", 1)
        own.close()
        launcher.launch.assert_called_once_with(name, 1, "uri", lead_always, origin=Origin("c", tenant=tenant))
        launcher.observe.assert_called_once_with(name, 1, None)
        launcher.stop.assert_called_once_with(name, 1, None, force=True)
        launcher.log_command.assert_called_once_with(name, 1)
        launcher.close.assert_not_called()


def test_names_and_labels_of_kubernetes_jobs_differ_between_tenants():
    """An id may look like that of another tenant's job: names that had to be changed end in a digest."""
    names = ["j", "ward-7:j", "ward-7-j", "ward-7.j", "ward:7-j"]
    assert len({job_name(name, 1) for name in names}) == len(names)
    labels = [identity_labels(name, 1, Origin(tenant="ward-7")) for name in names]
    assert len({one["vfmalign.io/job"] for one in labels}) == len(names)
    template = {"template": {"spec": {"containers": [{"name": "training"}]}}}
    job = manifest(template, "ward-7:j", 1, "uri", Options(), origin=Origin(tenant="ward-7"))
    assert job["metadata"]["labels"]["vfmalign.io/tenant"] == "ward-7"
    assert job["metadata"]["annotations"]["vfmalign.io/job-id"] == "ward-7:j"
