"""Which backend sums, and what the answer says: torch, triton where it is requested and runs, a note elsewhere."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tests.mmd_options import make_options

from vfmalign.mmd.comparison import backends
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine import rows, tiles
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import KERNELS

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton, which runs on Linux only")
IN_THE_INTERPRETER = """
import json, sys
import numpy as np
from vfmalign.client.messages.mmd import ComputeOptions, Kernel, TestOptions
from vfmalign.mmd.engine import precision
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.comparison.samples import Sample
precision.EXACT_FLOP["cpu"] = 0.0
x, y = np.load(sys.argv[1])
found = {}
for least in ("high", "exact"):
    kernel, test = Kernel(fixed_sigma=3.0), TestOptions(permutations=9)
    options = ComputeOptions(pairing="paired", kernel=kernel, test=test, precision=least)
    shift = compare(Sample("x", {"f": x}), Sample("y", {"f": y}), None, options, ComputeConfig(backend="triton"))
    found[least] = [shift.layers[0].raw.mmd2.value, shift.backend, shift.backend_note]
print(json.dumps(found))
"""


@pytest.fixture
def pair(rng):
    return rng.normal(size=(40, 6)), rng.normal(0.8, 1.0, size=(40, 6))


def asked(pair, backend):
    x, y = (Sample(name, {"f": part}) for name, part in zip("xy", pair, strict=True))
    options = make_options("paired", fixed_sigma=3.0, permutations=9)
    return compare(x, y, None, options, ComputeConfig(backend=backend))


def test_auto_takes_torch_on_a_cpu_and_has_nothing_to_say(pair):
    found = asked(pair, "auto")
    assert (found.backend, found.backend_note) == ("torch", "")


def test_auto_takes_torch_on_a_cuda_device_even_where_triton_could_run(pair, monkeypatch):
    def fails(*_, **__):
        raise AssertionError("triton was not requested")

    monkeypatch.setattr("vfmalign.mmd.engine.triton.backend.unavailable_reason", lambda *_: "")
    monkeypatch.setattr("vfmalign.mmd.engine.triton.backend.accumulate", fails)
    pooled = rows.prepare([(part, None) for part in pair], rows.UNCHANGED, "float64", torch.device("cpu"))
    layout = tiles.Layout((40, 40), np.arange(80), np.zeros((80, 0), np.int8))
    engine = ComputeConfig(device=torch.device("cuda"))
    found = backends.accumulate(tiles.PooledMatrix(pooled), [KERNELS["gaussian"](3.0, 6)], layout, engine)
    assert (engine.backend, found.backend, found.note) == ("auto", "torch", "")


def test_triton_that_cannot_run_falls_back_and_says_why(pair, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found, wanted = asked(pair, "triton"), asked(pair, "torch")
    assert found.backend == "torch"
    assert "float64 was needed" in found.backend_note or "not installed" in found.backend_note
    assert found.layers[0].raw.mmd2 == wanted.layers[0].raw.mmd2
    monkeypatch.setattr("vfmalign.mmd.engine.precision.EXACT_FLOP", {"cpu": 0.0})
    assert "a CUDA device" in asked(pair, "triton").backend_note or find_spec("triton") is None


@needs_triton
def test_a_program_that_does_not_fit_on_the_device_falls_back_and_says_so(pair, monkeypatch):
    from triton.runtime.errors import OutOfResources

    def fails(*_, **__):
        raise OutOfResources(300_000, 100_000, "shared memory")

    monkeypatch.setattr("vfmalign.mmd.engine.triton.backend.unavailable_reason", lambda *_: "")
    monkeypatch.setattr("vfmalign.mmd.engine.triton.backend.accumulate", fails)
    found = asked(pair, "triton")
    assert (found.backend, "OutOfResources" in found.backend_note) == ("torch", True)
    assert found.layers[0].raw.mmd2 == asked(pair, "torch").layers[0].raw.mmd2


@needs_triton
def test_triton_answers_a_whole_comparison(pair, tmp_path):
    np.save(tmp_path / "pair.npy", np.stack(pair))
    command = [sys.executable, "-c", IN_THE_INTERPRETER, str(tmp_path / "pair.npy")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = asked(pair, "torch").layers[0].raw.mmd2.value
    value, backend, note = found["high"]
    assert (backend, note) == ("triton", "")
    assert value == pytest.approx(wanted, abs=1e-6)
    value, backend, note = found["exact"]
    assert backend == "torch"
    assert "float64 was needed" in note
    assert value == pytest.approx(wanted, rel=1e-12)
