"""What a task asks of a model's input."""

import pytest

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.tasks import TASKS


def test_a_model_without_the_channel_that_a_task_is_about_is_refused():
    for name in ("segmentation", "super_resolution", "classification"):
        TASKS[name].check_input("m", ("t2w",))
    TASKS["distortion"].check_input("m", ("dwi", "t2w"))
    TASKS["translation"].check_input("m", ("adc", "dwi", "t2w"))
    with pytest.raises(BadOption, match="distortion needs dwi, which provicnet_t2w does not take as input"):
        TASKS["distortion"].check_input("provicnet_t2w", ("t2w",))
    with pytest.raises(BadOption, match="choose a model with the modalities t2w, dwi, adc"):
        TASKS["translation"].check_input("m", ("t2w", "dwi"))


def test_every_task_names_its_naive_baseline_and_its_metrics_once():
    for task in TASKS.values():
        assert task.naive_baseline
        names = [metric.name for metric in task.metrics]
        assert len(set(names)) == len(names)


def test_every_metric_has_its_smallest_relevant_difference():
    differences = {metric.name: metric.smallest_difference for task in TASKS.values() for metric in task.metrics}
    assert differences == {
        "lesion_dice": 0.01, "gland_dice": 0.01, "false_lesion_volume": 0.1, "lesion_hd95": 1.0, "gland_hd95": 1.0,
        "psnr": 0.1, "ssim": 0.002, "auroc": 0.01, "balanced_accuracy": 0.01,
    }  # fmt: skip
