"""Layers that are streams: read one after another, with the bits of layers in memory, within the memory that counts."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from bench.noise import GaussianRows
from tests.mmd_options import make_options

from vfmalign.core.domain.datasets import MAX_CASES
from vfmalign.core.domain.errors import BadOption, BadTensor, Cancelled, TooLarge
from vfmalign.core.domain.models import MAX_LAYERS
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.compare import compare
from vfmalign.mmd.comparison.memory_budget import SampleShape
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import KERNELS
from vfmalign.mmd.engine.row_streams import ArrayRows
from vfmalign.mmd.settings import MmdOptions, to_compute_config

SERVICE = to_compute_config(MmdOptions(device="cpu"))


def compute_shift(x, y, options, groups_x=(), groups_y=(), context=UNLIMITED):
    pair = Sample("x", {"f": x}, tuple(groups_x)), Sample("y", {"f": y}, tuple(groups_y))
    return compare(*pair, None, options, ComputeConfig(context=context)).layers[0].raw


@pytest.fixture
def samples(rng):
    def draw(n, m, d=5):
        x = rng.normal(size=(n, d)) + 3.0
        return x, (0.5 * x[:m] if n == m else 0.0) + 0.3 + rng.normal(size=(m, d))

    return draw


def streamed(sample):
    return replace(sample, layers={name: ArrayRows(rows, name) for name, rows in sample.layers.items()})


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("precision", ["exact", "high"])
def test_every_number_is_that_of_arrays(samples, monkeypatch, rng, pairing, precision):
    monkeypatch.setattr("vfmalign.mmd.engine.precision.EXACT_FLOP", {"cpu": 0.0})
    x, y = samples(300, 300 if pairing == "paired" else 271, d=8)
    layers = {"a": (x, y), "b": (rng.normal(size=x.shape), rng.normal(size=y.shape))}
    groups = [f"g{row % 40}" for row in range(300)], [f"h{row // 4:03d}" for row in range(len(y))]
    pair = [
        Sample(name, {layer: of[at].astype(np.float32) for layer, of in layers.items()}, tuple(groups[at]))
        for at, name in enumerate("xy")
    ]
    pair[1] = replace(pair[1], groups=pair[0].groups) if pairing == "paired" else pair[1]
    reference = Sample("reference", {name: rng.normal(2.0, 3.0, size=(40, 8)) for name in layers})
    options = make_options(
        pairing, permutations=19, aggregated=True, precision=precision, measures=("energy",), projection=True
    )
    wanted = compare(*pair, reference, options, ComputeConfig())
    found = compare(*map(streamed, pair), streamed(reference), options, ComputeConfig())
    assert found == wanted
    assert {layer.raw.precision for layer in found.layers} == {"float64" if precision == "exact" else "float32"}


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_and_the_pooled_median(samples, kernel):
    x, y = samples(60, 45)
    options = make_options("independent", kernel=kernel, bandwidth_rule="pooled_median", permutations=19)
    assert compute_shift(ArrayRows(x), ArrayRows(y), options) == compute_shift(x, y, options)


def test_one_layer_is_in_memory_at_a_time():
    layers, rows, channels = 8, 4000, 256
    layer_bytes = 4 * rows * channels
    x, y = (
        Sample(name, {str(layer): GaussianRows(rows, channels, seed=layer + at) for layer in range(layers)})
        for at, name in enumerate("xy")
    )
    tracemalloc.start()
    try:
        compare(x, y, None, make_options("independent", fixed_sigma=16.0), ComputeConfig())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 2 * layer_bytes < peak < 4 * layer_bytes


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_the_most_rows_of_a_dataset_fit_into_the_default_memory(pairing):
    """100,000 rows of each sample and of the reference; a layer as wide as that of the largest usual encoders."""
    layers = {f"blocks.{layer}": 1024 for layer in range(MAX_LAYERS)}
    stored = SampleShape(MAX_CASES, layers, MAX_CASES, item_bytes=4, in_parts=True)
    options = make_options(pairing, permutations=1000)
    assert not memory_budget.fits([stored] * 3, options, SERVICE)
    memory_budget.check_sizes([stored] * 3, options, SERVICE)
    one_layer = replace(stored, channels={"blocks.0": 1024}, in_parts=False)
    assert memory_budget.fits([one_layer] * 3, options, SERVICE)
    features, in_float64, weights = 3 * 4, 2 * 8, MAX_CASES * 1000
    assert MAX_CASES * 1024 * (features + in_float64) + weights < memory_budget.get_peak_bytes(
        [one_layer] * 3, options, SERVICE
    )


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_layer_that_does_not_fit_is_refused_and_random_fourier_reads_it_in_blocks(in_parts):
    wide = SampleShape(MAX_CASES, {"a": 3072}, MAX_CASES, item_bytes=4, in_parts=in_parts)
    with pytest.raises(TooLarge) as caught:
        memory_budget.check_sizes([wide, wide], make_options("paired", fixed_sigma=1.0), SERVICE)
    assert (caught.value.reason, caught.value.retry_after_s) == ("TOO_LARGE", None)
    assert caught.value.remedy.startswith("send at most ")
    assert "choose the estimator `random_fourier`, or allow more memory (VFMALIGN_MMD__MEMORY_MIB)" in (
        caught.value.remedy
    )
    fourier = make_options("paired", fixed_sigma=1.0, permutations=1000, estimator="random_fourier")
    long = replace(wide, rows=MAX_CASES if not in_parts else 10**8)
    memory_budget.check_sizes([long, long], fourier, SERVICE)


def test_the_median_of_many_rows_is_that_of_the_rows_that_arrays_draw():
    x, y = GaussianRows(9000, 3, seed=1), GaussianRows(4000, 3, seed=2)
    arrays = [stream.read(0, stream.rows).numpy() for stream in (x, y)]
    options = make_options("independent", bandwidth_rule="pooled_median", estimator="random_fourier")
    sigmas = [compute_shift(*pair, options).sigma for pair in ((x, y), arrays)]
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-12)


def test_random_fourier_reads_streams_as_it_reads_arrays(samples):
    x, y = samples(300, 300)
    options = make_options(
        "independent", fixed_sigma=2.0, estimator="random_fourier", permutations=19, precision="exact"
    )
    found, wanted = compute_shift(ArrayRows(x), ArrayRows(y), options), compute_shift(x, y, options)
    assert found.mmd2.value == pytest.approx(wanted.mmd2.value, rel=1e-12)
    assert found.p_value == wanted.p_value


def test_what_does_not_go_with_streams_is_refused_by_name(samples):
    x, y = (ArrayRows(part) for part in samples(40, 40))
    for options, field in (
        ({"fixed_sigma": 0.0}, "kernel"),
        ({"kernel": "no such"}, "kernel.family"),
        ({"estimator": "unbiased_independent"}, "estimator"),
    ):
        with pytest.raises(BadOption) as caught:
            compute_shift(x, y, make_options(**({"pairing": "paired", "fixed_sigma": 1.0} | options)))
        assert caught.value.field == field
    fourier = make_options("paired", fixed_sigma=1.0, estimator="random_fourier")
    with pytest.raises(BadOption, match="rows of a group of `x` are not contiguous"):
        compute_shift(x, y, fourier, groups_x=[str(i % 20) for i in range(40)])
    independent, shared = make_options("independent", fixed_sigma=1.0), [str(i) for i in range(40)]
    with pytest.raises(BadOption, match="occur in both samples"):
        compute_shift(x, y, independent, groups_x=shared, groups_y=shared)
    with pytest.raises(BadTensor, match="equal row counts"):
        compute_shift(x, ArrayRows(np.zeros((3, 5))), make_options("paired", fixed_sigma=1.0))
    with pytest.raises(BadTensor, match="too large for the kernel"):
        compute_shift(x, ArrayRows(np.full((40, 5), 1e200)), independent)
    with pytest.raises(BadTensor, match="NaN or infinity"):
        compute_shift(x, ArrayRows(np.full((40, 5), np.nan)), independent)
    single = compute_shift(ArrayRows(np.zeros((1, 2))), ArrayRows(np.ones((9, 2))), independent)
    assert "at least 2 rows" in single.mmd2.absent_reason


def test_it_stops_while_a_layer_is_read(samples):
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled("enough")

    x, y = (ArrayRows(part) for part in samples(2000, 2000))
    with pytest.raises(Cancelled):
        compute_shift(
            x,
            y,
            make_options("independent", fixed_sigma=1.0),
            context=WorkContext(is_cancelled=stop),
        )
    assert len(calls) == 3
