"""The task of a request: as a message, as JSON and in its short form."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.declarations import TaskParameters
from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import alignment_pb2, common_pb2, finetuning_pb2

TEXT = "segmentation:label=gland+lesions,structure=lesion"


def test_a_task_survives_the_message_json_and_its_short_form():
    task = Task.parse(TEXT)
    assert task == Task(
        name="segmentation", parameters=TaskParameters(labels=("gland", "lesions"), structures=("lesion",))
    )
    assert str(task) == TEXT
    assert Task.from_proto(task.to_proto()) == task
    assert Task.model_validate_json(task.to_json()) == task
    assert task.to_json_dict()["parameters"]["labels"] == ["gland", "lesions"]
    assert Task.from_proto(common_pb2.Task(name="segmentation")) == Task.parse("segmentation")


def test_specs_carry_tasks_through_the_api_and_store_the_short_form():
    job = JobSpec(kind="finetune", dataset_id="d", model_id="m", task=TEXT)
    check = CheckSpec(dataset_id="d", model_id="m", task=TEXT)
    experiment = ExperimentSpec(dataset_id="d", model_ids=("m",), tasks=(TEXT, "classification"))
    for spec in (job, check, experiment):
        assert type(spec).from_proto(spec.to_proto()) == spec
        assert type(spec).model_validate_json(spec.to_json()) == spec
    assert job.model_dump(mode="json")["task"] == check.model_dump(mode="json")["task"] == TEXT
    assert experiment.model_dump(mode="json")["tasks"] == [TEXT, "classification"]


def test_a_pretraining_has_no_task():
    spec = JobSpec.from_proto(finetuning_pb2.JobSpec(kind=finetuning_pb2.JOB_KIND_PRETRAIN, dataset_id="d"), "spec")
    assert spec.task is None
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert not spec.to_proto().HasField("task")


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ({}, "spec.task.name"),
        ({"name": "segmentation", "parameters": {"labels": ["Liver"]}}, "spec.task.parameters.labels[0]"),
        ({"name": "segmentation", "parameters": {"labels": ["a"] * 17}}, "spec.task.parameters.labels"),
        ({"name": "translation", "parameters": {"target": "x" * 33}}, "spec.task.parameters.target"),
    ],
)  # fmt: skip
def test_fields_of_a_task_have_bounds(task, field):
    message = alignment_pb2.CheckSpec(model_id="m", dataset_id="d", task=task)
    with pytest.raises(BadOption) as caught:
        CheckSpec.from_proto(message, "spec")
    assert caught.value.field == field
