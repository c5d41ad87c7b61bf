"""Names, labels and the manifest of a job's Job, valid as Kubernetes sees it."""

from __future__ import annotations

import copy
import re

import kubernetes_validate
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vfmalign.core.domain.record import ID
from vfmalign.finetuning.launchers.base import UNKNOWN_ORIGIN, Origin
from vfmalign.finetuning.launchers.kubernetes.manifest import Options, job_name, label_value, manifest

URI = "s3://vfmalign/default/jobs/a/spec.json"
IDS = st.from_regex(ID.form, fullmatch=True)
TEMPLATE = {
    "apiVersion": "v1",
    "kind": "PodTemplate",
    "metadata": {"name": "vfmalign-training", "uid": "1"},
    "template": {
        "metadata": {"creationTimestamp": None, "labels": {"app.kubernetes.io/name": "vfmalign", "team": "imaging"}},
        "spec": {
            "restartPolicy": "Always",
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "containers": [
                {"name": "training", "image": "vfmalign/training:0.1.0", "resources": {"limits": {"memory": "8Gi"}}},
                {"name": "helper", "image": "helper:1"},
            ],
        },
    },
}


def make(
    job: str = "a", attempt: int = 1, template: dict = TEMPLATE, origin: Origin = UNKNOWN_ORIGIN, **options: object
) -> dict:
    return manifest(template, job, attempt, URI, Options(**options), origin=origin)


def training(job: dict) -> dict:
    return job["spec"]["template"]["spec"]["containers"][0]


@given(IDS, st.integers(1, 99_999))
@example("a" * 128, 1)
@example("a.", 1)
@example("0__..--", 99_999)
def test_names_and_labels_are_valid_whatever_the_id_holds(job: str, attempt: int) -> None:
    name = job_name(job, attempt)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
    assert len(f"{name}-99999") <= 63, "pods of an Indexed Job have their host name of it"
    assert name.endswith(f"-{attempt}")
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", label_value(job))


@given(IDS, IDS)
@example("a_b", "a.b")
@example("a" * 127, "a" * 128)
@example("a-", "a")
def test_two_ids_never_share_a_name_or_a_label(one: str, other: str) -> None:
    if one != other:
        assert job_name(one, 1) != job_name(other, 1)
        assert label_value(one) != label_value(other)


def test_an_id_that_fits_is_the_name() -> None:
    assert job_name("check-7-pretrained", 2) == "vfmalign-check-7-pretrained-2"
    assert job_name("check_7", 2).startswith("vfmalign-check-7-")
    assert label_value("check_7.a") == "check_7.a"


VARIANTS = [{}, {"queue": "gpu"}, {"nodes": 2, "processes_per_node": 4}, {"processes_per_node": 2}]


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
@pytest.mark.parametrize("options", VARIANTS)
def test_manifests_are_valid(options: dict, version: str) -> None:
    job = make("check_7", 3, **options)
    job["metadata"]["namespace"] = "vfmalign"
    kubernetes_validate.validate(job, version, strict=True)


def test_the_template_passes_through_but_for_what_makes_it_this_job_s() -> None:
    before = copy.deepcopy(TEMPLATE)
    template = copy.deepcopy(TEMPLATE)
    template["template"]["spec"]["newerThanTheClient"] = {"x": 1}
    pod = make("a", 2, template)["spec"]["template"]
    assert pod["spec"]["tolerations"] == TEMPLATE["template"]["spec"]["tolerations"]
    assert pod["spec"]["newerThanTheClient"] == {"x": 1}
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["containers"][0] == TEMPLATE["template"]["spec"]["containers"][0] | {"args": [URI]}
    assert pod["spec"]["containers"][1] == {"name": "helper", "image": "helper:1"}
    assert pod["metadata"]["labels"]["team"] == "imaging"
    assert pod["metadata"]["labels"]["vfmalign.io/attempt"] == "2"
    assert before == TEMPLATE, "the template that was read is not changed"


def test_a_template_cannot_pass_for_another_job() -> None:
    template = copy.deepcopy(TEMPLATE)
    template["template"]["metadata"]["labels"]["vfmalign.io/job"] = "other"
    assert make("a", 1, template)["metadata"]["labels"]["vfmalign.io/job"] == "a"


def test_labels_and_annotations_of_job_and_pods_name_where_the_job_comes_from() -> None:
    origin = Origin(check="check-7", network="scratch", request_id="check-check-7")
    job = make("check-7-scratch", 2, origin=origin)
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        own = {key.partition("/")[2]: value for key, value in metadata["labels"].items() if "vfmalign.io" in key}
        assert own == {"job": "check-7-scratch", "check": "check-7", "network": "scratch", "attempt": "2"}
        assert metadata["annotations"].items() >= {
            ("vfmalign.io/job-id", "check-7-scratch"),
            ("vfmalign.io/check-id", "check-7"),
            ("vfmalign.io/request-id", "check-check-7"),
        }


def test_ids_that_are_no_label_values_are_shortened_and_annotated_in_full() -> None:
    check = "a_very.long-check" * 7 + "-"
    job = make("j" * 100, 1, origin=Origin(check=check, network="pretrained"))
    labels, annotations = job["metadata"]["labels"], job["metadata"]["annotations"]
    for name in ("job", "check"):
        assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", labels[f"vfmalign.io/{name}"])
    assert labels["vfmalign.io/check"] == label_value(check) != label_value(check[:-1])
    assert (annotations["vfmalign.io/job-id"], annotations["vfmalign.io/check-id"]) == ("j" * 100, check)
    job["metadata"]["namespace"] = "vfmalign"
    kubernetes_validate.validate(job, "1.34", strict=True)


def test_a_job_of_its_own_has_no_check() -> None:
    template = copy.deepcopy(TEMPLATE)
    template["template"]["metadata"]["labels"] |= {"vfmalign.io/check": "other", "vfmalign.io/network": "other"}
    metadata = make("a", 1, template)["metadata"]
    assert not {"vfmalign.io/check", "vfmalign.io/network"} & metadata["labels"].keys()
    assert metadata["annotations"].keys() == {"vfmalign.io/job-id", "vfmalign.io/spec"}


def test_who_retries_what() -> None:
    spec = make()["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    lost, codes = spec["podFailurePolicy"]["rules"]
    assert lost["action"] == "Ignore"
    assert lost["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert codes["action"] == "FailJob"
    assert codes["onExitCodes"] == {"containerName": "training", "operator": "In", "values": [1, 2, 3]}
    assert make(nodes=2)["spec"]["podFailurePolicy"]["rules"][0]["action"] == "FailJob"


def test_limits() -> None:
    spec = make(active_deadline_s=60, ttl_s=5)["spec"]
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (60, 5)


def test_a_queue_lets_the_job_go() -> None:
    job = make(queue="gpu")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert job["spec"]["suspend"] is True
    assert "suspend" not in make()["spec"]


def test_several_processes_train_one_job() -> None:
    job = make("check_7", 2, nodes=2, processes_per_node=4)
    name = job["metadata"]["name"]
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["template"]["spec"]["subdomain"] == "vfmalign-training"
    assert training(job)["command"] == ["python", "-m", "vfmalign.training.launch"]
    assert training(job)["args"] == [
        *("--nodes", "2", "--processes", "4", "--master", f"{name}-0.vfmalign-training:29400", URI),
    ]
    assert "command" not in training(make()), "one process is the image's own entry point"


def test_a_template_without_the_container() -> None:
    template = copy.deepcopy(TEMPLATE)
    template["template"]["spec"]["containers"] = [{"name": "other"}]
    with pytest.raises(LookupError):
        make(template=template)
