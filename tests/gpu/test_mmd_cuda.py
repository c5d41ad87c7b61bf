"""The MMD engine gives the same numbers on a CUDA device as on the CPU."""

import numpy as np
import pytest
import torch
from tests.mmd_options import make_options

from vfmalign.mmd.comparison import layer_pass
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_cuda_equals_cpu(pairing, precision, monkeypatch):
    monkeypatch.setattr(layer_pass.precision, "choose", lambda *_, **__: precision)
    monkeypatch.setattr(layer_pass.precision, "SAFE_MULTIPLE_OF_BOUND", 0.0)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 64)).astype(np.float32)
    y = (0.5 * x + rng.normal(size=(300, 64))).astype(np.float32)
    reference = Sample("reference", {"a": rng.normal(size=(200, 64)).astype(np.float32)})
    options = make_options(pairing, permutations=300, projection=True)
    results = [
        compare(
            Sample("x", {"a": x}),
            Sample("y", {"a": y}),
            reference,
            options,
            ComputeConfig(device=torch.device(name), backend="torch", tile_shape=(77, 150)),
        )
        for name in ("cpu", "cuda")
    ]
    for first, second in (
        (results[0].layers[0].raw, results[1].layers[0].raw),
        (results[0].layers[0].standardised, results[1].layers[0].standardised),
    ):
        assert second.mmd2.value == pytest.approx(first.mmd2.value, abs=2 * first.error_bound)
        assert second.sigma == pytest.approx(first.sigma, rel=1e-12)
        assert second.p_value == first.p_value
    found, expected = ([(point.u, point.v) for point in result.projection.x] for result in results[::-1])
    np.testing.assert_allclose(found, expected, atol=1e-8)
