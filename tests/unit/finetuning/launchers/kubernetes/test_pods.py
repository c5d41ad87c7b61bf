"""Every reason for which a pod waits or dies is one sentence with its remedy."""

from __future__ import annotations

import pytest

from vfmalign.finetuning.launchers.base import classify
from vfmalign.finetuning.launchers.kubernetes.manifest import Options
from vfmalign.finetuning.launchers.kubernetes.pods import TRAINING, StartupStatus, ended, waiting

OPTIONS = Options(template="gpu-jobs", active_deadline_s=60)
TOGETHER = Options(template="gpu-jobs", nodes=2)


def pod(status: dict, *, name: str = "a-x", node: str = "", ending: bool = False) -> dict:
    metadata = {"name": name} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if ending else {})
    limits = {"limits": {"memory": "8Gi"}}
    spec = {"containers": [{"name": "training", "resources": limits}]} | ({"nodeName": node} if node else {})
    return {"metadata": metadata, "spec": spec, "status": status}


def held(reason: str, message: str = "", kind: str = "containerStatuses") -> dict:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", kind: [{"name": "training", "image": "vfmalign/training:9", "state": state}]}


def dead(code: int | None, reason: str = "Error", at: str = "2026-01-01T00:00:00Z", **more: object) -> dict:
    end = {"exitCode": code, "reason": reason, "finishedAt": at} | more
    return {"phase": "Failed", "containerStatuses": [{"name": "training", "state": {"terminated": end}}]}


def unscheduled(message: str) -> dict:
    state = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [state]}


def disrupted(reason: str) -> dict:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "Eviction API: evicting"}


def failed(reason: str, message: str = "") -> dict:
    return {"status": {"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": message}]}}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (unscheduled("0/2 nodes are available: 1 Insufficient nvidia.com/gpu."), ["1 Insufficient nvidia", "gpu-jobs"]),
        (held("ImagePullBackOff", 'Back-off pulling image "x"'), ["vfmalign/training:9", "Back-off pull", "load it"]),
        (held("ErrImagePull"), ["cannot be pulled (ErrImagePull)", "gpu-jobs"]),
        (held("CreateContainerConfigError", 'secret "store" not found'), ['"store" not found', "create the Secret"]),
        (held("CreateContainerConfigError", "no key", "initContainerStatuses"), ["no key"]),
        ({"phase": "Unknown"}, ["does not respond", "bring the node back"]),
        ({"phase": "Running", "reason": "NodeLost"}, ["does not respond"]),
    ],
)  # fmt: skip
def test_what_a_pod_waits_for(status: dict, words: list[str]) -> None:
    said = waiting([pod(status)], OPTIONS).message
    assert all(word in said for word in words), said
    assert ";" in said, "what to do about it"
    assert "\n" not in said


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (unscheduled("0/2 nodes are available"), "UNSCHEDULABLE"),
        (held("ErrImagePull"), "IMAGE_PULL_FAILED"),
        (held("CreateContainerConfigError"), "CONTAINER_CANNOT_START"),
        ({"phase": "Unknown"}, "NODE_LOST"),
        ({"phase": "Running"}, ""),
    ],
)
def test_programs_read_the_cause_as_a_constant(status: dict, reason: str) -> None:
    assert waiting([pod(status)], OPTIONS).reason == reason


def test_an_ordinary_start_has_no_remedy() -> None:
    preparing = waiting([pod(held("ContainerCreating"), node="gpu-1")], OPTIONS)
    assert preparing == StartupStatus("POD_PENDING", "its pod is being prepared on node gpu-1")
    assert waiting([pod({"phase": "Pending"})], OPTIONS).message == "its pod waits for the scheduler"
    assert waiting([pod({"phase": "Running"})], OPTIONS) == TRAINING
    assert waiting([pod({"phase": "Running"}, ending=True)], OPTIONS).message == "pod a-x is ending"
    assert "quota" in waiting([], OPTIONS).message


@pytest.mark.parametrize(
    ("phases", "started"),
    [
        (["Running", "Running"], True),
        (["Running", "Succeeded"], True),
        (["Failed", "Running", "Running"], True),
        (["Running"], False),
        (["Running", "Pending"], False),
        (["Running", "Failed"], None),
        ([], False),
    ],
)
def test_a_job_has_started_once_all_of_its_pods_have(phases: list[str], started: bool | None) -> None:
    assert waiting([pod({"phase": phase}) for phase in phases], Options(nodes=2)).started is started


@pytest.mark.parametrize(
    ("one", "started"),
    [
        (unscheduled("0/2 nodes are available"), False),
        (held("ErrImagePull"), False),
        ({"phase": "Unknown"}, None),
    ],
)
def test_a_pod_that_runs_on_a_lost_node_has_not_become_pending(one: dict, started: bool | None) -> None:
    assert waiting([pod(one)], OPTIONS).started is started


