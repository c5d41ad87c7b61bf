"""Float32 products keep their precision whatever library forms them, and torch's settings stay as they were."""

import pytest
import torch

from vfmalign.mmd import products
from vfmalign.mmd.rows import Rows

CPU = torch.device("cpu")
SETTING = torch.backends.mkldnn.matmul


@pytest.fixture(params=[True, False])
def onednn(request, monkeypatch):
    """Either library, whatever this processor would take."""
    monkeypatch.setattr(products, "_prefers_onednn", lambda: request.param)
    if request.param and torch.cpu._is_amx_tile_supported():
        pytest.skip("with AMX, torch's oneDNN products round to bfloat16, and float32 rows never take them")


def test_distances_are_those_of_float32(onednn):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 768, generator=generator)
    rows = Rows.of(x.double(), "float32")
    out = torch.empty(64, 64)
    with products.matrix_units("float32", CPU):
        products.squared_distances(rows, rows, slice(0, 64), slice(0, 64), out)
    wanted = torch.cdist(x.double(), x.double()).square()
    assert float((out.double() - wanted).abs().max()) < 1e-2  # of 1,600; bfloat16 would be off by several


def test_settings_are_left_as_they_were(onednn):
    before = SETTING.fp32_precision
    for precision in ("bfloat16", "float32", "float64"):
        with pytest.raises(RuntimeError), products.matrix_units(precision, CPU):
            raise RuntimeError
        assert SETTING.fp32_precision == before


def test_an_unknown_processor_takes_torch_s_own_choice(monkeypatch):
    monkeypatch.setattr(products, "_processor", lambda: "vendor_id : GenuineIntel")
    assert products._prefers_onednn.__wrapped__() is False
    monkeypatch.setattr(products, "_processor", lambda: "vendor_id : AuthenticAMD")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(products, "_FLOAT32_ERROR", 0.0)
    assert products._prefers_onednn.__wrapped__() is False, "a library that rounds more than float32 is not taken"
