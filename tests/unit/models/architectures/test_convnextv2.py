"""ConvNeXt V2 against upstream's outputs, the paper's formulas, and the sizes of its family."""

import pytest
import torch

from vfmalign.models.architectures.convnextv2 import ConvNeXtV2
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import build_encoder

# float32 against upstream's float32 and our float64: rounding, relative to the largest output.
TOLERANCE = 1e-5


def assert_golden(encoder: ConvNeXtV2, golden: dict[str, torch.Tensor]) -> None:
    with torch.inference_mode():
        maps = encoder.feature_maps(golden["input_NCDHW"])
    names = {f"stages.{i}": f"map{i}_NCDHW" for i in range(4)} | {"pooled": "pooled_NC"}
    assert list(maps) == list(names)
    for layer, name in names.items():
        expected = golden[name]
        assert maps[layer].shape == expected.shape
        assert (maps[layer] - expected).abs().max() <= TOLERANCE * expected.abs().max(), layer


def test_reproduces_upstream(upstream_golden, upstream_state, upstream_architecture):
    assert_golden(build_encoder(upstream_architecture, upstream_state), upstream_golden)


def test_reproduces_the_papers_formulas(own_golden, own_state, own_architecture):
    assert_golden(build_encoder(own_architecture, own_state), own_golden)


def test_golden_weights_matter(own_golden, own_state, own_architecture):
    """Every parameter changes the output: the golden test can notice any of them going astray."""
    with torch.inference_mode():
        before = build_encoder(own_architecture, own_state)(own_golden["input_NCDHW"])
        for name in own_state:
            noise = 0.1 * torch.randn(own_state[name].shape, generator=torch.Generator().manual_seed(0))
            changed = build_encoder(own_architecture, own_state | {name: own_state[name] + noise})
            assert (changed(own_golden["input_NCDHW"]) - before).abs().max() > 100 * TOLERANCE, name


# Exact numbers, so that no change is silent (upstream states 29.3 M for tiny). 2D counts do not apply: kernels are 3D.
PARAMETERS = {
    "profound_conv_micro": 348_480,
    "profound_conv_mini": 1_328_472,
    "profound_conv_atto": 3_844_520,
    "profound_conv_femto": 5_375_280,
    "profound_conv_pico": 9_198_656,
    "profound_conv_nano": 15_906_000,
    "profound_conv_tiny": 29_311_680,
    "profound_conv_base": 92_099_840,
    "profound_conv_large": 202_342_272,
    "profound_conv_huge": 665_176_512,
}


def expected_parameters(depths: tuple[int, ...], dims: tuple[int, ...]) -> int:
    """Counted by hand from the layout, not from modules."""
    strides, total, before = (4, 2, 2, 1), 0, 3
    for i, (depth, d, stride) in enumerate(zip(depths, dims, strides, strict=True)):
        total += before * d * stride**3 + d + 2 * (d if i == 0 else before)
        total += depth * ((343 + 1) * d + 2 * d + (4 * d * d + 4 * d) + 2 * 4 * d + (4 * d * d + d))
        before = d
    return total + 2 * before


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    encoder = ARCHITECTURES[name].build_empty()
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert all(parameter.device.type == "meta" for parameter in encoder.parameters())
    assert count == PARAMETERS[name] == expected_parameters(encoder.depths, encoder.dims)


def test_tiny_has_the_stated_size():
    assert round(PARAMETERS["profound_conv_tiny"] / 1e6, 1) == 29.3


def test_every_compared_layer_gets_a_gradient_from_a_dense_head():
    encoder = ARCHITECTURES["profound_conv_micro"].build()
    encoder.feature_maps(torch.randn(1, 3, 16, 32, 32))["stages.3"].square().mean().backward()
    without = {name for name, parameter in encoder.named_parameters() if parameter.grad is None}
    assert without == {"norm.weight", "norm.bias"}


def test_works_in_channels_last_throughout():
    encoder = ARCHITECTURES["profound_conv_micro"].build()
    with torch.inference_mode():
        maps = encoder.feature_maps(torch.randn(2, 3, 32, 64, 64))
    for layer in ("stages.0", "stages.1", "stages.2"):
        assert maps[layer].is_contiguous(memory_format=torch.channels_last_3d), layer


def test_wrong_number_of_stages_is_refused():
    with pytest.raises(ValueError, match="expected 4 depths and dims"):
        ConvNeXtV2((1, 1), (8, 16))
