import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from vfmalign.v1 import bounds_pb2 as _bounds_pb2
from vfmalign.v1 import common_pb2 as _common_pb2
from vfmalign.v1 import erasure_pb2 as _erasure_pb2
from vfmalign.v1 import finetuning_pb2 as _finetuning_pb2
from vfmalign.v1 import mmd_pb2 as _mmd_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHECK_STATE_UNSPECIFIED: _ClassVar[CheckState]
    CHECK_STATE_QUEUED: _ClassVar[CheckState]
    CHECK_STATE_RUNNING: _ClassVar[CheckState]
    CHECK_STATE_SUCCEEDED: _ClassVar[CheckState]
    CHECK_STATE_FAILED: _ClassVar[CheckState]
    CHECK_STATE_CANCELLED: _ClassVar[CheckState]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_GAIN: _ClassVar[Verdict]
    VERDICT_EQUIVALENT: _ClassVar[Verdict]
    VERDICT_HARM: _ClassVar[Verdict]
    VERDICT_INCONCLUSIVE: _ClassVar[Verdict]
    VERDICT_INSUFFICIENT_DATA: _ClassVar[Verdict]
    VERDICT_INSUFFICIENT_TRAINING: _ClassVar[Verdict]

class PlanOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLAN_OUTCOME_UNSPECIFIED: _ClassVar[PlanOutcome]
    PLAN_OUTCOME_PASSED: _ClassVar[PlanOutcome]
    PLAN_OUTCOME_WARNED: _ClassVar[PlanOutcome]
    PLAN_OUTCOME_FAILED: _ClassVar[PlanOutcome]
CHECK_STATE_UNSPECIFIED: CheckState
CHECK_STATE_QUEUED: CheckState
CHECK_STATE_RUNNING: CheckState
CHECK_STATE_SUCCEEDED: CheckState
CHECK_STATE_FAILED: CheckState
CHECK_STATE_CANCELLED: CheckState
VERDICT_UNSPECIFIED: Verdict
VERDICT_GAIN: Verdict
VERDICT_EQUIVALENT: Verdict
VERDICT_HARM: Verdict
VERDICT_INCONCLUSIVE: Verdict
VERDICT_INSUFFICIENT_DATA: Verdict
VERDICT_INSUFFICIENT_TRAINING: Verdict
PLAN_OUTCOME_UNSPECIFIED: PlanOutcome
PLAN_OUTCOME_PASSED: PlanOutcome
PLAN_OUTCOME_WARNED: PlanOutcome
PLAN_OUTCOME_FAILED: PlanOutcome

