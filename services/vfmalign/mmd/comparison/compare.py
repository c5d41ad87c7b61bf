"""Comparison of two samples: MMD² per layer, with its uncertainty.

Start reading at `compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import (
    ComputeOptions,
    ComputeResponse,
    LayerResult,
    Measure,
    MeasureResult,
    Projection,
    ShiftResult,
    TestOptions,
)
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison import memory_budget, samples
from vfmalign.mmd.comparison.all_pairs import EvaluatedShift, adjust_over_layers, compute_exact_shift
from vfmalign.mmd.comparison.designs import Design, create_design
from vfmalign.mmd.comparison.excluded_movement import measure_excluded_movement
from vfmalign.mmd.comparison.fourier_shift import approximate_shift
from vfmalign.mmd.comparison.layer_pass import LayerPlan
from vfmalign.mmd.comparison.options import check_options
from vfmalign.mmd.comparison.samples import Features, Sample
from vfmalign.mmd.comparison.standardisation import Scaled, scalings
from vfmalign.mmd.comparison.top_channels import measure_top_channels
from vfmalign.mmd.engine import rows
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.lru_cache import NO_CACHE
from vfmalign.mmd.engine.precision import PRECISIONS
from vfmalign.mmd.engine.row_streams import FeatureArray, to_stream
from vfmalign.mmd.statistics import estimators
from vfmalign.mmd.statistics.permutations import Permutations, no_permutations
from vfmalign.mmd.statistics.projection import project
from vfmalign.mmd.statistics.similarity import MEASURES, MeasureInput, MeasureValue

_NO_INTERVAL = "measures beside MMD² are values alone, without an interval"


def compare(
    x: Sample,
    y: Sample,
    reference_sample: Sample | None,
    options: ComputeOptions,
    engine: ComputeConfig,
    *,
    standardise: bool = True,
    measure_channels: bool = True,
) -> ComputeResponse:
    """Checks options and sizes, and compares two samples layer by layer.

    Args:
        x: the first sample (before). If the layers of x do not fit into memory together, each layer is a stream, and
            one layer is read at a time. The estimator `random_fourier` reads streams block by block and requires the
            rows of a group to be adjacent.
        y: the second sample (after).
        reference_sample: sample from which the centre and scale of each channel and the bandwidth are computed. If
            None, `options` must contain a bandwidth rule that needs no reference.
        options: layers, estimator, kernel and test to use.
        engine: device, precision and memory limit.
        standardise: whether to compare standardised features as well, if there is a reference.
        measure_channels: whether to measure two things: how much the channels that move most contribute, and how far
            the channels that standardisation excludes move.

    Raises:
        BadOption: options conflict with each other or with the samples, or the bandwidth is 0.
        BadTensor: features are not finite, or their shapes do not match.
        CaseOrderMismatch: paired samples are not the same cases in the same order.
        TooLarge: the comparison needs more memory than the limit.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    check_options(options, has_reference=reference_sample is not None)
    memory_budget.check_samples_fit([x, y] if reference_sample is None else [x, y, reference_sample], options, engine)
    return compare_checked(
        x, y, reference_sample, options, engine, standardise=standardise, measure_channels=measure_channels
    )


def compare_checked(
    x: Sample,
    y: Sample,
    reference_sample: Sample | None,
    options: ComputeOptions,
    engine: ComputeConfig,
    *,
    standardise: bool = True,
    measure_channels: bool = True,
) -> ComputeResponse:
    """Compares two samples as `compare` does, without checking options and sizes.

    Before the caller reads the samples, it must call `options.check_options` and `memory_budget.check_sizes`.
    """
    if options.first_groups:
        for sample in (x, y):
            samples.check(sample, engine.context)
        x, y, reference_sample = samples.choose_first(x, y, options.first_groups)
    all_samples = [x, y] if reference_sample is None else [x, y, reference_sample]
    engine = replace(engine, precision=options.precision or engine.precision)
    names = _check_samples(all_samples, options, engine.context)
    estimator = options.estimator or estimators.get_default(options.pairing, options.test.method)
    if estimator == "random_fourier" and (x.is_streamed or y.is_streamed):
        x, y = samples.number_groups(x), samples.number_groups(y)
    design = create_design(x, y, options)
    plan = None
    if estimator != "random_fourier":
        plan = LayerPlan(options, estimator, design, _permutations(design, options.test, engine.context), engine)
    compared = [
        _compare_layer(
            name,
            [x, y, *all_samples[2:]],
            options,
            engine,
            plan,
            standardise=standardise,
            measure_channels=measure_channels,
            projected=options.projection and name == names[0],
        )
        for name in names
    ]
    if plan is not None:
        compared = _adjust_over_layers(compared, plan.permutations)
    evaluated = [shift for layer in compared for shift in layer.shifts.values()]
    return ComputeResponse(
        layers=tuple(layer.to_result() for layer in compared),
        primary_layer=names[0],
        estimator=estimator,
        rows_x=x.rows,
        rows_y=y.rows,
        groups=design.groups,
        precision=min((result.shift.precision for result in evaluated), key=PRECISIONS.index),
        projection=compared[0].projection,
        backend="triton" if all(result.backend == "triton" for result in evaluated) else "torch",
        backend_note=next((result.backend_note for result in evaluated if result.backend_note), ""),
        reference_caution="" if reference_sample is None else samples.describe_shared_cases(*all_samples),
    )


def _check_samples(all_samples: Sequence[Sample], options: ComputeOptions, context: WorkContext) -> tuple[str, ...]:
    """Checks the samples and the options; returns the layers to compare, with the primary layer first."""
    for sample in all_samples:
        samples.check(sample, context)
    names = samples.common_layers(all_samples, options.layers, options.primary_layer)
    samples.check_relation(all_samples[0], all_samples[1], options.pairing)
    return names


