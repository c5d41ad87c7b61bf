"""The service's parts below gRPC: bandwidth rules, settings, deadlines and cancellation of jobs."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.mmd_options import make_options

from vfmalign.client.messages.mmd import BandwidthRule, Estimator, Precision, TestMethod
from vfmalign.core.domain.errors import BadOption, Cancelled, DeadlineExceeded, Exhausted
from vfmalign.core.rpc.tensors import to_tensor
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.memory_budget import SampleShape
from vfmalign.mmd.comparison.options import check_options
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.comparison.standardisation import scalings
from vfmalign.mmd.engine import ordered_pool, precision
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import KERNELS
from vfmalign.mmd.engine.precision import EXACT_FLOP
from vfmalign.mmd.service import comparison_job, converters
from vfmalign.mmd.service.comparison_job import ComparisonJob, PreparedComparison
from vfmalign.mmd.service.feature_reader import FeatureReader
from vfmalign.mmd.settings import MmdOptions, to_compute_config
from vfmalign.mmd.statistics.similarity import MAX_ROWS, MEASURES
from vfmalign.v1 import mmd_pb2 as pb

SOURCE = pb.FeatureSource(feature_set_id="a")
MEDIAN, FIXED = pb.BANDWIDTH_RULE_REFERENCE_MEDIAN, pb.BANDWIDTH_RULE_FIXED
POOLED = pb.BANDWIDTH_RULE_POOLED_MEDIAN


def to_checked_options(request):
    options = converters.to_options(request)
    check_options(options, has_reference=request.HasField("reference"))
    return options


def test_a_request_without_a_pairing_is_told_the_choices():
    with pytest.raises(BadOption) as caught:
        converters.to_options(pb.ComputeRequest())
    assert caught.value.field == "pairing"
    assert "PAIRING_PAIRED" in caught.value.remedy
    assert "PAIRING_INDEPENDENT" in caught.value.remedy


@pytest.mark.parametrize(
    ("rule", "sigma", "reference", "expected"),
    [
        (0, 0.0, True, "reference"),
        (0, 2.0, False, 2.0),
        (0, 2.0, True, 2.0),
        (FIXED, 2.0, True, 2.0),
        (MEDIAN, 0.0, True, "reference"),
        (POOLED, 0.0, True, "pooled"),
        (POOLED, 0.0, False, "pooled"),
    ],
)
def test_bandwidth_rules(rng, brute, rule, sigma, reference, expected):
    kernel = pb.Kernel(bandwidth_rule=rule, fixed_sigma=sigma)
    request = pb.ComputeRequest(pairing=pb.PAIRING_PAIRED, kernel=kernel, reference=SOURCE if reference else None)
    x, y, fitted = (rng.normal(scale=scale, size=(12, 3)) for scale in (1.0, 2.0, 5.0))
    sigmas = {"reference": brute.median(fitted), "pooled": brute.median(np.concatenate([x, y]))}
    features = [x, y, fitted] if reference else [x, y]
    raw = next(scalings(features, "a", to_checked_options(request).kernel, ComputeConfig()))
    assert raw.sigma == pytest.approx(sigmas.get(expected, expected), rel=1e-12)


def test_a_bandwidth_from_nowhere_is_refused():
    for rule in (0, MEDIAN):
        with pytest.raises(BadOption, match="needs a reference or a fixed σ") as caught:
            to_checked_options(pb.ComputeRequest(pairing=pb.PAIRING_PAIRED, kernel=pb.Kernel(bandwidth_rule=rule)))
        assert caught.value.field == "kernel"


def test_a_fixed_bandwidth_of_zero_is_refused():
    kernel = pb.Kernel(bandwidth_rule=FIXED)
    with pytest.raises(BadOption, match="expected σ from 1e-100 to 1e100, got 0") as caught:
        to_checked_options(pb.ComputeRequest(pairing=pb.PAIRING_PAIRED, kernel=kernel, reference=SOURCE))
    assert caught.value.field == "kernel.fixed_sigma"


@pytest.mark.parametrize("rule", [MEDIAN, POOLED, 7])
def test_a_median_with_a_fixed_bandwidth_is_refused(rule):
    kernel = pb.Kernel(bandwidth_rule=rule, fixed_sigma=2.0)
    with pytest.raises(BadOption):
        to_checked_options(pb.ComputeRequest(pairing=pb.PAIRING_PAIRED, kernel=kernel, reference=SOURCE))


def test_options_have_the_documented_defaults():
    options = converters.to_options(pb.ComputeRequest(pairing=pb.PAIRING_INDEPENDENT))
    assert options == make_options("independent", interval_level=0.95)


def _words(enum):
    """An enum's values by the words that follow its name."""
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.DESCRIPTOR.name).lstrip("_") + "_"
    return {name.removeprefix(prefix).lower(): number for name, number in enum.items() if number}


