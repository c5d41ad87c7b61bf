"""Finds verdicts that a check cannot reach with its recipe and dataset, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap

from vfmalign.analysis.checks.gates import QUANTITIES, QUESTIONS, VERDICTS, Gate
from vfmalign.client.messages.checks import CheckSpec, TrainingPlan, VerdictLabel
from vfmalign.client.messages.features import Dataset
from vfmalign.client.recipes import MIN_SHARE, find_shortest_budget, get_second_recipe, list_budgets
from vfmalign.core.domain.declarations import CaseGrade
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.patients import MIN_FOR_CLAIM, MIN_GROUPS, MIN_PER_CLASS, MIN_SEEDS
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.formats.documents import pluralise

_GAINS = frozenset(quantity for quantity in QUANTITIES if not quantity.startswith("mmd2"))
_MORE_PATIENTS = "give test a larger share of the patients (`vfmalign dataset import --share`), or import more of them"


@dataclass(frozen=True)
class VerdictLimit:
    """A reason why a check cannot reach some verdicts.

    Attributes:
        reason: one sentence.
        remedy: how to lift the limit.
        verdicts: verdicts that a gate may accept and that the check can still reach.
        undecidable: quantities of a gate that will have no interval.
    """

    reason: str
    remedy: str
    verdicts: frozenset[VerdictLabel]
    undecidable: frozenset[str]

    def check_gate(self, gate: Gate) -> None:
        """Checks that a gate can pass.

        Raises:
            BadOption: no scores of the networks can make the gate pass.
        """
        option = ""
        if refused := [question for question, accepted in gate.accepted.items() if not self.verdicts & set(accepted)]:
            option = f"{QUESTIONS[refused[0]]} {','.join(gate.accepted[refused[0]])}"
        elif hopeless := [condition for condition in gate.conditions if condition.quantity in self.undecidable]:
            option = f"--gate {hopeless[0]}"
        if option:
            message = f"it can never pass: {self.reason}"
            raise BadOption(message, field=option, remedy=self.remedy, reason="GATE_CANNOT_PASS")


def list_limits_of_check(spec: CheckSpec, dataset: Dataset | None) -> list[VerdictLimit]:
    """Returns the limits of a check.

    Args:
        spec: the check.
        dataset: dataset of the check; None if it is not known.

    Raises:
        BadOption: the task or preset is unknown, or the dataset does not declare the class.
    """
    limits = (
        _limit_by_training(spec),
        _limit_by_seeds(spec),
        _limit_by_frozen_encoder(spec),
        None if dataset is None else _limit_by_dataset(spec, dataset),
    )
    return [limit for limit in limits if limit is not None]


def list_limits_of_dataset(dataset: Dataset) -> list[str]:
    """Returns one sentence per limit that follows from the number of test patients. The last sentence is the remedy."""
    patients = _count_test_patients(dataset)
    if not patients or not dataset.held_out:
        return []
    declaration = dataset.declaration
    sides = [(entry.name, *_count_smaller_class(dataset, entry.name)) for entry in declaration.classes]
    # Where the declared grade separates no patients, a request names another one.
    sides += [side for entry in declaration.grades if (side := _count_smaller_side(dataset, entry))[1]]
    limits = [limit for limit in (_describe_patient_limit(patients), *starmap(_describe_class_limit, sides)) if limit]
    return [*limits, f"for more, {_MORE_PATIENTS}"] if limits else []


def describe_work(spec: CheckSpec, plans: Sequence[TrainingPlan]) -> str:
    """Describes how much training a check needs.

    The text states no time, because the speed of the device is not known yet.
    """
    budgets = list_budgets(spec)
    steps = sum(budget.steps for budget in budgets) // len(budgets)
    trainings = "; ".join(
        f"with {pluralise(plan.seeds, 'seed')} it runs {pluralise(plan.trainings - plan.reused, 'training')} of "
        f"{steps:,} steps and reuses {plan.reused}"
        for plan in dict.fromkeys(plans)
    )
    return f"{trainings}; the time left of each training follows its first epoch"


def describe_control(spec: CheckSpec, check_id: str) -> str:
    """Returns how many trainings a control adds to the trainings of its check."""
    rejected_trials = 0 if get_second_recipe(spec) is None else 1  # the first seed takes the result of the other
    own = pluralise(spec.seeds + rejected_trials, "training")
    return f"it runs {own} of the untrained copy; with the same recipe, it shares the others with check {check_id}"


def _limit_by_seeds(spec: CheckSpec) -> VerdictLimit | None:
    if spec.seeds >= MIN_SEEDS:
        return None
    return VerdictLimit(
        f"with {pluralise(spec.seeds, 'training seed')}, a check ends as `inconclusive`: a verdict needs {MIN_SEEDS}",
        f"leave out --seeds, or choose at least {MIN_SEEDS}",
        verdicts=frozenset(),
        undecidable=_GAINS,
    )


def _limit_by_frozen_encoder(spec: CheckSpec) -> VerdictLimit | None:
    if not spec.frozen:
        return None
    reason = "with a frozen encoder, the features do not move: a shift is not applicable"
    return VerdictLimit(
        reason, "leave out --frozen to measure a shift", frozenset(VERDICTS), frozenset(QUANTITIES) - _GAINS
    )


def _limit_by_training(spec: CheckSpec) -> VerdictLimit | None:
    budget = find_shortest_budget(spec)
    if budget.suffices:
        return None
    return VerdictLimit(
        f"a training of {budget} ends as `insufficient_training`: a verdict needs {100 * MIN_SHARE:g} %",
        "remove --epochs and --steps-per-epoch, or increase them",
        verdicts=frozenset(),
        undecidable=frozenset(QUANTITIES),
    )


def _limit_by_dataset(spec: CheckSpec, dataset: Dataset) -> VerdictLimit | None:
    patients = _count_test_patients(dataset)
    undecidable = frozenset(QUANTITIES) if patients < MIN_GROUPS else _GAINS
    verdicts: frozenset[VerdictLabel] = frozenset({"insufficient_data"})
    if not dataset.held_out:
        reason = "nothing is held out, because the dataset has one patient: every check ends as `insufficient_data`"
        return VerdictLimit(reason, "import more patients", verdicts, undecidable)
    reason, inconclusive = _describe_patient_limit(patients), patients >= MIN_GROUPS
    if spec.task.name == "classification":
        task = get_task_spec(spec.task, dataset.declaration)
        if task.grade is not None:
            side = _count_smaller_side(dataset, task.grade)
        else:
            name = task.parameters.class_name
            side = (name, *_count_smaller_class(dataset, name))
        if of_class := _describe_class_limit(*side):
            reason, inconclusive = of_class, side[1] >= MIN_PER_CLASS
    if not reason:
        return None
    return VerdictLimit(reason, _MORE_PATIENTS, verdicts | {"inconclusive"} if inconclusive else verdicts, undecidable)


def _count_test_patients(dataset: Dataset) -> int:
    return next((size.patients for size in dataset.splits if size.split == "test"), 0)


def _describe_patient_limit(patients: int) -> str:
    """Returns the limit that the number of test patients sets for every check; empty if there are enough."""
    if patients >= MIN_FOR_CLAIM:
        return ""
    ending = "`insufficient_data`" if patients < MIN_GROUPS else "at best `inconclusive`"
    return (
        f"with {pluralise(patients, 'test patient')}, a check ends as {ending}: a verdict needs {MIN_GROUPS}, and "
        f"`gain`, `equivalent` or `harm` {MIN_FOR_CLAIM}"
    )


def _describe_class_limit(name: str, smaller: int, at_most: str) -> str:
    """Returns the limit that the test patients of a class set for its classification; empty if there are enough."""
    if smaller >= MIN_FOR_CLAIM:
        return ""
    ending = "`insufficient_data`" if smaller < MIN_PER_CLASS else "at best `inconclusive`"
    return (
        f"with {at_most}{pluralise(smaller, 'test patient')} of one class of {name}, its classification ends as "
        f"{ending}: a verdict needs {MIN_PER_CLASS} of each, and `gain`, `equivalent` or `harm` {MIN_FOR_CLAIM}"
    )


def _count_smaller_class(dataset: Dataset, name: str) -> tuple[int, str]:
    """Returns the test patients of the smaller side of a class, and `at most ` where only a bound is known."""
    counts = next((count for count in dataset.classes if count.name == name), None)
    if counts is None:  # it derives from a label map, and one of its sides has at most half of the patients
        return _count_test_patients(dataset) // 2, "at most "
    return min(counts.test_positive, counts.test_negative), ""


def _count_smaller_side(dataset: Dataset, grade: CaseGrade) -> tuple[str, int, str]:
    """Returns the name of `at least k`, and the test patients of its smaller side as `_count_smaller_class` does."""
    patients = [0, 0]
    for count in dataset.grades:
        if count.name == grade.name:
            patients[count.grade >= grade.at_least] += count.test_patients
    return f"{grade.name} of at least {grade.at_least}", min(patients), ""
