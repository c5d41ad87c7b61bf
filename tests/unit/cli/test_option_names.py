"""Errors name the options of the command that was run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
from tests.unit.cli.conftest import Invoke, answer_checks

from vfmalign.cli import exits
from vfmalign.cli.resources import Resource
from vfmalign.core.domain.errors import BadOption

CHECK = ("check", "d1", "--model", "m1", "--task", "segmentation")
EXPERIMENT = ("experiment", "d1", "--model", "m1", "--task", "segmentation")
FINETUNE = ("finetune", "d1", "--model", "m1", "--task", "segmentation")
Refuse = Callable[[str], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Lets a deployment refuse a field of what is created, retried or cancelled."""

    def set_field(field: str) -> None:
        def call(*_: object) -> NoReturn:
            raise BadOption("is wrong", field=field)

        for method in ("create", "retry", "get"):
            monkeypatch.setattr(Resource, method, call)
        answer_checks(monkeypatch, call)

    return set_field


@pytest.mark.parametrize(
    ("command", "field", "option"),
    [
        (CHECK, "recipe.preset", "--preset"),
        ((*CHECK, "--epochs", "1", "--steps-per-epoch", "1"), "recipe.preset", "--preset"),  # no caution precedes it
        (CHECK, "check_id", "--id"),
        (CHECK, "spec.modality_map", "--map"),
        (CHECK, "spec.modality_map.t1w", "--map"),
        (CHECK, "layers[0]", "--layer"),
        (CHECK, "task.parameters.labels", "--label"),
        (CHECK, "task.parameters.class_name", "--class"),
        (CHECK, "task.parameters.at_least", "--at-least"),
        (CHECK, "spec.dataset_id", "DATASET"),
        (CHECK, "spec.bootstrap_resamples", "--bootstrap"),
        (CHECK, "random_seeds", "--random-seeds"),
        (EXPERIMENT, "spec.model_ids", "--model"),
        (EXPERIMENT, "spec.tasks[1].parameters.labels", "--task"),
        (EXPERIMENT, "seeds", "--seed"),
        (EXPERIMENT, "seed", "--seed"),
        (EXPERIMENT, "spec.task.name", "--task"),
        (EXPERIMENT, "model_id", "--model"),
        (CHECK, "model_id", "--model"),
        (FINETUNE, "spec.publish_as", "--as"),
        (("models", "pretrain", "d1"), "spec.publish_as", "--id"),
        (("models", "pretrain", "d1"), "spec.recipe.learning_rate", "recipe.learning_rate"),
        (CHECK, "recipe.patch_shape_dhw", "recipe.patch_shape_dhw"),
        (CHECK, "task.parameters.inputs", "--task"),
        (("checks", "retry", "C 1"), "check_id", "ID"),
        (("watch", "C 1"), "experiment_id", "ID"),
        (CHECK, "declaration.labels", "declaration.labels"),
        (CHECK, "s3://vfmalign/models/m1.json", "s3://vfmalign/models/m1.json"),
    ],
)
def test_a_field_that_a_service_refuses_is_shown_as_its_option(
    invoke: Invoke, refuse: Refuse, command: tuple[str, ...], field: str, option: str
) -> None:
    refuse(field)
    code, _, err = invoke(*command)
    assert (code, err.strip()) == (exits.BAD_INPUT, f"error: {option}: is wrong")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ((*CHECK, "--set", "recipe.learning_rate=11"), "--set"),
        ((*FINETUNE, "--as", "Not An Id"), "--as"),
        ((*EXPERIMENT, "--task", "segmentation:label=Gland"), "--task"),
        (("models", "pretrain", "d1", "--id", "Not An Id"), "--id"),
        (("models", "import", "gone.pth", "--id", "Not An Id"), "--id"),
        (("check", "Not An Id", "--model", "m1", "--task", "segmentation"), "DATASET"),
    ],
)
def test_a_value_that_is_no_value_of_a_field_is_shown_with_its_option(
    invoke: Invoke, command: tuple[str, ...], option: str
) -> None:
    code, _, err = invoke(*command)
    assert code == exits.BAD_INPUT
    assert err.startswith(f"error: {option}: ")
