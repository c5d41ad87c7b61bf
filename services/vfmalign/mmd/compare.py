"""One comparison: two samples and a reference in, MMD² per layer with its uncertainty out.

This is the main path; it reads top to bottom. Knows nothing of gRPC or object storage.

Legend: L layers, B relabellings.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from vfmalign.core.errors import BadOption
from vfmalign.mmd import estimators, limits, reference, samples, uncertainty
from vfmalign.mmd.designs import DESIGNS, Design
from vfmalign.mmd.kernels import KERNELS
from vfmalign.mmd.measuring import Measured, Plan, measure
from vfmalign.mmd.projection import Projection, project
from vfmalign.mmd.relabelling import Relabellings, none
from vfmalign.mmd.results import Comparison, Engine, LayerComparison, Options, Shift
from vfmalign.mmd.samples import Sample
from vfmalign.mmd.scalings import Scaled, scalings, to_tensor
from vfmalign.mmd.uncertainty import Estimate


def compare(x: Sample, y: Sample, reference_sample: Sample | None, options: Options, engine: Engine) -> Comparison:
    """Compares two samples layer by layer.

    Args:
        x: the first sample (before).
        y: the second sample (after).
        reference_sample: fixes centre, per-channel scale and bandwidth; None needs `options.fixed_sigma`.
        options: what to compare and how.
        engine: where to compute.

    Raises:
        BadOption: an option out of range, an estimator that does not fit the pairing, a bandwidth of 0.
        BadTensor: features that are not finite or do not fit together.
        CaseOrderMismatch: paired samples that are not the same cases in the same order.
        Exhausted: too large for the memory allowed.
        Cancelled: `engine.should_stop` said so.
    """
    check_options(options, has_reference=reference_sample is not None)
    given = [x, y] if reference_sample is None else [x, y, reference_sample]
    for sample in given:
        samples.check(sample)
    names = samples.common_layers(given, options.layers, options.primary_layer)
    samples.check_relation(x, y, options.pairing)
    limits.check_projection(given, options)
    limits.refuse_too_large([limits.extent_of(sample) for sample in given], options, engine)

    design = DESIGNS[options.pairing](x, y)
    plan = Plan(
        kernel=KERNELS[options.kernel],
        estimator=estimators.resolve(options.pairing, options.estimator),
        design=design,
        relabellings=_relabellings(design, options),
        engine=engine,
    )
    measured: dict[str, dict[str, Measured]] = {}
    left_out: dict[str, int] = {}
    projection: Projection | None = None
    for layer in names:
        for scaled in _scalings(given, layer, plan, options):
            measured.setdefault(scaled.name, {})[layer] = measure(scaled, plan, layer)
            left_out[layer] = scaled.left_out
            if options.projection and layer == names[0]:
                projection = _in_row_order(project(scaled.fitted_FK, scaled.x_NK, scaled.y_MK), design)

    shifts = {scaling: _shifts(by_layer, plan.relabellings, options) for scaling, by_layer in measured.items()}
    precisions = {one.precision for by_layer in measured.values() for one in by_layer.values()}
    return Comparison(
        layers=tuple(
            LayerComparison(
                layer=layer,
                channels=int(x.layers[layer].shape[1]),
                channels_left_out=left_out[layer],
                raw=shifts["raw"][layer],
                standardised=shifts["standardised"][layer] if "standardised" in shifts else None,
            )
            for layer in names
        ),
        primary_layer=names[0],
        estimator=plan.estimator,
        rows_x=x.rows,
        rows_y=y.rows,
        groups=design.groups,
        precision="float32" if "float32" in precisions else "float64",
        projection=projection,
    )


def check_options(options: Options, *, has_reference: bool) -> None:
    """Refuses options that can never succeed, before any feature is read.

    Raises:
        BadOption: an option out of range, or a combination that means nothing.
    """
    estimators.resolve(options.pairing, options.estimator)
    if options.kernel not in KERNELS:
        raise BadOption(f"unknown kernel `{options.kernel}`", field="kernel", remedy=f"use {', '.join(KERNELS)}")
    if options.fixed_sigma is None and not has_reference:
        raise BadOption(
            "there is neither a reference nor a fixed σ to take the bandwidth from",
            field="kernel",
            remedy="send `reference` (features of the training split before fine-tuning) or `fixed_sigma`",
        )
    if options.fixed_sigma is not None and not 1e-100 < options.fixed_sigma < 1e100:
        raise BadOption(
            f"expected a finite σ above 0, got {options.fixed_sigma}",
            field="kernel.fixed_sigma",
            remedy="give σ in units of the features, such as their median distance",
        )
    if not 0.0 < options.interval_level < 1.0:
        raise BadOption(
            f"expected a level in (0, 1), got {options.interval_level}", field="interval_level", remedy="use 0.95"
        )
    if not 0 <= options.seed < 2**64:
        raise BadOption(f"expected a seed from 0 to 2⁶⁴ − 1, got {options.seed}", field="test.seed")
    limits.check_relabellings(options.relabellings)


def _relabellings(design: Design, options: Options) -> Relabellings:
    """The relabellings that all layers share."""
    if options.relabellings == 0:
        return none(design.groups, "no test was asked for")
    return design.relabellings(options.relabellings, options.seed)


def _scalings(given: list[Sample], layer: str, plan: Plan, options: Options) -> Iterator[Scaled]:
    """One layer, raw and standardised, in the design's row order."""
    orders = (plan.design.x_order, plan.design.y_order, None)
    tensors = [to_tensor(one, layer, order, plan.engine.device) for one, order in zip(given, orders, strict=False)]

    def sigma_of(fitted_FK: Tensor) -> float:
        if options.fixed_sigma is not None:
            return options.fixed_sigma
        return reference.median_distance(fitted_FK, layer, plan.engine.should_stop)

    return scalings(tensors[0], tensors[1], tensors[2] if len(tensors) > 2 else None, layer, sigma_of)