class CheckSpec(_message.Message):
    __slots__ = ("model_id", "model_sha256", "dataset_id", "dataset_digest", "task", "layers", "recipe", "scratch_recipe", "specialised_recipe", "seed", "permutations", "bootstrap_resamples", "interval_level", "seeds", "smallest_difference", "modality_map", "shuffled_labels", "allow_cut_organs", "random_seeds", "random_weights", "recipe_seed", "plan", "frozen", "train_cases", "require_licence")
    class ModalityMapEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    SCRATCH_RECIPE_FIELD_NUMBER: _ClassVar[int]
    SPECIALISED_RECIPE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PERMUTATIONS_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_RESAMPLES_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_LEVEL_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MODALITY_MAP_FIELD_NUMBER: _ClassVar[int]
    SHUFFLED_LABELS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_CUT_ORGANS_FIELD_NUMBER: _ClassVar[int]
    RANDOM_SEEDS_FIELD_NUMBER: _ClassVar[int]
    RANDOM_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    RECIPE_SEED_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    TRAIN_CASES_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_LICENCE_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    model_sha256: str
    dataset_id: str
    dataset_digest: str
    task: _common_pb2.Task
    layers: _containers.RepeatedScalarFieldContainer[str]
    recipe: _finetuning_pb2.Recipe
    scratch_recipe: _finetuning_pb2.Recipe
    specialised_recipe: _finetuning_pb2.Recipe
    seed: int
    permutations: int
    bootstrap_resamples: int
    interval_level: float
    seeds: int
    smallest_difference: float
    modality_map: _containers.ScalarMap[str, str]
    shuffled_labels: bool
    allow_cut_organs: bool
    random_seeds: int
    random_weights: bool
    recipe_seed: int
    plan: CheckPlan
    frozen: bool
    train_cases: int
    require_licence: str
    def __init__(self, model_id: _Optional[str] = ..., model_sha256: _Optional[str] = ..., dataset_id: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., task: _Optional[_Union[_common_pb2.Task, _Mapping]] = ..., layers: _Optional[_Iterable[str]] = ..., recipe: _Optional[_Union[_finetuning_pb2.Recipe, _Mapping]] = ..., scratch_recipe: _Optional[_Union[_finetuning_pb2.Recipe, _Mapping]] = ..., specialised_recipe: _Optional[_Union[_finetuning_pb2.Recipe, _Mapping]] = ..., seed: _Optional[int] = ..., permutations: _Optional[int] = ..., bootstrap_resamples: _Optional[int] = ..., interval_level: _Optional[float] = ..., seeds: _Optional[int] = ..., smallest_difference: _Optional[float] = ..., modality_map: _Optional[_Mapping[str, str]] = ..., shuffled_labels: _Optional[bool] = ..., allow_cut_organs: _Optional[bool] = ..., random_seeds: _Optional[int] = ..., random_weights: _Optional[bool] = ..., recipe_seed: _Optional[int] = ..., plan: _Optional[_Union[CheckPlan, _Mapping]] = ..., frozen: _Optional[bool] = ..., train_cases: _Optional[int] = ..., require_licence: _Optional[str] = ...) -> None: ...

class CheckPlan(_message.Message):
    __slots__ = ("metric", "smallest_difference", "seeds", "model_sha256", "dataset_digest", "gate", "require", "require_pretraining")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_PRETRAINING_FIELD_NUMBER: _ClassVar[int]
    metric: str
    smallest_difference: float
    seeds: int
    model_sha256: str
    dataset_digest: str
    gate: _containers.RepeatedScalarFieldContainer[str]
    require: _containers.RepeatedScalarFieldContainer[str]
    require_pretraining: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, metric: _Optional[str] = ..., smallest_difference: _Optional[float] = ..., seeds: _Optional[int] = ..., model_sha256: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., gate: _Optional[_Iterable[str]] = ..., require: _Optional[_Iterable[str]] = ..., require_pretraining: _Optional[_Iterable[str]] = ...) -> None: ...

