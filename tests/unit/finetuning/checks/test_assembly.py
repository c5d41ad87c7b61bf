"""Metrics of a report have the smallest relevant differences that the verdict was decided with."""

import pytest
from tests.prostate import SPECS

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.core.domain.jobs import JobResult
from vfmalign.finetuning.checks.assembly import set_smallest_differences

METRICS = SPECS["segmentation"].metrics
WITHOUT = tuple(metric.model_copy(update={"smallest_difference": 0.0}) for metric in METRICS)


def result(metrics):
    return JobResult(
        job="j", metrics=metrics, primary_metric="lesion_dice", curve=(), selected_epoch=0, selected_step=0,
        test_scores=(), weight_change=None, parameters=1, device="cpu", stage_seconds={}, software={},
    )  # fmt: skip


def differences(metrics, **fields):
    request = CheckSpec(model_id="m", dataset_id="d", task="segmentation", **fields)
    return {m.name: m.smallest_difference for m in set_smallest_differences(result(metrics), request)}


@pytest.mark.parametrize("metrics", [METRICS, WITHOUT], ids=["present", "of an earlier version"])
def test_metrics_have_their_own_or_the_request_s(metrics):
    own = {metric.name: metric.smallest_difference for metric in METRICS}
    assert differences(metrics) == own
    assert differences(metrics, smallest_difference=0.03) == own | {"lesion_dice": 0.03}


def test_a_metric_s_own_precedes_that_of_the_task():
    stored = tuple(metric.model_copy(update={"smallest_difference": 0.5}) for metric in METRICS)
    assert set(differences(stored).values()) == {0.5}


def test_a_metric_that_the_task_no_longer_has_is_kept():
    unknown = METRICS[0].model_copy(update={"name": "former_dice", "smallest_difference": 0.0})
    assert differences((*METRICS, unknown))["former_dice"] == 0.0