def test_a_pod_that_is_missing_is_named() -> None:
    said = waiting([pod({"phase": "Running"})], Options(nodes=2))
    assert said.reason == "NO_POD"
    assert said.message.startswith("1 of its 2 pods exist; if that lasts, a quota")


def test_a_pod_that_its_dead_node_holds() -> None:
    status = {"phase": "Running", "conditions": [disrupted("DeletionByTaintManager")]}
    said = waiting([pod(status, node="gpu-1", ending=True)], OPTIONS).message
    assert said.startswith("node gpu-1 does not respond")
    assert "delete pod a-x by force" in said


def test_the_first_pod_with_a_reason_speaks() -> None:
    said = waiting([pod({"phase": "Running"}), pod(held("ErrImagePull"))], OPTIONS).message
    assert "cannot be pulled" in said


def test_long_messages_are_cut_and_stay_one_line() -> None:
    said = waiting([pod(unscheduled("no\nnode " * 500))], OPTIONS).message
    assert len(said) < 600
    assert "\n" not in said


@pytest.mark.parametrize("code", [1, 2, 3, 75, 137, 143])
def test_exit_codes_are_the_container_s(code: int) -> None:
    seen = ended(failed("BackoffLimitExceeded"), [pod(dead(code))], OPTIONS)
    assert (seen.exit_code, seen.message, seen.cause) == (code, "", "exit")


def test_the_job_remembers_the_exit_code_of_a_pod_that_is_gone() -> None:
    said = "Container training for pod ns/a-x failed with exit code 3 matching FailJob rule at index 1"
    assert ended(failed("PodFailurePolicy", said), [], OPTIONS).exit_code == 3


def test_nobody_knows() -> None:
    seen = ended(failed("BackoffLimitExceeded", "Job has reached the limit"), [], OPTIONS)
    assert seen.exit_code is None
    assert "BackoffLimitExceeded" in seen.message


def test_out_of_memory() -> None:
    seen = ended(failed("BackoffLimitExceeded"), [pod(dead(137, "OOMKilled"))], OPTIONS)
    assert seen.exit_code == 137
    assert seen.cause == "memory"
    assert "8Gi" in seen.message
    assert "smaller batch" in seen.message


def test_an_entry_point_that_is_not_there() -> None:
    seen = ended(failed("BackoffLimitExceeded"), [pod(dead(128, "StartError", message="exec: no such file"))], OPTIONS)
    assert "no such file" in seen.message
    assert classify(seen.exit_code) == "permanent"


def test_the_first_of_several_pods_is_the_cause() -> None:
    followers = dead(143, at="2026-01-01T00:00:05Z")
    seen = ended(failed("PodFailurePolicy"), [pod(followers), pod(dead(3)), pod(followers)], TOGETHER)
    assert seen.exit_code == 3


def test_a_pod_that_lost_another_is_never_the_cause() -> None:
    crashed = dead(139, at="2026-01-01T00:00:05Z")
    seen = ended(failed("BackoffLimitExceeded"), [pod(dead(76)), pod(crashed)], TOGETHER)
    assert seen.exit_code == 139
    assert ended(failed("BackoffLimitExceeded"), [pod(dead(76)), pod(dead(76))], TOGETHER).exit_code == 76


def test_the_last_pod_decides_where_the_job_controller_replaced_another() -> None:
    preempted = dead(143) | {"conditions": [disrupted("PreemptionByScheduler")]}
    crashed = dead(139, at="2026-01-01T00:00:05Z")
    seen = ended(failed("BackoffLimitExceeded"), [pod(preempted), pod(crashed)], OPTIONS)
    assert (seen.exit_code, seen.cause) == (139, "exit")


def test_a_disruption_counts_after_its_pod_is_gone() -> None:
    seen = ended(failed("BackoffLimitExceeded"), [pod(dead(75))], TOGETHER, disrupted("EvictionByEvictionAPI"))
    assert seen.cause == "platform"
    assert "EvictionByEvictionAPI" in seen.message


def test_a_deadline_is_a_limit() -> None:
    seen = ended(failed("DeadlineExceeded", "Job was active longer than specified deadline"), [], OPTIONS)
    assert seen.cause == "limit"
    assert "60 s" in seen.message
    assert "VFMALIGN_LAUNCHER__ACTIVE_DEADLINE_S" in seen.message


@pytest.mark.parametrize("reason", ["EvictionByEvictionAPI", "PreemptionByScheduler", "TerminationByKubelet"])
def test_a_node_that_is_taken_away_is_not_the_job_s_fault(reason: str) -> None:
    status = dead(143) | {"conditions": [disrupted(reason)]}
    seen = ended(failed("PodFailurePolicy"), [pod(status)], OPTIONS)
    assert seen.cause == "platform"
    assert reason in seen.message


def test_a_lost_pod_is_known_from_the_job_alone() -> None:
    said = "Pod ns/a-x has condition DisruptionTarget matching FailJob rule at index 0"
    assert ended(failed("PodFailurePolicy", said), [], OPTIONS).cause == "platform"