class EarlierCheck(_message.Message):
    __slots__ = ("check_id", "create_time")
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, check_id: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PlanResult(_message.Message):
    __slots__ = ("outcome", "plan_sha256", "declare_time", "declared_by", "passed", "failed", "earlier_checks", "statement")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PLAN_SHA256_FIELD_NUMBER: _ClassVar[int]
    DECLARE_TIME_FIELD_NUMBER: _ClassVar[int]
    DECLARED_BY_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    EARLIER_CHECKS_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    outcome: PlanOutcome
    plan_sha256: str
    declare_time: _timestamp_pb2.Timestamp
    declared_by: str
    passed: _containers.RepeatedScalarFieldContainer[str]
    failed: _containers.RepeatedScalarFieldContainer[str]
    earlier_checks: _containers.RepeatedCompositeFieldContainer[EarlierCheck]
    statement: _common_pb2.ObjectRef
    def __init__(self, outcome: _Optional[_Union[PlanOutcome, str]] = ..., plan_sha256: _Optional[str] = ..., declare_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., declared_by: _Optional[str] = ..., passed: _Optional[_Iterable[str]] = ..., failed: _Optional[_Iterable[str]] = ..., earlier_checks: _Optional[_Iterable[_Union[EarlierCheck, _Mapping]]] = ..., statement: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class CheckStage(_message.Message):
    __slots__ = ("name", "attempts", "start_time", "end_time", "seconds", "progress")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    attempts: int
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    seconds: float
    progress: _common_pb2.Progress
    def __init__(self, name: _Optional[str] = ..., attempts: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., seconds: _Optional[float] = ..., progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ...) -> None: ...

class LayerShift(_message.Message):
    __slots__ = ("mmd", "shift_ratio", "paired_similarity", "saturated")
    MMD_FIELD_NUMBER: _ClassVar[int]
    SHIFT_RATIO_FIELD_NUMBER: _ClassVar[int]
    PAIRED_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    mmd: _mmd_pb2.LayerResult
    shift_ratio: _common_pb2.Estimate
    paired_similarity: _common_pb2.Estimate
    saturated: bool
    def __init__(self, mmd: _Optional[_Union[_mmd_pb2.LayerResult, _Mapping]] = ..., shift_ratio: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., paired_similarity: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., saturated: _Optional[bool] = ...) -> None: ...

class VarianceComponents(_message.Message):
    __slots__ = ("seed", "patient", "residual", "set_to_zero")
    SEED_FIELD_NUMBER: _ClassVar[int]
    PATIENT_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    SET_TO_ZERO_FIELD_NUMBER: _ClassVar[int]
    seed: float
    patient: float
    residual: float
    set_to_zero: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, seed: _Optional[float] = ..., patient: _Optional[float] = ..., residual: _Optional[float] = ..., set_to_zero: _Optional[_Iterable[str]] = ...) -> None: ...

class GainVariance(_message.Message):
    __slots__ = ("network", "baseline", "difference", "standard_error", "degrees_of_freedom", "seeds", "baseline_seeds", "another_draw")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    DEGREES_OF_FREEDOM_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    ANOTHER_DRAW_FIELD_NUMBER: _ClassVar[int]
    network: VarianceComponents
    baseline: VarianceComponents
    difference: VarianceComponents
    standard_error: float
    degrees_of_freedom: float
    seeds: int
    baseline_seeds: int
    another_draw: float
    def __init__(self, network: _Optional[_Union[VarianceComponents, _Mapping]] = ..., baseline: _Optional[_Union[VarianceComponents, _Mapping]] = ..., difference: _Optional[_Union[VarianceComponents, _Mapping]] = ..., standard_error: _Optional[float] = ..., degrees_of_freedom: _Optional[float] = ..., seeds: _Optional[int] = ..., baseline_seeds: _Optional[int] = ..., another_draw: _Optional[float] = ...) -> None: ...

class Gain(_message.Message):
    __slots__ = ("relative_percent", "absolute", "score", "baseline", "cases", "groups", "cases_left_out", "equivalence_interval", "variance", "smaller_class")
    RELATIVE_PERCENT_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    CASES_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    EQUIVALENCE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    SMALLER_CLASS_FIELD_NUMBER: _ClassVar[int]
    relative_percent: _common_pb2.Estimate
    absolute: _common_pb2.Estimate
    score: float
    baseline: float
    cases: int
    groups: int
    cases_left_out: int
    equivalence_interval: _common_pb2.Interval
    variance: GainVariance
    smaller_class: int
    def __init__(self, relative_percent: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., absolute: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., score: _Optional[float] = ..., baseline: _Optional[float] = ..., cases: _Optional[int] = ..., groups: _Optional[int] = ..., cases_left_out: _Optional[int] = ..., equivalence_interval: _Optional[_Union[_common_pb2.Interval, _Mapping]] = ..., variance: _Optional[_Union[GainVariance, _Mapping]] = ..., smaller_class: _Optional[int] = ...) -> None: ...

class Steps(_message.Message):
    __slots__ = ("value", "censored", "absent_reason")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CENSORED_FIELD_NUMBER: _ClassVar[int]
    ABSENT_REASON_FIELD_NUMBER: _ClassVar[int]
    value: int
    censored: bool
    absent_reason: str
    def __init__(self, value: _Optional[int] = ..., censored: _Optional[bool] = ..., absent_reason: _Optional[str] = ...) -> None: ...