def test_every_word_of_the_api_is_one_of_the_engine():
    base = {"pairing": pb.PAIRING_INDEPENDENT, "kernel": pb.Kernel(fixed_sigma=1.0)}

    def asked(**fields):
        return converters.to_options(pb.ComputeRequest(**{**base, **fields}))

    assert set(_words(pb.KernelFamily)) == set(KERNELS)
    assert set(_words(pb.Measure)) == set(MEASURES)
    paired = {**base, "pairing": pb.PAIRING_PAIRED}
    for word, number in _words(pb.Measure).items():
        request = pb.ComputeRequest(**paired, measures=[number, number])
        assert converters.to_options(request).measures == (word,)
    for word, number in _words(pb.KernelFamily).items():
        assert asked(kernel=pb.Kernel(family=number, fixed_sigma=1.0)).kernel.family == word
    assert set(_words(pb.Estimator)) == set(get_args(Estimator))
    for word, number in _words(pb.Estimator).items():
        assert asked(estimator=number).estimator == word
    assert set(_words(pb.Precision)) == set(get_args(Precision))
    for word, number in _words(pb.Precision).items():
        assert asked(precision=number).precision == word
    assert set(_words(pb.TestMethod)) == set(get_args(TestMethod))
    for word, number in _words(pb.TestMethod).items():
        assert asked(test=pb.TestOptions(method=number)).test.method == word
    assert set(_words(pb.BandwidthRule)) == set(get_args(BandwidthRule))
    options = asked(frequencies=700, test=pb.TestOptions(permutations=3, seed=2, aggregated=True))
    assert (options.frequencies, options.test.aggregated) == (700, True)


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"precision": 9}, "precision"), ({"test": pb.TestOptions(method=9)}, "test.method")],
)
def test_unknown_enum_values_are_refused(fields, field):
    with pytest.raises(BadOption) as caught:
        converters.to_options(pb.ComputeRequest(pairing=pb.PAIRING_PAIRED, **fields))
    assert caught.value.field == field


def test_an_unnamed_inline_layer_is_called_features():
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    message = pb.FeatureSource(inline=pb.InlineFeatures(layers=[pb.InlineLayer(features=to_tensor(array))]))
    sample = converters.to_source(message, "x")
    np.testing.assert_array_equal(sample.layers["features"], array)
    assert (sample.name, sample.groups, sample.case_ids) == ("x", (), ())


def _job(rows=50, **fields):
    rng = np.random.default_rng(0)
    x, y = (Sample(name, {"a": rng.normal(size=(rows, 2))}) for name in ("x", "y"))
    return ComparisonJob([x, y], make_options("paired", fixed_sigma=1.0), FeatureReader(None), **fields)


def _run(job, engine=None):
    engine = engine or ComputeConfig()
    return comparison_job.run(comparison_job.prepare(job, engine), engine)


def test_a_job_stops_when_its_caller_is_gone_or_late():
    with pytest.raises(Cancelled):
        _run(_job(context=WorkContext(is_cancelled=lambda: True)))
    with pytest.raises(DeadlineExceeded):
        _run(_job(context=WorkContext(time.monotonic() - 1.0)))


def test_a_job_stops_at_the_next_tile(monkeypatch):
    monkeypatch.setattr(ordered_pool, "_MAX_THREADS", 1)
    monkeypatch.setattr(comparison_job, "_read", lambda prepared: prepared.job.sources)
    checks, last = 0, -1

    def is_cancelled():
        nonlocal checks
        checks += 1
        return checks == last

    engine = ComputeConfig(tile_shape=(5, 5))
    _run(_job(context=WorkContext(is_cancelled=is_cancelled)), engine)
    expected = 2 + 1 + 2 + 5 * 55
    assert checks == expected, "planning and beginning; the centre; a block of each sample; 55 tiles of four products"
    checks, last = 0, 9
    with pytest.raises(Cancelled):
        _run(_job(context=WorkContext(is_cancelled=is_cancelled)), engine)
    assert checks == 9


def test_a_read_that_blocks_does_not_keep_the_worker_of_a_job_that_was_cancelled():
    begun, release, cancelled = threading.Event(), threading.Event(), threading.Event()

    class Blocked(FeatureReader):
        def read(self, sources, context, **options):
            begun.set()
            assert release.wait(60)
            return super().read(sources, context, **options)

    job = _job(context=WorkContext(is_cancelled=cancelled.is_set))
    blocked = PreparedComparison(replace(job, reader=Blocked(None)), None, short=False)
    with ThreadPoolExecutor(1) as worker:
        running = worker.submit(comparison_job.run, blocked, ComputeConfig())
        try:
            assert begun.wait(20)
            cancelled.set()
            with pytest.raises(Cancelled):
                running.result(20)
            following = worker.submit(
                comparison_job.run, PreparedComparison(_job(), None, short=False), ComputeConfig()
            )
        finally:
            release.set()
        assert following.result(20).layers


def test_a_job_says_what_it_cost():
    outcome = _run(_job(context=WorkContext(time.monotonic() + 60.0)))
    assert [one.stage for one in outcome.cost.stages] == ["read", "compare"]
    assert (outcome.cost.device, outcome.cost.peak_device_memory_bytes) == ("cpu", 0)


