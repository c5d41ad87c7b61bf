"""Specs of experiments and what is pinned for them."""

from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.finetuning.experiments.request import (
    PinnedInputs,
)


def make_spec(**fields):
    values = {
        "model_ids": ("m1", "m2"),
        "dataset_id": "d",
        "tasks": ("segmentation", "distortion"),
        "seeds": (1, 2),
    } | fields
    return ExperimentSpec(**values)


PINNED = PinnedInputs(
    dataset_digest="d" * 64, model_sha256=("a" * 64, "b" * 64), primary_metrics=("lesion_dice", "psnr")
)
