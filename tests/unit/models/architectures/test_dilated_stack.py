"""Stacks of dilated convolutions: geometry, bounds of their description, and initialisation."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.architectures.dilated_stack import DilatedStack, StackDescription, _make_probe
from vfmalign.models.encoder import POOLED_LAYER, pool
from vfmalign.models.formats.stack_checkpoint import make_autoencoder


def brain_input(side: int, **changed) -> Preprocessing:
    fields = {"modalities": ("input",), "spacing_mm": (1.0, 1.0, 1.0), "shape_dhw": (side,) * 3}
    return Preprocessing.model_validate(fields | {"normalisation": "quantile_range"} | changed)


def describe(*layers, side: int = 8, **fields) -> StackDescription:
    return StackDescription.model_validate({"layers": layers, "input": brain_input(side)} | fields)


HOURGLASS = (
    {"channels": 4, "dilation": 2, "activation": "silu"},
    {"channels": 6, "stride": 2, "activation": "silu"},
    {"channels": 6, "dilation": 2, "norm": "instance", "activation": "gelu", "bias": False},
    {"channels": 3, "kernel": 2, "stride": 2, "transposed": True},
    {"channels": 5, "activation": "relu"},
)


def test_a_stack_equals_torchs_own_operators():
    torch.manual_seed(0)
    encoder = DilatedStack(describe(*HOURGLASS)).eval()
    p = {name: torch.randn_like(value) for name, value in encoder.state_dict().items()}
    encoder.load_state_dict(p)
    x = torch.randn(2, 1, 8, 8, 8)
    w = [(p[f"layers.{i}.convolution.weight"], p.get(f"layers.{i}.convolution.bias")) for i in range(5)]
    expected = [functional.silu(functional.conv3d(x, *w[0], padding=2, dilation=2))]
    expected.append(functional.silu(functional.conv3d(expected[-1], *w[1], stride=2, padding=1)))
    third = functional.conv3d(expected[-1], w[2][0], padding=2, dilation=2)
    expected.append(functional.gelu(functional.instance_norm(third)))
    expected.append(functional.conv_transpose3d(expected[-1], *w[3], stride=2))
    expected.append(functional.relu(functional.conv3d(expected[-1], *w[4], padding=1)))
    with torch.inference_mode():
        maps = encoder.feature_maps(x)
    for i, reference in enumerate(expected):
        assert torch.allclose(maps[f"layers.{i}"], reference, rtol=1e-6, atol=1e-6)
    assert torch.equal(maps[POOLED_LAYER], pool(maps["layers.4"]))
    assert encoder.layer_channels() == {**{f"layers.{i}": c for i, c in enumerate((4, 6, 6, 3, 5))}, POOLED_LAYER: 5}


@pytest.mark.parametrize(
    ("layers", "dense"),
    [
        (HOURGLASS, {"layers.4": 1}),
        (HOURGLASS[:3], {"layers.0": 1, "layers.2": 2}),
        (HOURGLASS[:1], {"layers.0": 1}),
        (({"channels": 2, "stride": 2}, {"channels": 2, "kernel": 2, "stride": 2}), {"layers.0": 2, "layers.1": 4}),
    ],
    ids=["hourglass", "strided", "one layer", "no full resolution"],
)
def test_a_dense_head_reads_the_last_map_of_every_resolution_without_a_finer_one_after_it(layers, dense):
    encoder = DilatedStack(describe(*layers, compared=[0]))
    assert encoder.dense_layers() == {name: (stride,) * 3 for name, stride in dense.items()}
    assert set(encoder.layer_channels()) == {"layers.0", *dense, POOLED_LAYER}
    with torch.inference_mode():
        maps = encoder.feature_maps(torch.rand(1, 1, 16, 8, 12))
    for name, stride in dense.items():
        assert maps[name].shape[2:] == (16 // stride, 8 // stride, 12 // stride)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_kernel_dilation_and_stride_keeps_the_grid(kernel, dilation, stride):
    down = {"channels": 2, "kernel": kernel, "dilation": dilation, "stride": stride}
    encoder = DilatedStack(describe(down, down | {"transposed": True}, side=12))
    with torch.inference_mode():
        maps = encoder.feature_maps(torch.rand(1, 1, 12, 18, 6))
    assert maps["layers.0"].shape[2:] == (12 // stride, 18 // stride, 6 // stride)
    assert maps["layers.1"].shape[2:] == (12, 18, 6)
    assert encoder.input_multiple() == (stride, stride, stride)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"layers": []}, "at least 1"),
        ({"layers": [{"channels": 1}] * 65}, "at most 64"),
        ({"layers": [{"channels": 0}]}, "greater than or equal to 1"),
        ({"layers": [{"channels": 4096}]}, "less than or equal to 1024"),
        ({"layers": [{"channels": 1, "dilation": 65}]}, "less than or equal to 64"),
        ({"layers": [{"channels": 1, "kernel": 4}]}, "kernel of 4 is neither odd nor"),
        ({"layers": [{"channels": 1, "kernel": 2, "stride": 2, "dilation": 2}]}, "kernel of 2 is neither odd nor"),
        ({"layers": [{"channels": 1, "stride": 2, "transposed": True}]}, "layer 0 upsamples a map of stride 1 by 2"),
        ({"layers": [{"channels": 1, "stride": 3}]}, "not multiples of the stride 3"),
        ({"layers": [{"channels": 1024, "kernel": 11}] * 3}, "more than 200,000,000"),
        ({"layers": [{"channels": 1, "activation": "swish"}]}, "'silu'"),
        ({"layers": [{"channels": 1, "padding": 3}]}, "Extra inputs"),
        ({"layers": [{"channels": 1}], "compared": [1]}, "`compared` does not list indices"),
        ({"layers": [{"channels": 1}] * 3, "compared": [2, 0]}, "`compared` does not list indices"),
        ({"layers": [{"channels": 1}], "initialisation": "torch"}, "layer_sequential_unit_variance"),
    ],
)
def test_descriptions_out_of_bounds_are_rejected(fields, says):
    with pytest.raises(ValidationError, match=says):
        describe(*fields.pop("layers"), **fields)


def channel_variance(map_NCDHW: torch.Tensor) -> float:
    """Mean over channels of the variance over studies and voxels: 0 for a map that is the same everywhere."""
    return float(map_NCDHW.double().var(dim=(0, 2, 3, 4)).mean())


def smooth_images(count: int, side: int) -> torch.Tensor:
    torch.manual_seed(100)
    noise = functional.interpolate(torch.randn(count, 1, 8, 8, 8), size=(side,) * 3, mode="trilinear")
    low, high = noise.amin((2, 3, 4), keepdim=True), noise.amax((2, 3, 4), keepdim=True)
    return (noise - low) / (high - low)


@pytest.fixture(scope="module")
def autoencoder() -> StackDescription:
    layers = tuple(make_autoencoder([16] * 5 + [32] * 6 + [16] * 6, [True] * 17))
    return StackDescription(layers=layers, input=brain_input(16))


@pytest.mark.parametrize("seed", range(2))
def test_random_weights_keep_the_variance_through_the_stack(autoencoder, seed):
    torch.manual_seed(seed)
    encoder = DilatedStack(autoencoder)
    with torch.inference_mode():
        maps = encoder.feature_maps(smooth_images(3, 16))
    variances = [channel_variance(map_NCDHW) for name, map_NCDHW in maps.items() if name != POOLED_LAYER]
    assert all(variances[0] / 30 < value < variances[0] * 1000 for value in variances), variances
    assert float(maps[POOLED_LAYER].var(0).mean()) > 1e-4


def test_torchs_default_weights_do_not(autoencoder):
    torch.manual_seed(0)
    encoder = DilatedStack(autoencoder)
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.reset_parameters()
    with torch.inference_mode():
        maps = encoder.feature_maps(smooth_images(3, 16))
    assert channel_variance(maps["layers.16"]) < 1e-3 * channel_variance(maps["layers.0"])
    assert float(maps[POOLED_LAYER].var(0).mean()) < 1e-12, "the features of different images are equal"


def test_random_weights_have_unit_responses_and_no_bias(autoencoder):
    responses = {}
    encoder = DilatedStack(autoencoder)
    hooks = [
        layer.convolution.register_forward_hook(
            lambda m, i, out, n=n: responses.__setitem__(n, float(out.square().mean()))
        )
        for n, layer in enumerate(encoder.layers)
    ]
    with torch.inference_mode():
        encoder.feature_maps(_make_probe(autoencoder.input))
    assert len(hooks) == len(responses) == 17
    assert all(value == pytest.approx(1.0, rel=0.15) for value in responses.values())
    assert all(not p.any() for name, p in encoder.named_parameters() if name.endswith("bias"))
