"""Running statistics are estimated as torch's `update_bn` does, and stay frozen after that."""

import copy

import pytest
import torch
from torch import nn

from vfmalign.models.running_statistics import estimate_statistics, freeze_statistics, list_running, split_batches


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4, momentum=0.3), nn.GELU(), nn.Conv3d(4, 4, 1))
        self.last = nn.BatchNorm3d(4, affine=False)
        self.own = nn.BatchNorm3d(4, track_running_stats=False)

    def forward(self, input_NCDHW, slices_N2=None):
        return self.own(self.last(self.body(input_NCDHW)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Small().eval()


def test_statistics_are_those_of_update_bn_and_then_frozen(network):
    batches = [torch.randn(size, 1, 5, 5, 5) + size for size in (5, 4)]
    expected = copy.deepcopy(network)
    torch.optim.swa_utils.update_bn(batches, expected)
    with estimate_statistics(network) as observe:
        for batch in batches:
            observe(batch, torch.zeros(len(batch), 2))
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, msg=name)
    assert [layer.momentum for layer in list_running(network)] == [0.3, 0.1]
    before = copy.deepcopy(network.state_dict())
    network.train()
    freeze_statistics(network)
    network(batches[0]).sum().backward()
    for layer in list_running(network):
        assert torch.equal(before[f"{'last' if layer.weight is None else 'body.1'}.running_var"], layer.running_var)
    assert network.body[1].weight.grad is not None
    assert network.own.training, "a layer without running statistics always uses those of the batch"


def test_a_single_case_has_statistics_even_where_its_map_is_one_voxel(network):
    with estimate_statistics(network) as observe:
        observe(torch.randn(1, 1, 3, 3, 3), torch.zeros(1, 2))
    assert all(torch.isfinite(layer.running_var).all() for layer in list_running(network))


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (8, [8]), (9, [4, 5]), (20, [6, 7, 7])])
def test_batches_have_nearly_equal_sizes(count, sizes):
    assert split_batches(count) == sizes
