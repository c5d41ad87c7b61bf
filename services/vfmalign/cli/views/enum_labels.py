"""The API's enums in the words that people type.

Knows protobuf. Knows nothing of calls or of tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfmalign.core.domain.errors import BadOption
from vfmalign.v1 import alignment_pb2, common_pb2, experiment_pb2, features_pb2, finetuning_pb2, mmd_pb2

SPLITS: dict[str, common_pb2.Split] = {
    "pretrain": common_pb2.SPLIT_PRETRAIN,
    "train": common_pb2.SPLIT_TRAIN,
    "val": common_pb2.SPLIT_VAL,
    "test": common_pb2.SPLIT_TEST,
}
OBJECTIVES: dict[str, features_pb2.Objective] = {
    "masked_reconstruction": features_pb2.OBJECTIVE_MASKED_RECONSTRUCTION,
    "contrastive": features_pb2.OBJECTIVE_CONTRASTIVE,
    "supervised": features_pb2.OBJECTIVE_SUPERVISED,
    "random": features_pb2.OBJECTIVE_RANDOM,
}
PRETRAINING_OBJECTIVES = ("masked_reconstruction", "contrastive")
NETWORKS: dict[str, finetuning_pb2.Network] = {
    "pretrained": finetuning_pb2.NETWORK_PRETRAINED,
    "scratch": finetuning_pb2.NETWORK_SCRATCH,
    "specialised": finetuning_pb2.NETWORK_SPECIALISED,
}
KINDS: dict[str, finetuning_pb2.JobKind] = {
    "pretrain": finetuning_pb2.JOB_KIND_PRETRAIN,
    "finetune": finetuning_pb2.JOB_KIND_FINETUNE,
}
JOB_STATES: dict[str, finetuning_pb2.JobState] = {
    "queued": finetuning_pb2.JOB_STATE_QUEUED,
    "running": finetuning_pb2.JOB_STATE_RUNNING,
    "succeeded": finetuning_pb2.JOB_STATE_SUCCEEDED,
    "failed": finetuning_pb2.JOB_STATE_FAILED,
    "cancelled": finetuning_pb2.JOB_STATE_CANCELLED,
}
CHECK_STATES: dict[str, alignment_pb2.CheckState] = {
    "queued": alignment_pb2.CHECK_STATE_QUEUED,
    "running": alignment_pb2.CHECK_STATE_RUNNING,
    "succeeded": alignment_pb2.CHECK_STATE_SUCCEEDED,
    "failed": alignment_pb2.CHECK_STATE_FAILED,
    "cancelled": alignment_pb2.CHECK_STATE_CANCELLED,
}
EXPERIMENT_STATES: dict[str, experiment_pb2.ExperimentState] = {
    "queued": experiment_pb2.EXPERIMENT_STATE_QUEUED,
    "running": experiment_pb2.EXPERIMENT_STATE_RUNNING,
    "succeeded": experiment_pb2.EXPERIMENT_STATE_SUCCEEDED,
    "failed": experiment_pb2.EXPERIMENT_STATE_FAILED,
    "cancelled": experiment_pb2.EXPERIMENT_STATE_CANCELLED,
}
VERDICTS: dict[str, alignment_pb2.Verdict] = {
    "gain": alignment_pb2.VERDICT_GAIN,
    "no_clear_gain": alignment_pb2.VERDICT_NO_CLEAR_GAIN,
    "harm": alignment_pb2.VERDICT_HARM,
    "insufficient_data": alignment_pb2.VERDICT_INSUFFICIENT_DATA,
}
ESTIMATORS: dict[str, mmd_pb2.Estimator] = {
    "biased": mmd_pb2.ESTIMATOR_BIASED,
    "unbiased_paired": mmd_pb2.ESTIMATOR_UNBIASED_PAIRED,
    "unbiased_independent": mmd_pb2.ESTIMATOR_UNBIASED_INDEPENDENT,
    "linear": mmd_pb2.ESTIMATOR_LINEAR,
    "block": mmd_pb2.ESTIMATOR_BLOCK,
    "random_fourier": mmd_pb2.ESTIMATOR_RANDOM_FOURIER,
}
KERNELS: dict[str, mmd_pb2.KernelFamily] = {
    "gaussian": mmd_pb2.KERNEL_FAMILY_GAUSSIAN,
    "gaussian_mixture": mmd_pb2.KERNEL_FAMILY_GAUSSIAN_MIXTURE,
    "laplacian": mmd_pb2.KERNEL_FAMILY_LAPLACIAN,
    "rational_quadratic": mmd_pb2.KERNEL_FAMILY_RATIONAL_QUADRATIC,
    "inverse_multiquadric": mmd_pb2.KERNEL_FAMILY_INVERSE_MULTIQUADRIC,
    "polynomial": mmd_pb2.KERNEL_FAMILY_POLYNOMIAL,
    "linear": mmd_pb2.KERNEL_FAMILY_LINEAR,
}
WITHOUT_BANDWIDTH = frozenset({"polynomial", "linear"})
BANDWIDTHS: dict[str, mmd_pb2.BandwidthRule] = {
    "fixed": mmd_pb2.BANDWIDTH_RULE_FIXED,
    "reference_median": mmd_pb2.BANDWIDTH_RULE_REFERENCE_MEDIAN,
    "pooled_median": mmd_pb2.BANDWIDTH_RULE_POOLED_MEDIAN,
}
PRECISIONS: dict[str, mmd_pb2.Precision] = {
    "fast": mmd_pb2.PRECISION_FAST,
    "high": mmd_pb2.PRECISION_HIGH,
    "exact": mmd_pb2.PRECISION_EXACT,
}
MEASURES: dict[str, mmd_pb2.Measure] = {
    "cka": mmd_pb2.MEASURE_CKA,
    "frechet": mmd_pb2.MEASURE_FRECHET,
    "energy": mmd_pb2.MEASURE_ENERGY,
}
ENDED = ("succeeded", "failed", "cancelled")


def word(table: Mapping[str, int], value: int) -> str:
    """The word of an enum value; `unknown` for one of a newer API."""
    return next((name for name, known in table.items() if known == value), "unknown")


def parse(table: Mapping[str, Any], text: str, field: str) -> Any:
    """The enum value of a word.

    Raises:
        BadOption: it is none of the table's.
    """
    if text not in table:
        raise BadOption(f"{text[:64]!r} is unknown", field=field, remedy=f"choose one of {', '.join(table)}")
    return table[text]
