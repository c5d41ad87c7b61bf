"""The faster library forms float32 products, in their full precision, and torch's settings are restored."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vfmalign.mmd.engine import products
from vfmalign.mmd.engine.rows import Rows

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
    rows = Rows.from_features(x.double(), "float32")
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


class Clock:
    """A clock that runs by `seconds[setting]` for each product formed under torch's setting."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.products = 0.0, 0

        def mm(x_IK, y_KJ, *, out):
            time.sleep(0.0)  # lets another thread in
            self.products += 1
            self.now += seconds[SETTING.fp32_precision]
            return out.copy_(x_IK @ y_KJ)

        monkeypatch.setattr(products.torch, "mm", mm)
        monkeypatch.setattr(products.time, "thread_time", lambda: self.now)
        products._onednn_is_faster.cache_clear()


@pytest.fixture
def unmeasured():
    """Nothing is measured yet, and nothing stays of what the test measures."""
    products._onednn_is_faster.cache_clear()
    yield
    products._onednn_is_faster.cache_clear()


@pytest.mark.parametrize(("onednn_s", "other_s", "wanted"), [(1.0, 2.0, True), (2.0, 1.0, False)])
def test_the_faster_library_is_taken(monkeypatch, unmeasured, onednn_s, other_s, wanted):
    before = SETTING.fp32_precision
    Clock(monkeypatch, {"bf16": onednn_s, "ieee": other_s})
    if torch.cpu._is_amx_tile_supported():
        wanted = False  # torch's oneDNN products round to bfloat16 there
    assert products._prefers_onednn() is wanted
    assert SETTING.fp32_precision == before


def test_a_library_that_rounds_more_than_float32_is_not_taken(monkeypatch, unmeasured):
    Clock(monkeypatch, {"bf16": 1.0, "ieee": 2.0})
    mm = torch.mm

    def rounding(x_IK, y_KJ, *, out):
        return mm(x_IK.bfloat16().float(), y_KJ.bfloat16().float(), out=out)

    monkeypatch.setattr(products.torch, "mm", rounding)
    assert products._prefers_onednn() is False


def test_threads_that_ask_at_once_measure_once(monkeypatch, unmeasured):
    clock = Clock(monkeypatch, {"bf16": 1.0, "ieee": 2.0})
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: products._prefers_onednn(), range(4)))
    assert len(set(answers)) == 1
    assert clock.products == 16