def test_a_job_that_runs_out_of_memory_is_refused(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(comparison_job, "compare_checked", fails)
    with pytest.raises(Exhausted, match="did not fit") as refused:
        _run(_job())
    assert refused.value.reason == "DEVICE_MEMORY"


def _shapes(rows, channels, samples=2):
    return [SampleShape(rows, {"a": channels}, rows) for _ in range(samples)]


@pytest.mark.parametrize(
    ("rows", "channels", "options", "short"),
    [
        (256, 768, {"permutations": 1000}, True),
        (500, 768, {}, True),
        (1000, 768, {}, False),
        (256, 768, {"permutations": 10_000}, False),
        (10_000, 64, {"estimator": "random_fourier"}, False),
    ],
)
def test_what_computes_little_is_short(rows, channels, options, short):
    asked = make_options("independent", fixed_sigma=1.0, **options)
    assert memory_budget.is_short(_shapes(rows, channels), asked, ComputeConfig()) == short


def test_every_layer_and_the_reference_count_for_what_is_short():
    small, reference = SampleShape(64, {"a": 768}, 64), SampleShape(4096, {"a": 768}, 4096)
    options = make_options("paired")
    assert memory_budget.is_short([small, small, small], options, ComputeConfig())
    assert not memory_budget.is_short([small, small, reference], options, ComputeConfig())
    layers = [SampleShape(300, {str(layer): 768 for layer in range(4)}, 300)] * 2
    assert not memory_budget.is_short(layers, options, ComputeConfig())
    assert memory_budget.is_short(layers, options.model_copy(update={"layers": ("0", "1")}), ComputeConfig())


def test_what_needs_much_of_the_memory_is_not_short():
    options, engine = make_options("paired", fixed_sigma=1.0), ComputeConfig(memory_bytes=2**31)
    assert memory_budget.is_short(_shapes(100, 8), options, engine)
    needed = memory_budget.get_peak_bytes(_shapes(100, 8), options, engine)
    assert not memory_budget.is_short(_shapes(100, 8), options, replace(engine, memory_bytes=3 * needed))


@pytest.mark.parametrize("device", EXACT_FLOP)
def test_a_short_comparison_computes_in_float64_and_so_shares_no_setting_of_torch(device):
    rows = int((memory_budget.SHORT_OPERATIONS / 64) ** 0.5)
    for least in get_args(Precision):
        assert precision.choose(least, rows, 64, torch.device(device)) == "float64"


def test_too_many_rows_are_not_projected(monkeypatch, rng):
    monkeypatch.setattr(memory_budget, "MAX_PROJECTED_ROWS", 9)
    sample = Sample("x", {"a": rng.normal(size=(10, 2))})
    with pytest.raises(BadOption, match="9 rows"):
        memory_budget.check_samples_fit([sample, sample], make_options("paired", projection=True), ComputeConfig())


def test_settings_choose_the_engine():
    engine = to_compute_config(MmdOptions(device="cpu", memory_mib=32, precision="exact", backend="torch"))
    assert (engine.device, engine.precision, engine.backend) == (torch.device("cpu"), "exact", "torch")
    assert engine.memory_bytes == 32 * 2**20
    with pytest.raises(BadOption, match="VFMALIGN_MMD__DEVICE"):
        to_compute_config(MmdOptions(device="cuda:77"))
    with pytest.raises(ValidationError):
        MmdOptions(device="tpu")


def test_samples_without_channels_that_do_not_fit_are_too_large():
    shapes = [memory_budget.get_sample_shape(Sample(name, {"a": np.zeros(900)})) for name in ("x", "y")]
    options = make_options("independent", fixed_sigma=1.0, permutations=100_000)
    with pytest.raises(Exhausted, match="fewer permutations"):
        memory_budget.check_sizes(shapes, options, ComputeConfig(memory_bytes=2**20))


def test_a_measure_of_too_many_rows_is_refused_before_anything_is_read():
    given = [SampleShape(MAX_ROWS + 1, {"a": 4}, 9), SampleShape(9, {"a": 4}, 9)]

    def check(shapes, **fields):
        options = make_options("independent", fixed_sigma=1.0, **fields)
        memory_budget.check_sizes(shapes, options, ComputeConfig())

    with pytest.raises(BadOption, match=f"at most {MAX_ROWS} rows of a sample, got {MAX_ROWS + 1} in `x`"):
        check(given, measures=("energy",))
    check(given)
    axes = [given[1], given[1], SampleShape(5000, {"wide": 5000, "a": 4}, 9)]
    check(axes, measures=("frechet",), layers=("a",))
    with pytest.raises(BadOption, match="at most 1536 rows or channels, got 5000 rows of 5000 channels in `reference`"):
        check(axes, measures=("frechet",))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_counts_in_memory(measure):
    given = [SampleShape(4000, {"a": 768}, 4000)] * 2
    plain = make_options("paired", fixed_sigma=1.0)
    asked = plain.model_copy(update={"measures": (measure,)})
    assert (
        memory_budget.get_peak_bytes(given, asked, ComputeConfig())
        > memory_budget.get_peak_bytes(given, plain, ComputeConfig()) + 2**24
    )