def _shifts(measured: dict[str, Measured], relabellings: Relabellings, options: Options) -> dict[str, Shift]:
    """Results of all layers in one scaling; they share the relabellings, so that max-T can adjust over them."""
    present = {layer: one.statistics for layer, one in measured.items() if one.statistics is not None}
    adjusted: dict[str, Estimate] = {}
    if present:
        p_values = uncertainty.max_t_p_values(
            np.array([one.observed for one in present.values()]),
            np.stack([one.relabelled_B for one in present.values()]),
            np.array([measured[layer].bound for layer in present]),
            relabellings,
        )
        adjusted = dict(zip(present, p_values, strict=True))
    return {layer: _shift(one, adjusted.get(layer), relabellings, options) for layer, one in measured.items()}


def _shift(measured: Measured, adjusted: Estimate | None, relabellings: Relabellings, options: Options) -> Shift:
    """One result."""
    statistics = measured.statistics
    if statistics is None or adjusted is None:
        absent = Estimate(None, absent_reason=measured.absent_reason)
        return Shift(absent, measured.sigma, absent, absent, 0, False, 0.0, False, measured.precision)
    p = uncertainty.p_value(statistics.observed, statistics.relabelled_B, measured.bound, relabellings)
    interval = (
        uncertainty.jackknife(statistics.observed, statistics.left_out, options.interval_level, p.value)
        if statistics.left_out
        else None
    )
    return Shift(
        mmd2=Estimate(statistics.observed, interval, statistics.interval_absent_reason),
        sigma=measured.sigma,
        p_value=p,
        p_value_max_t=adjusted,
        relabellings=relabellings.count,
        enumerated=relabellings.enumerated,
        error_bound=measured.bound,
        digits_lost=abs(statistics.observed) <= measured.bound,
        precision=measured.precision,
    )


def _in_row_order(projection: Projection, design: Design) -> Projection:
    """Points in the samples' own row order instead of the design's."""
    x_N2, y_M2 = np.empty_like(projection.x_N2), np.empty_like(projection.y_M2)
    x_N2[design.x_order], y_M2[design.y_order] = projection.x_N2, projection.y_M2
    return Projection(x_N2, y_M2, projection.explained_variance)