class Convergence(_message.Message):
    __slots__ = ("steps_to_95", "steps_to_baseline", "steps", "best", "start", "best_step", "noise")
    STEPS_TO_95_FIELD_NUMBER: _ClassVar[int]
    STEPS_TO_BASELINE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    BEST_STEP_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    steps_to_95: Steps
    steps_to_baseline: Steps
    steps: int
    best: float
    start: float
    best_step: int
    noise: float
    def __init__(self, steps_to_95: _Optional[_Union[Steps, _Mapping]] = ..., steps_to_baseline: _Optional[_Union[Steps, _Mapping]] = ..., steps: _Optional[int] = ..., best: _Optional[float] = ..., start: _Optional[float] = ..., best_step: _Optional[int] = ..., noise: _Optional[float] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "unit", "higher_is_better", "floor", "empty_mask", "of_set", "smallest_difference")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    HIGHER_IS_BETTER_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    EMPTY_MASK_FIELD_NUMBER: _ClassVar[int]
    OF_SET_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    higher_is_better: bool
    floor: float
    empty_mask: str
    of_set: str
    smallest_difference: float
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., higher_is_better: _Optional[bool] = ..., floor: _Optional[float] = ..., empty_mask: _Optional[str] = ..., of_set: _Optional[str] = ..., smallest_difference: _Optional[float] = ...) -> None: ...

class Curve(_message.Message):
    __slots__ = ("network", "points", "selected_step")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    SELECTED_STEP_FIELD_NUMBER: _ClassVar[int]
    network: _finetuning_pb2.Network
    points: _containers.RepeatedCompositeFieldContainer[_finetuning_pb2.CurvePoint]
    selected_step: int
    def __init__(self, network: _Optional[_Union[_finetuning_pb2.Network, str]] = ..., points: _Optional[_Iterable[_Union[_finetuning_pb2.CurvePoint, _Mapping]]] = ..., selected_step: _Optional[int] = ...) -> None: ...

class CheckMeasure(_message.Message):
    __slots__ = ("name", "value", "meaning")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: _common_pb2.Estimate
    meaning: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., meaning: _Optional[str] = ...) -> None: ...

class SeedResult(_message.Message):
    __slots__ = ("seed", "shift", "rpg_specialised", "rpg_scratch", "convergence", "curves", "weight_change", "job_ids")
    SEED_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    RPG_SPECIALISED_FIELD_NUMBER: _ClassVar[int]
    RPG_SCRATCH_FIELD_NUMBER: _ClassVar[int]
    CONVERGENCE_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_CHANGE_FIELD_NUMBER: _ClassVar[int]
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    seed: int
    shift: _common_pb2.Estimate
    rpg_specialised: Gain
    rpg_scratch: Gain
    convergence: Convergence
    curves: _containers.RepeatedCompositeFieldContainer[Curve]
    weight_change: float
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, seed: _Optional[int] = ..., shift: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., rpg_specialised: _Optional[_Union[Gain, _Mapping]] = ..., rpg_scratch: _Optional[_Union[Gain, _Mapping]] = ..., convergence: _Optional[_Union[Convergence, _Mapping]] = ..., curves: _Optional[_Iterable[_Union[Curve, _Mapping]]] = ..., weight_change: _Optional[float] = ..., job_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class SeedSummary(_message.Message):
    __slots__ = ("mean", "standard_deviation")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    mean: _common_pb2.Estimate
    standard_deviation: float
    def __init__(self, mean: _Optional[_Union[_common_pb2.Estimate, _Mapping]] = ..., standard_deviation: _Optional[float] = ...) -> None: ...

class LayerSummary(_message.Message):
    __slots__ = ("layer", "raw", "standardised")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    STANDARDISED_FIELD_NUMBER: _ClassVar[int]
    layer: str
    raw: SeedSummary
    standardised: SeedSummary
    def __init__(self, layer: _Optional[str] = ..., raw: _Optional[_Union[SeedSummary, _Mapping]] = ..., standardised: _Optional[_Union[SeedSummary, _Mapping]] = ...) -> None: ...

