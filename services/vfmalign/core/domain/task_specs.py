"""Specification of a task on one dataset: required data, input transform, metrics and naive baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from vfmalign.core.domain.datasets import Case, DatasetManifest, Split
from vfmalign.core.domain.declarations import CaseClass, CaseGrade, CaseNumber, LabelMap, Modality, TaskParameters
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.metrics import Structure, get_regression_metrics
from vfmalign.core.formats.documents import pluralise

FINETUNING_SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""Splits that a fine-tuning uses for training, for selecting a checkpoint and for scoring it."""


@dataclass(frozen=True)
class TaskSpec:
    """One task on one dataset.

    Attributes:
        name: key in `tasks.TASKS`.
        parameters: parameters of the request. Defaults of the dataset replace empty parameters.
        input_transform: name in `imaging.input_transforms`. The transform applies to features from before and after
            fine-tuning.
        metrics: metrics of a test case, the primary one first.
        naive_baseline: prediction without a network, which every network must beat.
        modalities: channels that the model's input must have.
        labels: label maps that every case must have, in the order in which they are drawn.
        structures: structures that a segmentation predicts, in the order in which they are drawn.
        case_class: class that a classification predicts.
        grade: grade that a classification predicts, with the `at_least` of the task.
        grades: grades of the training cases, in order; set by `fit`.
        number: number that a regression predicts.
        scale: mean and standard deviation with which a regression standardises the number; set by `fit`.
        restores: modalities that a restoration or translation predicts if they are in the model's input.
    """

    name: str
    parameters: TaskParameters
    input_transform: str
    metrics: tuple[MetricSpec, ...]
    naive_baseline: str
    modalities: tuple[Modality, ...] = ()
    labels: tuple[LabelMap, ...] = ()
    structures: tuple[Structure, ...] = ()
    case_class: CaseClass | None = None
    grade: CaseGrade | None = None
    grades: tuple[int, ...] = ()
    number: CaseNumber | None = None
    scale: tuple[float, float] | None = None
    restores: tuple[Modality, ...] = ()

    @property
    def primary_metric(self) -> MetricSpec:
        """The metric that selects the checkpoint and that measures the gain."""
        return self.metrics[0]

    def check_input(self, model: str, modalities: Sequence[Modality]) -> None:
        """Checks that the model's input has the channels of the task.

        Raises:
            BadOption: a channel is missing. The error names the channel.
        """
        for modality in self.modalities:
            if modality not in modalities:
                raise BadOption(
                    f"{self.name} needs {modality}, which {model} does not take as input",
                    field="model_id",
                    remedy=f"choose a model with the modalities {', '.join(self.modalities)}",
                )
        if self.restores and not set(self.restores) & set(modalities):
            raise BadOption(
                f"{self.name} restores {', '.join(self.restores)}, but {model} takes none of them as input",
                field="model_id",
                remedy="choose a model with one of these modalities",
            )

    def get_stratum(self, case: Case) -> str:
        """Returns the class or grade of a case, by which subsets of the training cases are stratified.

        Returns an empty text if the task has neither, or if the class derives from the case's label map.
        """
        if self.grade is not None:
            return f"grade {case.grades[self.grade.name]:02d}"
        if self.case_class is None or self.case_class.label:
            return ""
        return "positive" if case.classes[self.case_class.name] else "negative"

    def fit(self, dataset: DatasetManifest, train: Sequence[Case]) -> TaskSpec:
        """Returns the task with what it takes from the training cases of a dataset that passed `check_cases`.

        Args:
            dataset: the dataset. Its `train` determines the grades, and the smallest relevant difference of a number.
            train: cases to train on, which determine the scale of a number.
        """
        if self.grade is not None:
            grades = {case.grades[self.grade.name] for case in dataset.train}
            return replace(self, grades=tuple(sorted(grades)))
        if self.number is None:
            return self
        name = self.number.name
        numbers = [case.numbers[name] for case in train]
        metrics = get_regression_metrics(self.number, pstdev(case.numbers[name] for case in dataset.train))
        return replace(self, metrics=metrics, scale=(fmean(numbers), pstdev(numbers) or 1.0))

    def check_cases(self, dataset: DatasetManifest) -> None:
        """Checks that the cases in train, val and test have what the task needs.

        Raises:
            BadDataset: the label map, class, grade or number of a case is missing. The error names the case. Or the
                grades or numbers of the training cases do not suffice, or all cases of `train` or `val` are positive,
                or all are negative. The error states the counts.
            BadOption: the task separates no grades of the training cases.
        """
        self._check_complete(dataset)
        if self.grade is not None:
            self._check_grades(dataset, self.grade)
        self._check_sides(dataset)
        if self.number is not None and len({case.numbers[self.number.name] for case in dataset.train}) < 2:
            raise BadDataset(
                f"the {self.number.name} of all {len(dataset.train)} training cases is equal",
                subject=dataset.id,
                remedy="a regression needs training cases with different numbers",
            )

    def _check_grades(self, dataset: DatasetManifest, grade: CaseGrade) -> None:
        counts = Counter(case.grades[grade.name] for case in dataset.train)
        listed = ", ".join(f"grade {value}: {pluralise(count, 'case')}" for value, count in sorted(counts.items()))
        for split in FINETUNING_SPLITS:
            for case in dataset.split(split):
                if (value := case.grades[grade.name]) not in counts:
                    raise BadDataset(
                        f"no training case has {grade.name} {value}, as case {case.id} of {split} has ({listed})",
                        subject=dataset.id,
                        remedy="import the cases with other splits and another id, or leave this grade out",
                    )
        if not min(counts) < grade.at_least <= max(counts):
            raise BadOption(
                f"{grade.name} of at least {grade.at_least} does not separate the training cases ({listed})",
                field="task.parameters.at_least",
                remedy=f"choose a grade from {sorted(counts)[1]} to {max(counts)}"
                if len(counts) > 1
                else "use cases of two grades",
            )

    def _check_sides(self, dataset: DatasetManifest) -> None:
        # AUROC selects the checkpoint, and is not defined for cases of one side. Training alternates the sides.
        for split in ("train", "val"):
            cases = dataset.split(split)
            if self.grade is not None:
                condition = f"{self.grade.name} of at least {self.grade.at_least}"
                positive = sum(case.grades[self.grade.name] >= self.grade.at_least for case in cases)
            elif self.case_class is not None and not self.case_class.label:
                condition = self.case_class.name
                positive = sum(case.classes[condition] for case in cases)
            else:
                return
            if positive in (0, len(cases)):
                raise BadDataset(
                    f"{condition} holds for {positive} of {pluralise(len(cases), 'case')} of `{split}`, "
                    "which needs cases on both sides",
                    subject=dataset.id,
                    remedy="import the cases with other splits and another id",
                )

    def _check_complete(self, dataset: DatasetManifest) -> None:
        rows = [(split, case) for split in FINETUNING_SPLITS for case in dataset.split(split)]
        lacking = {label.name: [row for row in rows if label.name not in row[1].volumes] for label in self.labels}
        volumes = set(lacking)
        if self.case_class is not None and not self.case_class.label:
            name = self.case_class.name
            lacking[name] = [row for row in rows if name not in row[1].classes]
        if self.grade is not None:
            lacking[self.grade.name] = [row for row in rows if self.grade.name not in row[1].grades]
        if self.number is not None:
            lacking[self.number.name] = [row for row in rows if self.number.name not in row[1].numbers]
        for name, cases in sorted(lacking.items()):
            if cases:
                split, case = cases[0]
                how = (
                    f"`--only-with {name}`, which leaves such cases out,"
                    if name in volumes
                    else f"{name} of every case"
                )
                raise BadDataset(
                    f"{self.name} needs {name}, which is missing in {len(cases)} of {len(rows)} cases, such as "
                    f"{case.id} of {split}",
                    subject=dataset.id,
                    remedy=f"import the folder with {how} and another `--id`; .vfmalign/private/mapping.csv, where it "
                    "was imported, names the folder of each case",
                )
