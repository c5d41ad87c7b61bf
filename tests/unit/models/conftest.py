"""Architectures of the golden files and helpers to read them."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vfmalign.core.domain.models import Layer, Preprocessing
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.architectures.convnextv2 import ConvNeXtV2
from vfmalign.models.architectures.upstream import convert_profound_conv

SHARED_GOLDEN = Path(__file__).parents[3].parent / "shared" / "reference" / "golden"
OWN_GOLDEN = Path(__file__).parent / "golden"


def architecture(depths: tuple[int, ...], dims: tuple[int, ...]) -> Architecture:
    return Architecture(
        name="small",
        build=partial(ConvNeXtV2, depths, dims),
        preprocessing=Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=None, shape_dhw=(16, 32, 32)),
        layers=tuple(Layer(name=f"stages.{i}", channels=dim) for i, dim in enumerate(dims)),
        primary_layer="stages.3",
        convert=convert_profound_conv,
    )


def shared_golden(name: str) -> dict[str, torch.Tensor]:
    path = SHARED_GOLDEN / name
    if not path.exists():
        pytest.skip(f"the upstream golden file {name} is not beside this checkout")
    return load_file(path)


def state_of(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("state."): t for name, t in golden.items() if name.startswith("state.")}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """float32 against upstream's float32 or our float64: rounding, relative to the largest value."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(scope="session")
def close():
    return assert_close


@pytest.fixture(scope="session")
def golden_of():
    """A golden file by name, from this project or upstream, split into its weights and the rest."""

    def read(name: str, *, shared: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        golden = shared_golden(name) if shared else load_file(OWN_GOLDEN / name)
        return state_of(golden), {name: t for name, t in golden.items() if not name.startswith("state.")}

    return read


@pytest.fixture
def own_golden() -> dict[str, torch.Tensor]:
    return load_file(OWN_GOLDEN / "convnextv2_small.safetensors")


@pytest.fixture
def own_architecture() -> Architecture:
    return architecture((1, 1, 2, 1), (4, 8, 12, 16))


@pytest.fixture
def upstream_golden() -> dict[str, torch.Tensor]:
    return shared_golden("profound_conv_small.safetensors")


@pytest.fixture
def upstream_pretraining() -> dict[str, torch.Tensor]:
    return shared_golden("profound_conv_small_pretraining_format.safetensors")


@pytest.fixture
def upstream_architecture() -> Architecture:
    return architecture((1, 1, 2, 1), (8, 16, 32, 64))


@pytest.fixture
def own_state(own_golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state_of(own_golden)


@pytest.fixture
def upstream_state(upstream_golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state_of(upstream_golden)
