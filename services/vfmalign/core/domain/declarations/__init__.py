"""Declarations of datasets: modalities, label maps, classes, grades and numbers of the cases.

vfmalign ships the JSON files here.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.record import VOLUME_KIND, Record
from vfmalign.core.formats.bounds import get_bounds, get_field, get_max_count, get_max_length
from vfmalign.v1 import common_pb2, imports_pb2

VolumeKind = Annotated[str, StringConstraints(pattern=VOLUME_KIND.pattern)]
"""Kind of a volume: the id of a modality or label map, in lower case."""
Modality = VolumeKind
OptionalKind = Annotated[str, StringConstraints(pattern=VOLUME_KIND.optional_pattern)]
"""An id in the same format, or empty for none."""
MAX_MODALITIES = get_max_count(common_pb2.TaskParameters, "modalities")
MAX_LABEL_MAPS = get_max_count(common_pb2.TaskParameters, "labels")
MAX_STRUCTURES = get_max_count(common_pb2.TaskParameters, "structures")
MAX_CLASSES = 64
MAX_NUMBERS = 64
MAX_GRADE = int(get_bounds(get_field(common_pb2.TaskParameters, "at_least")).max)
"""Highest grade; the lowest is 0."""
MAX_DEFAULTS = 16
DEFAULT_DECLARATION = "prostate_mpmri"
"""Declaration for reading DICOM if the user names none."""
MAX_RULES_LENGTH = get_max_length(imports_pb2.PublishModelRequest, "declaration")
"""Maximum length in characters of the DICOM rules of a dataset or model card."""
HU = "HU"
"""Hounsfield units: −1000 is air, 0 is water."""
SUVBW = "SUVbw"
"""Standardised uptake value by body weight, g/ml: 1 if the PET activity were spread evenly, 0 without activity."""
Unit = Literal["HU", "SUVbw"]
"""Unit of a modality's voxels that is the same in every scan."""


class LabelMap(Record):
    """A kind of label map.

    Attributes:
        name: its id.
        values: maps each voxel value to the name of a structure. The value 0 is background. Values with the same name
            form one structure, such as the grades of a lesion.
        may_be_empty: True if cases without the structure have an empty map.
        weight: weight of the map's structures in the loss of a segmentation. Small structures can have a higher weight.
        within: label map with a single structure, which encloses all structures of this map; empty if there is no such
            label map.
    """

    name: VolumeKind
    values: dict[Annotated[int, Field(ge=1, le=255)], VolumeKind] = Field(min_length=1, max_length=MAX_STRUCTURES)
    may_be_empty: bool = False
    weight: float = Field(default=1.0, gt=0.0, le=1000.0, allow_inf_nan=False)
    within: OptionalKind = ""

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures, in the order of their lowest value."""
        return tuple(dict.fromkeys(name for _, name in sorted(self.values.items())))


class CaseClass(Record):
    """A class to which each case either belongs or does not belong.

    Attributes:
        name: its id.
        label: label map from which the class is derived; empty if the cases state the class.
        at_least: if `label` is set, lowest value that makes a case positive. The highest value in the case's map
            counts. If no map of a dataset exceeds 1, the maps are masks without grades, and cases with the value 1 are
            positive.
    """

    name: VolumeKind
    label: OptionalKind = ""
    at_least: int = Field(default=1, ge=1, le=255)


class CaseGrade(Record):
    """An ordered grade, from 0 to `MAX_GRADE`, that every case may state.

    Attributes:
        name: its id.
        at_least: lowest grade that counts as positive, unless the task names another.
    """

    name: VolumeKind
    at_least: int = Field(default=1, ge=1, le=MAX_GRADE)


class CaseNumber(Record):
    """A number that cases state and that a regression may predict.

    Attributes:
        name: its id.
        unit: its unit, such as `mL`; empty if the number has no unit.
        smallest_difference: smallest relevant difference of mean absolute errors, in the unit. None for a share of the
            standard deviation over `train`; see `metrics.SMALLEST_SHARE_OF_SD`.
    """

    name: VolumeKind
    unit: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9°µ%²³/^·.*-]{0,16}$")] = ""
    smallest_difference: float | None = Field(default=None, gt=0.0, le=1e15, allow_inf_nan=False)


class TaskParameters(Record):
    """Parameters of tasks. A task uses some of these parameters. Empty parameters take the dataset's defaults."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    labels: tuple[VolumeKind, ...] = Field(default=(), max_length=MAX_LABEL_MAPS)
    """Segmentation: label maps, of which a later one is drawn over an earlier one."""
    structures: tuple[VolumeKind, ...] = Field(default=(), max_length=MAX_STRUCTURES)
    """Segmentation: the structures of these maps to segment; empty for all."""
    class_name: OptionalKind = ""
    """Classification: the class to predict."""
    # Left out if they are empty, so that datasets of earlier versions keep their digests.
    grade: OptionalKind = Field(default="", exclude_if=lambda name: not name)
    """Classification: the grade to predict, instead of a class."""
    at_least: int = Field(default=0, ge=0, le=MAX_GRADE, exclude_if=lambda grade: not grade)
    """Classification of a grade: the lowest grade that counts as positive; 0 for the declared one."""
    number: OptionalKind = Field(default="", exclude_if=lambda name: not name)
    """Regression: the number to predict."""
    inputs: tuple[VolumeKind, ...] = Field(default=(), max_length=MAX_MODALITIES)
    """Translation: modalities to translate from."""
    target: OptionalKind = ""
    """Translation: the modality to predict."""
    modalities: tuple[VolumeKind, ...] = Field(default=(), max_length=MAX_MODALITIES)
    """Super-resolution, denoising and the correction of distortion: the modalities to restore."""


