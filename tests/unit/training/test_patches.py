"""Predictions of a network that reads patches: means over patches, of voxels or of the values of a case."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vfmalign.training.data import list_patches
from vfmalign.training.learner import predictions

CPU, PATCH = torch.device("cpu"), (8, 16, 16)
IMAGE = ((0, 16), (5, 32), (0, 20))


class Recording(nn.Module):
    """Adds to each voxel the number of its slice in the whole volume; or returns two values per case."""

    def __init__(self, *, of_case):
        super().__init__()
        self.of_case, self.shapes = of_case, set()

    def forward(self, input_NCDHW, slices_N2):
        self.shapes.add(tuple(input_NCDHW.shape[2:]))
        if self.of_case:
            return torch.stack([input_NCDHW.mean((1, 2, 3, 4)), slices_N2[:, 0].float()], dim=1)
        depth = torch.arange(input_NCDHW.shape[2]) + slices_N2[:, :1]
        return input_NCDHW + depth[:, None, :, None, None]


@pytest.fixture
def some(cases):
    return [replace(case, slices=(-2, 12), image=IMAGE) for case in cases[:2]]


def test_voxels_are_predicted_in_patches_and_joined(some):
    network = Recording(of_case=False)
    outputs = list(predictions(network, some, CPU, lambda: None, PATCH))
    assert network.shapes == {PATCH}
    for output_CDHW, case in zip(outputs, some, strict=True):
        expected_CDHW = case.input_CDHW + torch.arange(-2, 14)[:, None, None]
        torch.testing.assert_close(output_CDHW, expected_CDHW, rtol=0, atol=1e-4)


def test_values_of_a_case_are_means_over_its_image(some):
    network = Recording(of_case=True)
    outputs = list(predictions(network, some, CPU, lambda: None, PATCH, of_case=True))
    assert network.shapes == {PATCH}
    for output_K, case in zip(outputs, some, strict=True):
        patches = list_patches(case, PATCH)
        total = sum(weight for _, weight in patches)
        assert total == pytest.approx(16 * 27 * 20), "one for each voxel of the image"
        mean = sum(weight * float(patch.input_CDHW.mean()) for patch, weight in patches) / total
        first = sum(weight * patch.slices[0] for patch, weight in patches) / total
        assert output_K.tolist() == pytest.approx([mean, first], abs=1e-5)


def test_a_stop_reaches_the_prediction_of_patches(some):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(predictions(Recording(of_case=False), some, CPU, stop, PATCH))
