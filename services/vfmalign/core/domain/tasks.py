"""Tasks for which models are fine-tuned, with their parameters.

`get_task_spec` resolves a task with its parameters against the declaration of a dataset. Losses and networks are in
`training.tasks`, which requires torch and has one entry for each entry of `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vfmalign.core.domain.declarations import DatasetDeclaration, Modality, TaskParameters, VolumeKind
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.metrics import (
    CLASSIFICATION_METRICS,
    GRADE_METRICS,
    IMAGE_METRICS,
    get_regression_metrics,
    get_segmentation_metrics,
    list_structures,
)
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.domain.task_text import PARAMETER_KEYS, Task

QUANTITATIVE: tuple[Modality, ...] = ("adc",)
"""Modalities with values in a known physical unit: a translation predicts the values themselves."""


@dataclass(frozen=True)
class _Definition:
    """One entry of `TASKS`.

    Attributes:
        parameters: fields of `TaskParameters` that the task uses.
        score: quantity that its primary metric measures, for any parameters.
        resolve: makes the spec from complete parameters and the declaration; `get_task_spec` has checked that the
            declaration has every name in the parameters.
    """

    parameters: tuple[str, ...]
    score: str
    resolve: Callable[[TaskParameters, DatasetDeclaration], TaskSpec]


def _resolve_segmentation(parameters: TaskParameters, declaration: DatasetDeclaration) -> TaskSpec:
    declared = {label.name: label for label in declaration.labels}
    maps = [declared[name] for name in parameters.labels]
    known = [structure for label in maps for structure in label.structures]
    _check_declared(parameters.structures, known, "structures", "structure", ", ".join(parameters.labels))
    chosen = set(parameters.structures or known)
    structures = tuple(structure for structure in list_structures(maps) if structure.name in chosen)
    if len({structure.name for structure in structures}) != len(structures):
        raise BadOption(
            "two label maps have structures of one name",
            field="task.parameters.labels",
            remedy="choose one of the maps, or rename the structure in the dataset's declaration",
        )
    used = {structure.label for structure in structures}
    return TaskSpec(
        name="segmentation",
        parameters=parameters,
        input_transform="identity",
        metrics=get_segmentation_metrics(structures),
        naive_baseline="each voxel's commonest class in the training cases",
        labels=tuple(label for label in maps if label.name in used),
        structures=structures,
    )


def _resolve_super_resolution(parameters: TaskParameters, declaration: DatasetDeclaration) -> TaskSpec:
    every = set(parameters.modalities) == set(declaration.modalities)
    return TaskSpec(
        name="super_resolution",
        parameters=parameters,
        input_transform="half_resolution" if every else f"half_resolution:{'+'.join(parameters.modalities)}",
        metrics=IMAGE_METRICS,
        naive_baseline="the input of half the resolution",
        # By default, the model need not take every modality. If the request chooses some, the model must take them.
        modalities=() if every else parameters.modalities,
        restores=parameters.modalities,
    )


def _resolve_denoising(parameters: TaskParameters, declaration: DatasetDeclaration) -> TaskSpec:
    every = set(parameters.modalities) == set(declaration.modalities)
    names = ", ".join(modality.upper() for modality in parameters.modalities)
    return TaskSpec(
        name="denoising",
        parameters=parameters,
        input_transform="noisy" if every else f"noisy:{'+'.join(parameters.modalities)}",
        metrics=IMAGE_METRICS,
        naive_baseline=f"the noisy {names}",
        modalities=() if every else parameters.modalities,
        restores=parameters.modalities,
    )


def _resolve_distortion(parameters: TaskParameters, declaration: DatasetDeclaration) -> TaskSpec:
    if in_unit := [modality for modality in parameters.modalities if modality in declaration.units]:
        raise BadOption(
            f"{in_unit[0]} is in {declaration.units[in_unit[0]]}: CT and PET have no susceptibility distortion",
            field="task.parameters.modalities",
            remedy="choose the tasks super_resolution or denoising, or modalities of MRI",
        )
    # DWI and ADC are distorted by one field, so that either of them implies the other.
    diffusion = set(parameters.modalities) <= {"dwi", "adc"}
    names = ", ".join(modality.upper() for modality in parameters.modalities)
    return TaskSpec(
        name="distortion",
        parameters=parameters,
        input_transform="distorted_diffusion" if diffusion else f"distorted:{'+'.join(parameters.modalities)}",
        metrics=IMAGE_METRICS,
        naive_baseline=f"the uncorrected {names}",
        modalities=parameters.modalities,
        restores=parameters.modalities,
    )


def _resolve_translation(parameters: TaskParameters, declaration: DatasetDeclaration) -> TaskSpec:
    inputs, target = parameters.inputs, parameters.target
    if target in inputs:
        raise BadOption(
            f"{target} is both the target and an input",
            field="task.parameters.target",
            remedy="leave it out of the inputs, or choose another target",
        )
    hidden = tuple(modality for modality in declaration.modalities if modality not in inputs)
    names = [modality.upper() for modality in sorted(inputs)]
    # ADC = ln(S0 / Sb) / b needs two b-values; a study holds one, and its value is unknown. The naive baseline takes
    # T2W for S0, because both weight the same proton density and T2, and fits three coefficients, which absorb b and
    # the gains of both scans, by least squares on the training cases.
    formula = (
        f"closed form: {target.upper()} linear in {' and '.join(f'ln {name}' for name in names)}"
        if target in QUANTITATIVE
        else f"least squares: {target.upper()} linear in {', '.join(names)} and their logarithms"
    )
    return TaskSpec(
        name="translation",
        parameters=parameters,
        input_transform="hidden_adc" if hidden == ("adc",) else f"hidden:{'+'.join(hidden)}",
        metrics=IMAGE_METRICS,
        naive_baseline=f"{formula}, fitted on the training cases",
        modalities=(*inputs, target),
        restores=(target,),
    )


def _resolve_classification(parameters: TaskParameters, declaration: DatasetDeclaration) -> TaskSpec:
    if parameters.grade:
        declared = next(entry for entry in declaration.grades if entry.name == parameters.grade)
        grade = declared.model_copy(update={"at_least": parameters.at_least or declared.at_least})
        return TaskSpec(
            name="classification",
            parameters=parameters.model_copy(update={"at_least": grade.at_least}),
            input_transform="identity",
            metrics=GRADE_METRICS,
            naive_baseline=f"the training cases' shares of the grades; {grade.name} ≥ {grade.at_least} is positive",
            grade=grade,
        )
    case_class = next(entry for entry in declaration.classes if entry.name == parameters.class_name)
    return TaskSpec(
        name="classification",
        parameters=parameters,
        input_transform="identity",
        metrics=CLASSIFICATION_METRICS,
        naive_baseline="the share of positive training cases, for every case",
        labels=tuple(label for label in declaration.labels if label.name == case_class.label),
        case_class=case_class,
    )


def _resolve_regression(parameters: TaskParameters, declaration: DatasetDeclaration) -> TaskSpec:
    number = next(entry for entry in declaration.numbers if entry.name == parameters.number)
    return TaskSpec(
        name="regression",
        parameters=parameters,
        input_transform="identity",
        metrics=get_regression_metrics(number),
        naive_baseline=f"the median {number.name} of the training cases, for every case",
        number=number,
    )


TASKS: dict[str, _Definition] = {
    "segmentation": _Definition(("labels", "structures"), "Dice", _resolve_segmentation),
    "super_resolution": _Definition(("modalities",), "PSNR", _resolve_super_resolution),
    "denoising": _Definition(("modalities",), "PSNR", _resolve_denoising),
    "distortion": _Definition(("modalities",), "PSNR", _resolve_distortion),
    "translation": _Definition(("inputs", "target"), "PSNR", _resolve_translation),
    "classification": _Definition(("class_name", "grade", "at_least"), "AUROC", _resolve_classification),
    "regression": _Definition(("number",), "mean absolute error", _resolve_regression),
}
CASE_TASKS = frozenset({"classification", "regression"})
"""Tasks whose networks predict a class, grade or number of the whole case."""


def get_task_spec(task: Task, declaration: DatasetDeclaration) -> TaskSpec:
    """Returns the specification of a task on a dataset. Empty parameters of the task take the dataset's defaults.

    Args:
        task: task, whose parameters may be empty.
        declaration: declaration of the dataset.

    Raises:
        BadOption: the task is unknown or does not use a parameter, the dataset does not declare the value of a
            parameter, or an empty parameter has no default.
    """
    name = task.name
    entry = check_task(task)
    complete = _add_defaults(task.parameters, declaration.defaults.get(name, TaskParameters()))
    if complete.grade and complete.class_name:
        raise BadOption(
            f"{name} predicts either a class or a grade",
            field="task.parameters.grade",
            remedy="leave one of the two out",
        )
    if complete.at_least and not complete.grade:
        raise BadOption("no grade is named", field="task.parameters.at_least", remedy="name the grade, or leave it out")
    if "labels" in entry.parameters and not complete.labels and len(declaration.labels) == 1:
        complete = complete.model_copy(update={"labels": declaration.label_names})
    for field in entry.parameters:
        value: str | tuple[str, ...] = getattr(complete, field)
        # The task itself checks structures, of the chosen maps, and the lowest positive grade.
        if field in {"structures", "at_least"} or field == ("class_name" if complete.grade else "grade"):
            continue
        known, noun = _get_choices(declaration, field)
        if not value:
            raise BadOption(
                f"{name} needs {PARAMETER_KEYS[field]}, and the declaration {declaration.name} has no default",
                field=f"task.parameters.{field}",
                remedy=_choose_from(known, noun)
                + (
                    f", or a grade: {', '.join(g.name for g in declaration.grades)}"
                    if field == "class_name" and declaration.grades
                    else ""
                ),
            )
        names = (value,) if isinstance(value, str) else value
        _check_declared(names, known, field, noun, declaration.name)
    # The order of modalities has no meaning; label maps are drawn in their order.
    ordered = {
        field: tuple(modality for modality in declaration.modalities if modality in getattr(complete, field))
        for field in ("inputs", "modalities")
    }
    return entry.resolve(complete.model_copy(update=ordered), declaration)


def check_task(task: Task) -> _Definition:
    """Checks the name and the parameters of a task, without a dataset.

    Raises:
        BadOption: no task has this name, or the task does not use one of the parameters.
    """
    name = task.name
    if name not in TASKS:
        raise BadOption(f"unknown task {name[:64]!r}", field="task.name", remedy=f"choose one of {', '.join(TASKS)}")
    used = [PARAMETER_KEYS[field] for field in TASKS[name].parameters]
    for field in TaskParameters.model_fields:
        if getattr(task.parameters, field) and field not in TASKS[name].parameters:
            raise BadOption(
                f"{name} does not use {PARAMETER_KEYS[field]}",
                field=f"task.parameters.{field}",
                remedy=f"leave it empty; {name} uses {' and '.join(used)}",
            )
    return TASKS[name]


def _add_defaults(parameters: TaskParameters, defaults: TaskParameters) -> TaskParameters:
    """Replaces empty parameters by the dataset's defaults."""
    changes = {field: getattr(parameters, field) or getattr(defaults, field) for field in TaskParameters.model_fields}
    if parameters.labels:  # the default structures belong to the default maps
        changes["structures"] = parameters.structures
    if parameters.grade or parameters.class_name:
        changes |= {field: getattr(parameters, field) for field in ("class_name", "grade", "at_least")}
    return TaskParameters.model_validate(changes)


def _get_choices(declaration: DatasetDeclaration, field: str) -> tuple[Sequence[VolumeKind], str]:
    """Returns the names that a parameter can have, and the noun for them."""
    if field == "labels":
        return [label.name for label in declaration.labels], "label map"
    if field == "class_name":
        return [entry.name for entry in declaration.classes], "class"
    if field == "grade":
        return [entry.name for entry in declaration.grades], "grade"
    if field == "number":
        return [entry.name for entry in declaration.numbers], "number"
    return declaration.modalities, "modality"


def _check_declared(names: Sequence[str], known: Sequence[str], field: str, noun: str, owner: str) -> None:
    for place, name in enumerate(names):
        if name not in known:
            raise BadOption(
                f"{name} is not a {noun} of {owner}",
                field=f"task.parameters.{field}",
                remedy=_choose_from(known, noun),
            )
        if name in names[:place]:
            raise BadOption(f"{name} is named twice", field=f"task.parameters.{field}", remedy="name it once")


def _choose_from(known: Sequence[str], noun: str) -> str:
    return f"choose from {', '.join(known)}" if known else f"choose another dataset: it declares no {noun}"
