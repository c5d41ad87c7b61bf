"""Between protobuf messages and the room's records. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from vfmalign.core.errors import BadOption, BadTensor
from vfmalign.core.tensors import to_array
from vfmalign.mmd.estimators import EstimatorName, Pairing
from vfmalign.mmd.jobs import Outcome
from vfmalign.mmd.projection import Projection
from vfmalign.mmd.results import LayerComparison, Options, Shift
from vfmalign.mmd.samples import Sample
from vfmalign.mmd.sources import Source, Stored
from vfmalign.mmd.uncertainty import Estimate
from vfmalign.v1 import common_pb2, mmd_pb2

INLINE_LAYER = "features"
MAX_LABEL = 128
DEFAULT_LEVEL = 0.95

_PAIRINGS: Mapping[int, Pairing] = {
    mmd_pb2.PAIRING_PAIRED: "paired",
    mmd_pb2.PAIRING_INDEPENDENT: "independent",
}
_ESTIMATORS: Mapping[int, EstimatorName | None] = {
    mmd_pb2.ESTIMATOR_UNSPECIFIED: None,
    mmd_pb2.ESTIMATOR_BIASED: "biased",
    mmd_pb2.ESTIMATOR_UNBIASED_PAIRED: "unbiased_paired",
    mmd_pb2.ESTIMATOR_UNBIASED_INDEPENDENT: "unbiased_independent",
}
_KERNELS: Mapping[int, str] = {
    mmd_pb2.KERNEL_FAMILY_UNSPECIFIED: "gaussian",
    mmd_pb2.KERNEL_FAMILY_GAUSSIAN: "gaussian",
}


def options_of(request: mmd_pb2.ComputeRequest) -> Options:
    """The request's options.

    Raises:
        BadOption: an enum value that is missing or unknown, or a bandwidth rule without what it needs.
    """
    if request.pairing not in _PAIRINGS:
        raise BadOption(
            "says not how x and y relate", field="pairing", remedy="set PAIRING_PAIRED or PAIRING_INDEPENDENT"
        )
    for value, known, field in (
        (request.estimator, _ESTIMATORS, "estimator"),
        (request.kernel.family, _KERNELS, "kernel.family"),
    ):
        if value not in known:
            raise BadOption(f"unknown value {value}", field=field, remedy="use a value of the enum")
    return Options(
        pairing=_PAIRINGS[request.pairing],
        estimator=_ESTIMATORS[request.estimator],
        kernel=_KERNELS[request.kernel.family],
        fixed_sigma=_fixed_sigma(request),
        layers=tuple(request.layers),
        primary_layer=request.primary_layer,
        relabellings=request.test.relabellings if request.HasField("test") else 0,
        seed=request.test.seed,
        interval_level=request.interval_level or DEFAULT_LEVEL,
        projection=request.projection,
    )


def _fixed_sigma(request: mmd_pb2.ComputeRequest) -> float | None:
    """σ of the fixed rule, None for the reference median."""
    rule, sigma = request.kernel.bandwidth_rule, request.kernel.fixed_sigma
    has_reference = request.HasField("reference")
    if rule == mmd_pb2.BANDWIDTH_RULE_UNSPECIFIED:
        rule = mmd_pb2.BANDWIDTH_RULE_REFERENCE_MEDIAN if has_reference else mmd_pb2.BANDWIDTH_RULE_FIXED
        if has_reference and sigma != 0.0:
            raise BadOption(
                "σ is given and a reference as well, so that the bandwidth could come from either",
                field="kernel.bandwidth_rule",
                remedy="set BANDWIDTH_RULE_FIXED or BANDWIDTH_RULE_REFERENCE_MEDIAN",
            )
        if not has_reference and sigma == 0.0:
            return None
    if rule == mmd_pb2.BANDWIDTH_RULE_FIXED:
        return float(sigma)
    if rule != mmd_pb2.BANDWIDTH_RULE_REFERENCE_MEDIAN:
        raise BadOption(f"unknown value {rule}", field="kernel.bandwidth_rule", remedy="use a value of the enum")
    if sigma != 0.0:
        raise BadOption(
            "σ is given, but the rule takes the median of the reference",
            field="kernel.fixed_sigma",
            remedy="set BANDWIDTH_RULE_FIXED, or leave σ out",
        )
    return None


def source_of(message: mmd_pb2.FeatureSource, field: str) -> Source:
    """A stored feature set's id, or the features that were sent inline.

    Raises:
        BadOption: neither is set.
        BadTensor: a tensor or label that is wrong.
    """
    which = message.WhichOneof("source")
    if which == "feature_set_id":
        return Stored(field, message.feature_set_id)
    if which != "inline":
        raise BadOption("holds no features", field=field, remedy="set feature_set_id or inline")
    layers = {}
    for index, layer in enumerate(message.inline.layers):
        name = layer.layer or INLINE_LAYER
        if name in layers:
            raise BadTensor(f"layer `{name}` is sent twice", field=f"{field}.inline.layers[{index}].layer")
        layers[name] = to_array(layer.features, field=f"{field}.inline.layers[{index}].features")
    for labels, what in ((message.inline.groups, "groups"), (message.inline.case_ids, "case_ids")):
        for row, label in enumerate(labels):
            if not 0 < len(label) <= MAX_LABEL:
                raise BadTensor(
                    f"expected 1 to {MAX_LABEL} characters, got {len(label)}",
                    field=f"{field}.inline.{what}[{row}]",
                    remedy="use short generated ids",
                )
    return Sample(field, layers, tuple(message.inline.groups), tuple(message.inline.case_ids))


def response_of(outcome: Outcome) -> mmd_pb2.ComputeResponse:
    """The message of a comparison."""
    result = outcome.comparison
    estimators = {name: value for value, name in _ESTIMATORS.items() if name is not None}
    return mmd_pb2.ComputeResponse(
        layers=[_layer(one) for one in result.layers],
        primary_layer=result.primary_layer,
        estimator=mmd_pb2.Estimator.Name(estimators[result.estimator]),
        rows_x=result.rows_x,
        rows_y=result.rows_y,
        groups=result.groups,
        precision=result.precision,
        projection=_projection(result.projection) if result.projection else None,
        cost=common_pb2.Cost(
            stages=[common_pb2.StageTiming(stage=stage, seconds=s) for stage, s in outcome.stages.seconds().items()],
            device=outcome.device,
            peak_device_memory_bytes=outcome.peak_device_memory_bytes,
        ),
    )


def _layer(one: LayerComparison) -> mmd_pb2.LayerResult:
    return mmd_pb2.LayerResult(
        layer=one.layer,
        channels=one.channels,
        channels_left_out=one.channels_left_out,
        raw=_shift(one.raw),
        standardised=_shift(one.standardised) if one.standardised else None,
    )


def _shift(one: Shift) -> mmd_pb2.ShiftResult:
    return mmd_pb2.ShiftResult(
        mmd2=_estimate(one.mmd2),
        sigma=one.sigma,
        p_value=_estimate(one.p_value),
        p_value_max_t=_estimate(one.p_value_max_t),
        relabellings=one.relabellings,
        enumerated=one.enumerated,
        error_bound=one.error_bound,
        digits_lost=one.digits_lost,
    )


def _estimate(one: Estimate) -> common_pb2.Estimate:
    interval = None
    if one.interval is not None:
        interval = common_pb2.Interval(
            lower=one.interval.lower,
            upper=one.interval.upper,
            level=one.interval.level,
            method=one.interval.method,
            degenerate=one.interval.degenerate,
        )
    return common_pb2.Estimate(value=one.value, interval=interval, absent_reason=one.absent_reason)


def _projection(one: Projection) -> mmd_pb2.Projection:
    x, y = ([mmd_pb2.ProjectionPoint(u=u, v=v) for u, v in part.tolist()] for part in (one.x_N2, one.y_M2))
    return mmd_pb2.Projection(x=x, y=y, explained_variance=one.explained_variance)