class StepsSummary(_message.Message):
    __slots__ = ("mean", "standard_deviation", "censored_seeds", "absent_reason")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    CENSORED_SEEDS_FIELD_NUMBER: _ClassVar[int]
    ABSENT_REASON_FIELD_NUMBER: _ClassVar[int]
    mean: float
    standard_deviation: float
    censored_seeds: _containers.RepeatedScalarFieldContainer[int]
    absent_reason: str
    def __init__(self, mean: _Optional[float] = ..., standard_deviation: _Optional[float] = ..., censored_seeds: _Optional[_Iterable[int]] = ..., absent_reason: _Optional[str] = ...) -> None: ...

class SeedVariation(_message.Message):
    __slots__ = ("layers", "steps_to_95", "steps_to_baseline", "specialised_deviation", "scratch_deviation")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    STEPS_TO_95_FIELD_NUMBER: _ClassVar[int]
    STEPS_TO_BASELINE_FIELD_NUMBER: _ClassVar[int]
    SPECIALISED_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    SCRATCH_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerSummary]
    steps_to_95: StepsSummary
    steps_to_baseline: StepsSummary
    specialised_deviation: float
    scratch_deviation: float
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerSummary, _Mapping]]] = ..., steps_to_95: _Optional[_Union[StepsSummary, _Mapping]] = ..., steps_to_baseline: _Optional[_Union[StepsSummary, _Mapping]] = ..., specialised_deviation: _Optional[float] = ..., scratch_deviation: _Optional[float] = ...) -> None: ...

class CutStructure(_message.Message):
    __slots__ = ("case_id", "split", "structure", "inside")
    CASE_ID_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    STRUCTURE_FIELD_NUMBER: _ClassVar[int]
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    case_id: str
    split: _common_pb2.Split
    structure: str
    inside: float
    def __init__(self, case_id: _Optional[str] = ..., split: _Optional[_Union[_common_pb2.Split, str]] = ..., structure: _Optional[str] = ..., inside: _Optional[float] = ...) -> None: ...