class DatasetDeclaration(Record):
    """Modalities, label maps, classes, grades and numbers of the cases of a dataset.

    Attributes:
        name: id of the declaration, such as `prostate_mpmri`.
        modalities: ids of the images. Every case has all images. The first image defines the grid.
        labels: label maps that a case may have.
        classes: classes that a case may belong to.
        defaults: maps the name of each task to its default parameters.
        units: maps modalities to their units. Omitted modalities have an arbitrary unit.
        grades: grades that a case may state.
        numbers: numbers that a regression may predict. Cases may state other numbers, too.
    """

    name: VolumeKind
    modalities: tuple[VolumeKind, ...] = Field(min_length=1, max_length=MAX_MODALITIES)
    labels: tuple[LabelMap, ...] = Field(default=(), max_length=MAX_LABEL_MAPS)
    classes: tuple[CaseClass, ...] = Field(default=(), max_length=MAX_CLASSES)
    defaults: dict[VolumeKind, TaskParameters] = Field(default_factory=dict, max_length=MAX_DEFAULTS)
    # Left out if they are empty, so that datasets of earlier versions keep their digests.
    units: dict[VolumeKind, Unit] = Field(
        default_factory=dict, max_length=MAX_MODALITIES, exclude_if=lambda units: not units
    )
    grades: tuple[CaseGrade, ...] = Field(default=(), max_length=MAX_CLASSES, exclude_if=lambda grades: not grades)
    numbers: tuple[CaseNumber, ...] = Field(default=(), max_length=MAX_NUMBERS, exclude_if=lambda numbers: not numbers)

    @property
    def label_names(self) -> tuple[VolumeKind, ...]:
        """Ids of the label maps, in the declared order."""
        return tuple(label.name for label in self.labels)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        volumes = [*self.modalities, *self.label_names]
        stated = ([entry.name for entry in entries] for entries in (self.classes, self.grades, self.numbers))
        if any(len(set(names)) != len(names) for names in (volumes, *stated)):
            raise ValueError("a modality, label map, class, grade or number is declared twice")
        if unknown := {entry.label for entry in self.classes if entry.label} - set(self.label_names):
            raise ValueError(f"a class derives from the undeclared label map {sorted(unknown)[0]}")
        if unknown := set(self.units) - set(self.modalities):
            raise ValueError(f"a unit is declared for {sorted(unknown)[0]}, which is not a modality")
        single = {label.name for label in self.labels if len(label.structures) == 1}
        for label in self.labels:
            if label.within and (label.within == label.name or label.within not in single):
                raise ValueError(f"{label.name} lies within {label.within}, which is not a label map of one structure")
        return self


def list_declarations() -> tuple[str, ...]:
    """Returns the names of the declarations, in alphabetical order."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json")))


@cache
def get_declaration(name: str) -> DatasetDeclaration:
    """Returns a declaration by name.

    Raises:
        BadOption: no declaration has this name.
    """
    if name not in list_declarations():
        raise BadOption(
            f"no declaration is called {name[:64]!r}",
            field="declaration",
            remedy=f"choose one of {', '.join(list_declarations())}, or give a JSON file",
        )
    content = resources.files(__name__).joinpath(f"{name}.json").read_bytes()
    return DatasetDeclaration.model_validate_json(content)
