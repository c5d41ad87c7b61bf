"""The cluster's launcher against the API over HTTP: starting, taking over, looking, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from tests.integration.finetuning.kubernetes.emulator import (
    JOBS,
    NAMESPACE,
    SERVICES_NAMESPACE,
    TEMPLATE,
    TEMPLATES,
    Api,
    until,
)
from tests.integration.finetuning.kubernetes.launches import NAME, URI, ended, running

from vfmalign.core.domain.errors import BadOption, Conflict, Unavailable
from vfmalign.finetuning.launchers.base import Exited, Origin, Running
from vfmalign.finetuning.launchers.kubernetes.api import Cluster
from vfmalign.finetuning.launchers.kubernetes.manifest import Options, manifest
from vfmalign.finetuning.launchers.registry import LAUNCHERS
from vfmalign.finetuning.settings import FinetuningSettings

# --- starting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"queue": "gpu"}, {"nodes": 2, "processes_per_node": 4}])
def test_a_launch_makes_one_valid_job_that_trains(make: Any, api: Api, options: dict) -> None:
    launcher = make(**options)
    assert launcher.launch("a", 1, URI).handle == {"name": NAME}
    assert api.jobs() == [NAME]
    kubernetes_validate.validate(api.job(NAME), "1.35", strict=True)
    assert isinstance(launcher.observe("a", 1, {"name": NAME}), Running)


def test_a_job_trains_once_its_pods_are_ready(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    assert "no pod" in running(launcher)
    assert launcher.observe("a", 1, None).started is False
    api.status(NAME, active=1, ready=1)
    until(lambda: running(launcher) == "")
    assert launcher.observe("a", 1, None).started is True


def test_a_job_of_several_pods_has_started_once_all_have(make: Any, api: Api) -> None:
    launcher = make(nodes=2)
    launcher.launch("a", 1, URI)
    api.pod(NAME, {"phase": "Running"}, f"{NAME}-0-x")
    api.status(NAME, active=1, ready=1)
    until(lambda: "1 of its 2 pods exist" in running(launcher))
    assert launcher.observe("a", 1, None).started is False
    api.pod(NAME, {"phase": "Running"}, f"{NAME}-1-x")
    until(lambda: launcher.observe("a", 1, None).started)


def test_platforms_find_a_job_by_labels(make: Any, api: Api) -> None:
    make().launch("a", 1, URI, origin=Origin(check="c", network="scratch", request_id="r-12345678"))
    labels = api.job(NAME)["metadata"]["labels"]
    assert (
        labels.items() >= {"vfmalign.io/check": "c", "vfmalign.io/network": "scratch", "vfmalign.io/job": "a"}.items()
    )
    assert api.job(NAME)["metadata"]["annotations"]["vfmalign.io/request-id"] == "r-12345678"


def test_the_log_of_an_attempt_is_shown_by_kubectl(make: Any) -> None:
    assert make().log_command("a", 1) == f"kubectl logs --namespace vfmalign-jobs job/{NAME} --all-containers"
    assert make(nodes=2).log_command("a", 1) == (
        f"kubectl logs --namespace vfmalign-jobs --selector batch.kubernetes.io/job-name={NAME} --prefix --tail=-1 "
        "--all-containers"
    )


def test_the_template_is_read_at_each_launch(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    container = {"name": "training", "image": "vfmalign/training:0.2.0"}
    api.add(TEMPLATES, {"metadata": {"name": "vfmalign-training"}, "template": {"spec": {"containers": [container]}}})
    launcher.launch("b", 1, URI)
    images = [api.job(name)["spec"]["template"]["spec"]["containers"][0]["image"] for name in api.jobs()]
    assert images == ["vfmalign/training:0.1.0", "vfmalign/training:0.2.0"]


def test_a_job_that_is_there_already_is_this_attempt(make: Any, api: Api) -> None:
    first, second = make(), make()
    handle = first.launch("a", 1, URI).handle
    api.status(NAME, active=1, ready=1)
    assert second.launch("a", 1, URI).handle == handle
    assert api.jobs() == [NAME]
    until(lambda: running(second) == "")


def test_another_job_s_job_under_the_name_is_a_conflict(make: Any, api: Api) -> None:
    metadata = {"name": NAME, "annotations": {"vfmalign.io/job-id": "b", "vfmalign.io/spec": URI}}
    api.add(JOBS, {"metadata": metadata, "spec": {}})
    launcher = make()
    with pytest.raises(Conflict, match="belongs to another job"):
        launcher.launch("a", 1, URI)
    assert launcher.observe("a", 1, None) == Exited(None)


def test_another_installation_s_job_is_a_conflict(make: Any, api: Api) -> None:
    make().launch("a", 1, "s3://elsewhere/jobs/a/spec.json")
    with pytest.raises(Conflict):
        make().launch("a", 1, URI)


def test_a_missing_template_is_one_sentence(make: Any, api: Api) -> None:
    with pytest.raises(
        Unavailable, match="namespace vfmalign-jobs holds no PodTemplate gpu; apply k8s/base/training, or set VFMALIGN"
    ):
        make(template="gpu").launch("a", 1, URI)
    assert api.jobs() == []


def test_a_template_of_another_container_is_one_sentence(make: Any, api: Api) -> None:
    api.add(TEMPLATES, {"metadata": {"name": "odd"}, "template": {"spec": {"containers": [{"name": "main"}]}}})
    with pytest.raises(Unavailable, match="no container named training"):
        make(template="odd").launch("a", 1, URI)


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (403, 'jobs.batch is forbidden: User "x" cannot create resource "jobs"', "bind Role vfmalign-finetuning"),
        (403, "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1", "raise the ResourceQuota"),
        (401, "Unauthorized", "renew the token"),
        (422, "spec.template.spec.containers[0].image: Required value", "image: Required value"),
        (429, "slow down", "slow down"),
    ],
)
def test_what_the_api_refuses_has_not_been_started(make: Any, api: Api, status: int, message: str, words: str) -> None:
    launcher = make()
    api.refuse("POST", "/jobs", status, message, Retry_After="7")
    with pytest.raises(Unavailable) as caught:
        launcher.launch("a", 1, URI)
    assert words in str(caught.value)
    assert caught.value.retry_after_s == 7.0
    assert api.jobs() == []


@pytest.mark.parametrize("done", [True, False])
def test_an_answer_that_is_lost_is_looked_for(make: Any, api: Api, done: bool) -> None:
    launcher = make()
    api.lose_answer("POST", "/jobs", do=done)
    seen = launcher.launch("a", 1, URI)
    assert seen.handle is None
    assert "did not answer" in seen.message
    assert isinstance(launcher.observe("a", 1, None), Running if done else Exited)
    assert api.jobs() == ([NAME] if done else [])


def test_a_server_error_may_have_made_it(make: Any, api: Api) -> None:
    launcher = make()
    api.refuse("POST", "/jobs", 500, "etcdserver: request timed out")
    assert launcher.launch("a", 1, URI).handle is None
    assert launcher.observe("a", 1, None) == Exited(None), "and then nobody's fault"


def test_an_api_that_is_down_starts_nothing_and_ends_nothing(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    api.status(NAME, active=1, ready=1)
    until(lambda: running(launcher) == "")
    api.down()
    with pytest.raises(Unavailable, match="cannot be reached"):
        launcher.launch("b", 1, URI)
    with pytest.raises(Unavailable, match="cannot be reached"):
        launcher.observe("unheard", 1, {"name": "vfmalign-unheard-1"})
    until(lambda: "Kubernetes API" in running(launcher))
    assert launcher.observe("a", 1, None).started is None, "it may have stopped meanwhile"
    api.up()
    until(lambda: running(launcher) == "")


def test_no_cluster_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    with pytest.raises(BadOption, match="KUBECONFIG names none"):
        Cluster.connect()


# --- attempts -------------------------------------------------------------------------------------------------------


def test_the_next_attempt_waits_for_one_that_still_lives(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    with pytest.raises(Unavailable, match="another attempt is still ending"):
        launcher.launch("a", 2, URI)
    assert api.requests("DELETE")[0].data["propagationPolicy"] == "Foreground"
    launcher.launch("a", 2, URI)
    assert api.jobs() == ["vfmalign-a-2"]


def test_an_attempt_that_comes_through_late_is_ended(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 2, URI)
    api.add(JOBS, manifest(TEMPLATE, "a", 1, URI, Options()))
    until(lambda: running(launcher, attempt=2) and api.jobs() == ["vfmalign-a-2"])


def test_a_later_attempt_is_ended_too_as_after_a_backup_was_restored(make: Any, api: Api) -> None:
    make().launch("a", 3, URI)
    launcher = make()
    with pytest.raises(Unavailable, match="still ending"):
        launcher.launch("a", 1, URI)
    launcher.launch("a", 1, URI)
    assert api.jobs() == [NAME]


def test_attempts_that_have_ended_are_left_to_their_time(make: Any, api: Api) -> None:
    launcher = make(jobs_every_s=3600.0)  # its list tells of no end
    launcher.launch("a", 1, URI)
    api.condition(NAME, "Failed", "BackoffLimitExceeded")
    launcher.launch("a", 2, URI)
    assert api.jobs() == [NAME, "vfmalign-a-2"]
    assert isinstance(launcher.observe("a", 2, None), Running)
    assert api.requests("DELETE") == []


# --- ends -----------------------------------------------------------------------------------------------------------


def test_success(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    api.condition(NAME, "Complete")
    assert ended(launcher) == Exited(0)


@pytest.mark.parametrize("code", [1, 2, 3, 75, 137, 143])
def test_each_exit_code(make: Any, api: Api, code: int) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    end = {"name": "training", "state": {"terminated": {"exitCode": code, "reason": "Error"}}}
    api.pod(NAME, {"phase": "Failed", "containerStatuses": [end]})
    api.pod("vfmalign-a-9", {"phase": "Failed", "containerStatuses": []})
    api.condition(NAME, "Failed", "BackoffLimitExceeded")
    assert ended(launcher) == Exited(code)


def test_the_end_of_a_failed_pod_s_log_is_logged_once(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    api.emulator.logs[f"{NAME}-x"] = "RuntimeError: a fault of ours"
    api.pod(NAME, {"phase": "Failed"})
    api.condition(NAME, "Failed", "BackoffLimitExceeded")
    ended(launcher)
    ended(launcher)
    assert len(api.requests("GET", "/log")) == 1
    assert api.requests("GET", "/log")[0].params["container"] == "training"


def test_failure_is_told_without_leave_to_read_pods(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    message = "Container training for pod v/a failed with exit code 3 matching FailJob rule at index 1"
    api.refuse("GET", "/pods", 403, "forbidden", times=50)
    api.condition(NAME, "Failed", "PodFailurePolicy", message)
    assert ended(launcher).exit_code == 3


def test_a_pod_s_reason_is_heard(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    state = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
    }
    api.pod(NAME, {"phase": "Pending", "conditions": [state]})
    until(lambda: "2 Insufficient nvidia.com/gpu" in running(launcher))


def test_a_job_that_vanished_was_looked_for(make: Any, api: Api) -> None:
    launcher = make()
    handle = launcher.launch("a", 1, URI).handle
    api.remove(NAME)
    seen = ended(launcher, handle=handle)
    assert seen.exit_code is None
    assert "no longer exists in the cluster" in seen.message
    assert api.requests("GET", f"/jobs/{NAME}"), "the API was asked"


def test_a_deleted_job_has_not_ended_before_its_pod_has(make: Any, api: Api) -> None:
    launcher = make()
    handle = launcher.launch("a", 1, URI).handle
    api.pod(NAME, {"phase": "Running"})
    api.remove(NAME, pods=False)
    until(lambda: "its pod is ending" in running(launcher))
    api.pod(NAME, {"phase": "Failed"})
    assert ended(launcher, handle=handle).exit_code is None


def test_a_failed_job_has_not_ended_before_its_pods_have(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    api.pod(NAME, {"phase": "Running"})
    api.condition(NAME, "Failed", "DeadlineExceeded")
    until(lambda: "its last pods are ending" in running(launcher))
    api.pod(NAME, {"phase": "Failed"})
    assert ended(launcher).cause == "limit"


def test_a_fresh_orchestrator_finds_what_runs(make: Any, api: Api) -> None:
    make().launch("a", 1, URI)
    api.status(NAME, active=1, ready=1)
    seen = make().observe("a", 1, None)
    assert seen == Running({"name": NAME})


# --- waiting, settings, access -------------------------------------------------------------------------------------


def test_a_queue_s_quota_is_waited_for(make: Any, api: Api) -> None:
    launcher = make(queue="gpu")
    launcher.launch("a", 1, URI)
    assert "waiting for quota in the Kueue queue gpu" in running(launcher)
    api.condition(NAME, "Suspended")
    assert "quota" in running(launcher), "suspended by Kueue is not stopped"


def test_a_job_that_somebody_else_suspended_waits(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    api._wait(api.emulator.change(JOBS, NAME, "MODIFIED", {"spec": {"suspend": True}}))
    until(lambda: "suspended by hand" in running(launcher))


def test_the_settings_reach_the_jobs(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {
        "KIND": "kubernetes", "NAMESPACE": NAMESPACE, "QUEUE": "gpu", "ACTIVE_DEADLINE_S": "60", "TTL_S": "5",
        "NODES": "2", "PROCESSES_PER_NODE": "4",
    }  # fmt: skip
    needed = {
        "AWS_ENDPOINT_URL_S3": "http://s3:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "VFMALIGN_FEATURES_ADDRESS": "f:1", "VFMALIGN_MMD_ADDRESS": "m:1", "KUBECONFIG": str(api.kubeconfig(tmp_path)),
    }  # fmt: skip
    for name, value in needed.items() | {f"VFMALIGN_LAUNCHER__{key}": value for key, value in chosen.items()}.items():
        monkeypatch.setenv(name, value)
    settings = FinetuningSettings()
    launcher = LAUNCHERS["kubernetes"](settings, "")
    launcher.launch("a", 1, URI)
    launcher.close()
    spec, args = api.job(NAME)["spec"], api.job(NAME)["spec"]["template"]["spec"]["containers"][0]["args"]
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"], spec["parallelism"]) == (60, 5, 2)
    assert args[:4] == ["--nodes", "2", "--processes", "4"]
    assert api.job(NAME)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"


def test_a_job_of_another_launcher_has_ended_here(make: Any) -> None:
    launcher = make()
    handle = {"pid": 1, "started": 2.5}
    launcher.stop("a", 1, handle, force=True)
    assert launcher.observe("a", 1, handle).exit_code is None


def test_a_pod_is_in_its_own_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {"token": "t", "ca.crt": "c", "namespace": "mine"}.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert Cluster.connect(account=tmp_path).namespace == "mine"
    assert Cluster.connect("other", account=tmp_path).namespace == "other"
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(BadOption, match="VFMALIGN_LAUNCHER__KIND"):
        Cluster.connect(account=tmp_path)


def test_the_token_goes_with_every_request(make: Any, api: Api) -> None:
    make().launch("a", 1, URI)
    assert {request.headers["Authorization"] for request in api.emulator._requests} == {"Bearer t"}


def test_connecting_sends_nothing(connect: Callable[[], Cluster], api: Api) -> None:
    assert connect().namespace == NAMESPACE
    assert Cluster.connect().namespace == SERVICES_NAMESPACE
    assert api.emulator._requests == []
