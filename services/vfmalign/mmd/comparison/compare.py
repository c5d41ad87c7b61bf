"""One comparison: two samples and a reference in, MMD² per layer with its uncertainty out.

`compare` is the main path and reads top to bottom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import (
    ComputeOptions,
    ComputeResponse,
    ExcludedMovement,
    LayerResult,
    Measure,
    MeasureResult,
    Projection,
    ShiftResult,
    TestOptions,
    TopChannels,
)
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison import memory_budget, samples
from vfmalign.mmd.comparison.all_pairs import EvaluatedShift, compute_exact_shifts
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
from vfmalign.mmd.engine.precision import PRECISIONS
from vfmalign.mmd.engine.row_streams import to_stream
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
        x: the first sample (before). Features that do not fit into memory are streams, which are compared in panels of
            rows (`engine.out_of_core`); rows of a group must then be adjacent.
        y: the second sample (after).
        reference_sample: sets centre, scale of each channel and bandwidth, and is in memory; None needs another rule
            for the bandwidth.
        options: layers, estimator, kernel and test.
        engine: device, precision and memory limit.
        standardise: whether to compare standardised features too, where there is a reference.
        measure_channels: whether to measure what the channels that move most contribute to standardised features, and
            how far those move that standardisation excludes.

    Raises:
        BadOption: options that do not fit together or to the samples, or a bandwidth of 0.
        BadTensor: features that are not finite or do not fit together.
        CaseOrderMismatch: paired samples that are not the same cases in the same order.
        TooLarge: the comparison does not fit into memory.
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
    """Compares two samples as `compare` does, whose options and sizes were checked before they were read.

    The checks are `options.check_options` and `memory_budget.check_sizes`.
    """
    if options.first_groups:
        for sample in (x, y):
            samples.check(sample, engine.context)
        x, y, reference_sample = samples.choose_first(x, y, options.first_groups)
    all_samples = [x, y] if reference_sample is None else [x, y, reference_sample]
    engine = replace(engine, precision=options.precision or engine.precision)
    names = _check_samples(all_samples, options, engine.context)
    scaled, projection = _scale_layers(all_samples, names, options, engine, standardise=standardise)
    if x.is_streamed or y.is_streamed:
        x, y = samples.number_groups(x), samples.number_groups(y)
        reference = [memory_budget.get_sample_shape(sample) for sample in all_samples[2:]]
        engine = memory_budget.reserve_for_reference(reference, engine)
    design = create_design(x, y, options)
    estimator = options.estimator or estimators.get_default(options.pairing, options.test.method)
    plan = None
    if estimator == "random_fourier":
        shifts = {scaling: _approximate(x, y, by_layer, options, engine) for scaling, by_layer in scaled.items()}
    else:
        plan = LayerPlan(options, estimator, design, _permutations(design, options.test, engine.context), engine)
        shifts = {scaling: compute_exact_shifts(x, y, by_layer, plan) for scaling, by_layer in scaled.items()}
    channels: dict[str, tuple[TopChannels, ExcludedMovement]] = {}
    for layer, result in shifts.get("standardised", {}).items() if measure_channels else ():
        standardised = scaled["standardised"][layer]
        pair, raw = [sample.layers[layer] for sample in all_samples[:2]], shifts["raw"][layer].shift
        channels[layer] = (
            measure_top_channels(all_samples, layer, standardised, result.shift, plan),
            measure_excluded_movement(pair, standardised, raw, options.pairing, engine),
        )
    evaluated = [result for by_layer in shifts.values() for result in by_layer.values()]
    return ComputeResponse(
        layers=tuple(
            _to_layer_result(name, all_samples, scaled, shifts, channels.get(name), options=options, engine=engine)
            for name in names
        ),
        primary_layer=names[0],
        estimator=estimator,
        rows_x=x.rows,
        rows_y=y.rows,
        groups=design.groups,
        precision=min((result.shift.precision for result in evaluated), key=PRECISIONS.index),
        projection=projection,
        backend="triton" if all(result.backend == "triton" for result in evaluated) else "torch",
        backend_note=next((result.backend_note for result in evaluated if result.backend_note), ""),
        reference_caution="" if reference_sample is None else samples.describe_shared_cases(*all_samples),
    )


def _check_samples(all_samples: Sequence[Sample], options: ComputeOptions, context: WorkContext) -> tuple[str, ...]:
    """Checks the samples and whether the options fit them; returns the layers to compare, the primary one first."""
    for sample in all_samples:
        samples.check(sample, context)
    names = samples.common_layers(all_samples, options.layers, options.primary_layer)
    samples.check_relation(all_samples[0], all_samples[1], options.pairing)
    return names


def _scale_layers(
    all_samples: Sequence[Sample],
    names: Sequence[str],
    options: ComputeOptions,
    engine: ComputeConfig,
    *,
    standardise: bool,
) -> tuple[dict[str, dict[str, Scaled]], Projection | None]:
    """Returns every layer raw and standardised, and the projection of the primary one if it is requested."""
    scaled: dict[str, dict[str, Scaled]] = {}
    projection: Projection | None = None
    for layer in names:
        features = [sample.layers[layer] for sample in all_samples]
        for scaling in scalings(features, layer, options.kernel, engine, standardise=standardise):
            scaled.setdefault(scaling.name, {})[layer] = scaling
            if options.projection and layer == names[0]:
                arrays = [array for array in features if isinstance(array, np.ndarray)]
                projection = project(arrays, scaling.affine, engine.device, engine.context)
    return scaled, projection


def _to_layer_result(
    layer: str,
    all_samples: Sequence[Sample],
    scaled: Mapping[str, Mapping[str, Scaled]],
    shifts: Mapping[str, Mapping[str, EvaluatedShift]],
    channels: tuple[TopChannels, ExcludedMovement] | None,
    *,
    options: ComputeOptions,
    engine: ComputeConfig,
) -> LayerResult:
    scaling = _choose_scaling(scaled, layer)
    features = [sample.layers[layer] for sample in all_samples]
    top_channels, excluded_movement = channels or (None, None)
    return LayerResult(
        layer=layer,
        channels=samples.get_shape(features[0])[1],
        channels_excluded=scaling.channels_excluded,
        channels_at_floor=scaling.channels_at_floor,
        raw=shifts["raw"][layer].shift,
        standardised=shifts["standardised"][layer].shift if "standardised" in shifts else None,
        measures=_measures(features, scaling, options, engine),
        top_channels=top_channels,
        excluded_movement=excluded_movement,
    )


def get_value(shift: ShiftResult) -> float:
    """The estimate.

    Raises:
        BadOption: there is none; the message says why.
    """
    if shift.mmd2.value is None:
        raise BadOption(shift.mmd2.absent_reason, field="x", remedy="give more rows")
    return shift.mmd2.value


def _permutations(design: Design, test: TestOptions, context: WorkContext) -> Permutations:
    """The permutations that all layers share."""
    if test.permutations == 0:
        return no_permutations(design.groups, "no test was requested")
    return design.permutations(test.permutations, test.seed, context)


def _choose_scaling(scaled: Mapping[str, Mapping[str, Scaled]], layer: str) -> Scaled:
    """Returns the standardised layer if there is one, else the raw layer."""
    return scaled.get("standardised", scaled["raw"])[layer]


def _measures(
    features: Sequence[Features], scaled: Scaled, options: ComputeOptions, engine: ComputeConfig
) -> tuple[MeasureResult, ...]:
    """The measures beside MMD² that the options name, of features in memory."""
    if scaled.absent_reason:
        return tuple(MeasureResult(measure=name, value=absent(scaled.absent_reason)) for name in options.measures)
    if not options.measures:
        return ()
    cpu = torch.device("cpu")
    moved = [
        rows.prepare([(sample, None)], scaled.affine, "float64", cpu, context=engine.context).values_NK.numpy()
        for sample in features
        if isinstance(sample, np.ndarray)
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
    x: Sample, y: Sample, scaled_by_layer: Mapping[str, Scaled], options: ComputeOptions, engine: ComputeConfig
) -> dict[str, EvaluatedShift]:
    """Computes all layers, raw or standardised, by random Fourier features."""
    return {
        layer: EvaluatedShift(
            approximate_shift(
                to_stream(x.layers[layer], x.name),
                to_stream(y.layers[layer], y.name),
                scaled,
                options,
                engine,
                groups_x=x.groups,
                groups_y=y.groups,
            )
        )
        for layer, scaled in scaled_by_layer.items()
    }
