"""The service's parts below gRPC: bandwidth rules, settings, deadlines and cancellation of jobs."""

import time

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vfmalign.core.errors import BadOption, Cancelled, DeadlineExceeded, Exhausted
from vfmalign.core.tensors import to_tensor
from vfmalign.mmd import jobs, limits, translate
from vfmalign.mmd.jobs import Job
from vfmalign.mmd.results import Engine, Options
from vfmalign.mmd.samples import Sample
from vfmalign.mmd.settings import MmdOptions, engine_of
from vfmalign.v1 import mmd_pb2 as pb

SOURCE = pb.FeatureSource(feature_set_id="a")
MEDIAN, FIXED = pb.BANDWIDTH_RULE_REFERENCE_MEDIAN, pb.BANDWIDTH_RULE_FIXED


@pytest.mark.parametrize(
    ("rule", "sigma", "reference", "expected"),
    [
        (0, 0.0, True, None),
        (0, 0.0, False, None),
        (0, 2.0, False, 2.0),
        (FIXED, 2.0, True, 2.0),
        (FIXED, 0.0, True, 0.0),
        (MEDIAN, 0.0, True, None),
    ],
)
def test_bandwidth_rules(rule, sigma, reference, expected):
    request = pb.ComputeRequest(
        pairing=pb.PAIRING_PAIRED,
        kernel=pb.Kernel(bandwidth_rule=rule, fixed_sigma=sigma),
        reference=SOURCE if reference else None,
    )
    assert translate.options_of(request).fixed_sigma == expected


@pytest.mark.parametrize("rule", [0, MEDIAN, 7])
def test_ambiguous_bandwidths_are_refused(rule):
    kernel = pb.Kernel(bandwidth_rule=rule, fixed_sigma=2.0)
    with pytest.raises(BadOption):
        translate.options_of(pb.ComputeRequest(pairing=pb.PAIRING_PAIRED, kernel=kernel, reference=SOURCE))


def test_options_have_the_documented_defaults():
    options = translate.options_of(pb.ComputeRequest(pairing=pb.PAIRING_INDEPENDENT))
    assert options == Options("independent", interval_level=0.95)


def test_an_unnamed_inline_layer_is_called_features():
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    message = pb.FeatureSource(inline=pb.InlineFeatures(layers=[pb.InlineLayer(features=to_tensor(array))]))
    sample = translate.source_of(message, "x")
    np.testing.assert_array_equal(sample.layers["features"], array)
    assert (sample.name, sample.groups, sample.case_ids) == ("x", (), ())


def _job(rows=50, deadline=None):
    rng = np.random.default_rng(0)
    x, y = (Sample(name, {"a": rng.normal(size=(rows, 2))}) for name in ("x", "y"))
    return Job([x, y], Options("paired", fixed_sigma=1.0), deadline)


def test_a_job_stops_when_its_caller_is_gone_or_late():
    with pytest.raises(Cancelled):
        jobs.run(_job(), None, Engine(), lambda: True)
    with pytest.raises(DeadlineExceeded):
        jobs.run(_job(deadline=time.monotonic() - 1.0), None, Engine(), lambda: False)
    answers = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        jobs.run(_job(), None, Engine(tile_rows=5), lambda: next(answers))


def test_a_job_says_what_it_cost():
    outcome = jobs.run(_job(deadline=time.monotonic() + 60.0), None, Engine(), lambda: False)
    assert list(outcome.stages.seconds()) == ["read", "compare"]
    assert (outcome.device, outcome.peak_device_memory_bytes) == ("cpu", 0)


def test_a_job_that_runs_out_of_memory_is_refused(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(jobs, "compare", fails)
    with pytest.raises(Exhausted, match="did not fit"):
        jobs.run(_job(), None, Engine(), lambda: False)


def test_too_many_rows_are_not_projected(monkeypatch, rng):
    monkeypatch.setattr(limits, "MAX_PROJECTED_ROWS", 9)
    sample = Sample("x", {"a": rng.normal(size=(10, 2))})
    with pytest.raises(BadOption, match="9 rows"):
        limits.check_projection([sample, sample], Options("paired", projection=True))


def test_settings_choose_the_engine():
    engine = engine_of(MmdOptions(device="cpu", tile_mib=2, memory_mib=32, precision="float32"))
    assert (engine.device, engine.precision) == (torch.device("cpu"), "float32")
    assert (engine.tile_bytes, engine.memory_bytes) == (2 * 2**20, 32 * 2**20)
    with pytest.raises(BadOption, match="VFMALIGN_MMD__DEVICE"):
        engine_of(MmdOptions(device="cuda:77"))
    with pytest.raises(ValidationError):
        MmdOptions(device="tpu")