@dataclass(frozen=True)
class _ComparedLayer:
    """Result of one layer before its p-values are adjusted over all layers.

    Attributes:
        shifts: maps `raw`, and `standardised` if there is a reference, to the shift of these features.
        result: result of the layer.
    """

    shifts: Mapping[str, EvaluatedShift]
    result: LayerResult
    projection: Projection | None

    def to_result(self) -> LayerResult:
        return self.result.model_copy(update={scaling: evaluated.shift for scaling, evaluated in self.shifts.items()})


def _compare_layer(
    layer: str,
    all_samples: Sequence[Sample],
    options: ComputeOptions,
    engine: ComputeConfig,
    plan: LayerPlan | None,
    *,
    standardise: bool,
    measure_channels: bool,
    projected: bool,
) -> _ComparedLayer:
    """Compares one layer. Random Fourier features read a stream in blocks; all others load it into memory."""
    stored = [sample.layers[layer] for sample in all_samples]
    if any(not isinstance(features, np.ndarray) for features in stored):
        engine = replace(engine, cache=NO_CACHE)  # the cache's keys would keep every layer in memory
        plan = None if plan is None else replace(plan, engine=engine)
    streamed = 2 if memory_budget.reads_blocks(options) else 0
    features = [*stored[:streamed], *(samples.read_layer(one, engine.context) for one in stored[streamed:])]
    arrays = [one for one in features if isinstance(one, np.ndarray)]
    scaled = {one.name: one for one in scalings(features, layer, options.kernel, engine, standardise=standardise)}
    shifts = {
        name: _approximate(all_samples, features, one, options, engine)
        if plan is None
        else compute_exact_shift(one, arrays[0], arrays[1], plan, layer)
        for name, one in scaled.items()
    }
    top_channels, excluded_movement = None, None
    if "standardised" in scaled and measure_channels:
        standardised = scaled["standardised"]
        top_channels = measure_top_channels(arrays, layer, standardised, shifts["standardised"].shift, plan)
        excluded_movement = measure_excluded_movement(
            features[:2], standardised, shifts["raw"].shift, options.pairing, engine
        )
    scaling = scaled.get("standardised", scaled["raw"])
    result = LayerResult(
        layer=layer,
        channels=samples.get_shape(features[0])[1],
        channels_excluded=scaling.channels_excluded,
        channels_at_floor=scaling.channels_at_floor,
        raw=shifts["raw"].shift,
        standardised=shifts["standardised"].shift if "standardised" in shifts else None,
        measures=_measures(arrays, scaling, options, engine),
        top_channels=top_channels,
        excluded_movement=excluded_movement,
    )
    projection = project(arrays, scaling.affine, engine.device, engine.context) if projected else None
    return _ComparedLayer(shifts, result, projection)


def _adjust_over_layers(compared: Sequence[_ComparedLayer], permutations: Permutations) -> list[_ComparedLayer]:
    """Adjusts the p-values over all layers, separately for raw and standardised features."""
    adjusted = {
        scaling: adjust_over_layers({layer.result.layer: layer.shifts[scaling] for layer in compared}, permutations)
        for scaling in compared[0].shifts
    }
    return [
        replace(layer, shifts={scaling: by_layer[layer.result.layer] for scaling, by_layer in adjusted.items()})
        for layer in compared
    ]


def get_value(shift: ShiftResult) -> float:
    """Returns the estimate.

    Raises:
        BadOption: there is no estimate; the message contains the reason.
    """
    if shift.mmd2.value is None:
        raise BadOption(shift.mmd2.absent_reason, field="x", remedy="give more rows")
    return shift.mmd2.value


def _permutations(design: Design, test: TestOptions, context: WorkContext) -> Permutations:
    """Draws the permutations that all layers share."""
    if test.permutations == 0:
        return no_permutations(design.groups, "no test was requested")
    return design.permutations(test.permutations, test.seed, context)


def _measures(
    arrays: Sequence[FeatureArray], scaled: Scaled, options: ComputeOptions, engine: ComputeConfig
) -> tuple[MeasureResult, ...]:
    """Computes the requested measures other than MMD²."""
    if scaled.absent_reason:
        return tuple(MeasureResult(measure=name, value=absent(scaled.absent_reason)) for name in options.measures)
    if not options.measures:
        return ()
    cpu = torch.device("cpu")
    moved = [
        rows.prepare([(sample, None)], scaled.affine, "float64", cpu, context=engine.context).values_NK.numpy()
        for sample in arrays
    ]
    samples_of_layer = MeasureInput(
        moved[0],
        moved[1],
        moved[2] if len(moved) > 2 else None,
        paired=options.pairing == "paired",
        context=engine.context,
    )
    return tuple(_to_result(name, MEASURES[name](samples_of_layer)) for name in options.measures)


def _to_result(measure: Measure, value: MeasureValue) -> MeasureResult:
    estimate = Estimate(value=value.value, absent_reason=value.absent_reason or _NO_INTERVAL)
    return MeasureResult(measure=measure, value=estimate, dimension=value.dimension)


def _approximate(
    all_samples: Sequence[Sample],
    features: Sequence[Features],
    scaled: Scaled,
    options: ComputeOptions,
    engine: ComputeConfig,
) -> EvaluatedShift:
    """Computes one layer, raw or standardised, by random Fourier features."""
    x, y = all_samples[:2]
    streams = to_stream(features[0], x.name), to_stream(features[1], y.name)
    return EvaluatedShift(approximate_shift(*streams, scaled, options, engine, groups_x=x.groups, groups_y=y.groups))