class CheckResult(_message.Message):
    __slots__ = ("verdict", "verdict_reason", "shifts", "primary_layer", "rpg_specialised", "rpg_scratch", "metric", "convergence", "curves", "weight_change", "test_groups", "held_out", "cautions", "report_json", "report_html", "software", "gain_naive_baseline", "naive_baseline", "naive_baseline_not_beaten", "measures", "interval_scope", "seeds", "seed_variation", "cut_structures", "pretraining", "pretraining_reason", "summary", "plan", "gain_frozen_random")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_REASON_FIELD_NUMBER: _ClassVar[int]
    SHIFTS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_LAYER_FIELD_NUMBER: _ClassVar[int]
    RPG_SPECIALISED_FIELD_NUMBER: _ClassVar[int]
    RPG_SCRATCH_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    CONVERGENCE_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_CHANGE_FIELD_NUMBER: _ClassVar[int]
    TEST_GROUPS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    CAUTIONS_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    REPORT_HTML_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    GAIN_NAIVE_BASELINE_FIELD_NUMBER: _ClassVar[int]
    NAIVE_BASELINE_FIELD_NUMBER: _ClassVar[int]
    NAIVE_BASELINE_NOT_BEATEN_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_SCOPE_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    SEED_VARIATION_FIELD_NUMBER: _ClassVar[int]
    CUT_STRUCTURES_FIELD_NUMBER: _ClassVar[int]
    PRETRAINING_FIELD_NUMBER: _ClassVar[int]
    PRETRAINING_REASON_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    GAIN_FROZEN_RANDOM_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    verdict_reason: str
    shifts: _containers.RepeatedCompositeFieldContainer[LayerShift]
    primary_layer: str
    rpg_specialised: Gain
    rpg_scratch: Gain
    metric: Metric
    convergence: Convergence
    curves: _containers.RepeatedCompositeFieldContainer[Curve]
    weight_change: float
    test_groups: int
    held_out: bool
    cautions: _containers.RepeatedScalarFieldContainer[str]
    report_json: _common_pb2.ObjectRef
    report_html: _common_pb2.ObjectRef
    software: _containers.RepeatedCompositeFieldContainer[_common_pb2.SoftwareVersion]
    gain_naive_baseline: Gain
    naive_baseline: str
    naive_baseline_not_beaten: bool
    measures: _containers.RepeatedCompositeFieldContainer[CheckMeasure]
    interval_scope: str
    seeds: _containers.RepeatedCompositeFieldContainer[SeedResult]
    seed_variation: SeedVariation
    cut_structures: _containers.RepeatedCompositeFieldContainer[CutStructure]
    pretraining: Verdict
    pretraining_reason: str
    summary: str
    plan: PlanResult
    gain_frozen_random: Gain
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., verdict_reason: _Optional[str] = ..., shifts: _Optional[_Iterable[_Union[LayerShift, _Mapping]]] = ..., primary_layer: _Optional[str] = ..., rpg_specialised: _Optional[_Union[Gain, _Mapping]] = ..., rpg_scratch: _Optional[_Union[Gain, _Mapping]] = ..., metric: _Optional[_Union[Metric, _Mapping]] = ..., convergence: _Optional[_Union[Convergence, _Mapping]] = ..., curves: _Optional[_Iterable[_Union[Curve, _Mapping]]] = ..., weight_change: _Optional[float] = ..., test_groups: _Optional[int] = ..., held_out: _Optional[bool] = ..., cautions: _Optional[_Iterable[str]] = ..., report_json: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., report_html: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., software: _Optional[_Iterable[_Union[_common_pb2.SoftwareVersion, _Mapping]]] = ..., gain_naive_baseline: _Optional[_Union[Gain, _Mapping]] = ..., naive_baseline: _Optional[str] = ..., naive_baseline_not_beaten: _Optional[bool] = ..., measures: _Optional[_Iterable[_Union[CheckMeasure, _Mapping]]] = ..., interval_scope: _Optional[str] = ..., seeds: _Optional[_Iterable[_Union[SeedResult, _Mapping]]] = ..., seed_variation: _Optional[_Union[SeedVariation, _Mapping]] = ..., cut_structures: _Optional[_Iterable[_Union[CutStructure, _Mapping]]] = ..., pretraining: _Optional[_Union[Verdict, str]] = ..., pretraining_reason: _Optional[str] = ..., summary: _Optional[str] = ..., plan: _Optional[_Union[PlanResult, _Mapping]] = ..., gain_frozen_random: _Optional[_Union[Gain, _Mapping]] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("check_id", "spec", "state", "progress", "create_time", "end_time", "stages", "job_ids", "failure", "result", "created_by", "dataset_digest", "model_sha256")
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    spec: CheckSpec
    state: CheckState
    progress: _common_pb2.Progress
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    stages: _containers.RepeatedCompositeFieldContainer[CheckStage]
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    failure: _finetuning_pb2.Failure
    result: CheckResult
    created_by: str
    dataset_digest: str
    model_sha256: str
    def __init__(self, check_id: _Optional[str] = ..., spec: _Optional[_Union[CheckSpec, _Mapping]] = ..., state: _Optional[_Union[CheckState, str]] = ..., progress: _Optional[_Union[_common_pb2.Progress, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[CheckStage, _Mapping]]] = ..., job_ids: _Optional[_Iterable[str]] = ..., failure: _Optional[_Union[_finetuning_pb2.Failure, _Mapping]] = ..., result: _Optional[_Union[CheckResult, _Mapping]] = ..., created_by: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., model_sha256: _Optional[str] = ...) -> None: ...

class CreateCheckRequest(_message.Message):
    __slots__ = ("check_id", "spec")
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    spec: CheckSpec
    def __init__(self, check_id: _Optional[str] = ..., spec: _Optional[_Union[CheckSpec, _Mapping]] = ...) -> None: ...

class CreateCheckResponse(_message.Message):
    __slots__ = ("check", "plans", "earlier_checks")
    CHECK_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    EARLIER_CHECKS_FIELD_NUMBER: _ClassVar[int]
    check: Check
    plans: _containers.RepeatedCompositeFieldContainer[TrainingPlan]
    earlier_checks: _containers.RepeatedCompositeFieldContainer[EarlierCheck]
    def __init__(self, check: _Optional[_Union[Check, _Mapping]] = ..., plans: _Optional[_Iterable[_Union[TrainingPlan, _Mapping]]] = ..., earlier_checks: _Optional[_Iterable[_Union[EarlierCheck, _Mapping]]] = ...) -> None: ...

class TrainingPlan(_message.Message):
    __slots__ = ("seeds", "trainings", "reused")
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    TRAININGS_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    seeds: int
    trainings: int
    reused: int
    def __init__(self, seeds: _Optional[int] = ..., trainings: _Optional[int] = ..., reused: _Optional[int] = ...) -> None: ...

class GetCheckRequest(_message.Message):
    __slots__ = ("check_id",)
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    def __init__(self, check_id: _Optional[str] = ...) -> None: ...

class GetCheckResponse(_message.Message):
    __slots__ = ("check",)
    CHECK_FIELD_NUMBER: _ClassVar[int]
    check: Check
    def __init__(self, check: _Optional[_Union[Check, _Mapping]] = ...) -> None: ...

class ListChecksRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "model_id", "dataset_id", "created_after", "created_before")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[CheckState]
    model_id: str
    dataset_id: str
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[CheckState, str]]] = ..., model_id: _Optional[str] = ..., dataset_id: _Optional[str] = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListChecksResponse(_message.Message):
    __slots__ = ("checks", "next_page_token")
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    next_page_token: str
    def __init__(self, checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelCheckRequest(_message.Message):
    __slots__ = ("check_id",)
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    def __init__(self, check_id: _Optional[str] = ...) -> None: ...

class CancelCheckResponse(_message.Message):
    __slots__ = ("check",)
    CHECK_FIELD_NUMBER: _ClassVar[int]
    check: Check
    def __init__(self, check: _Optional[_Union[Check, _Mapping]] = ...) -> None: ...

class RetryCheckRequest(_message.Message):
    __slots__ = ("check_id",)
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    def __init__(self, check_id: _Optional[str] = ...) -> None: ...

class RetryCheckResponse(_message.Message):
    __slots__ = ("check",)
    CHECK_FIELD_NUMBER: _ClassVar[int]
    check: Check
    def __init__(self, check: _Optional[_Union[Check, _Mapping]] = ...) -> None: ...

class WatchCheckRequest(_message.Message):
    __slots__ = ("check_id",)
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    def __init__(self, check_id: _Optional[str] = ...) -> None: ...

class WatchCheckResponse(_message.Message):
    __slots__ = ("check",)
    CHECK_FIELD_NUMBER: _ClassVar[int]
    check: Check
    def __init__(self, check: _Optional[_Union[Check, _Mapping]] = ...) -> None: ...

class GetCheckReportRequest(_message.Message):
    __slots__ = ("check_id", "format")
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    format: _common_pb2.ReportFormat
    def __init__(self, check_id: _Optional[str] = ..., format: _Optional[_Union[_common_pb2.ReportFormat, str]] = ...) -> None: ...

class GetCheckReportResponse(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...

class DeleteCheckRequest(_message.Message):
    __slots__ = ("check_id", "dry_run")
    CHECK_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    check_id: str
    dry_run: bool
    def __init__(self, check_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DeleteCheckResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: _common_pb2.Deletion
    def __init__(self, deletion: _Optional[_Union[_common_pb2.Deletion, _Mapping]] = ...) -> None: ...
