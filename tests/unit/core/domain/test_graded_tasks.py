"""Tasks on grades and numbers: parameters, refusals, and what a task takes from the training cases."""

import re
from statistics import pstdev

import pytest
from pydantic import ValidationError
from tests.prostate import GRADED, PROSTATE

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.declarations import CaseGrade, CaseNumber, DatasetDeclaration, TaskParameters
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.storage.datasets import from_datalist, to_datalist
from vfmalign.core.storage.trainings import select_training_cases


def resolve(text, declaration=GRADED):
    return get_task_spec(Task.parse(text), declaration)


def make_dataset(train, val=None, test=(0, 1), declaration=GRADED, **fields):
    """A dataset with these grades; the volume of a case is ten times its grade."""

    def to_case(split, place, grade):
        facts = {} if grade is None else {"grades": {"pirads": grade}, "numbers": {"volume": 10.0 * grade}}
        return Case.model_validate({"id": f"{split}-{place}", "group": f"{split}-{place}", "volumes": {}} | facts)

    stated = [grade for grade in train if grade is not None]
    val = (min(stated), max(stated)) if val is None else val
    splits = {
        split: tuple(to_case(split, place, grade) for place, grade in enumerate(grades))
        for split, grades in (("train", train), ("val", val), ("test", test))
    }
    return DatasetManifest(id="d", declaration=declaration, **splits, **fields)


def test_a_classification_predicts_a_class_or_a_grade():
    graded = resolve("classification:grade=pirads")
    assert graded.grade == CaseGrade(name="pirads", at_least=2)
    assert graded.case_class is None
    assert graded.labels == ()
    assert [metric.name for metric in graded.metrics] == ["auroc", "quadratic_kappa", "accuracy"]
    assert [metric.smallest_difference for metric in graded.metrics] == [0.01, 0.02, 0.01]
    assert resolve("classification:grade=pirads,at_least=2") == graded, "the declared one"
    assert resolve("classification:grade=pirads,at_least=3").grade.at_least == 3
    assert resolve("classification").case_class.name == "significant_cancer", "the dataset's default"
    default = GRADED.model_copy(update={"defaults": {"classification": TaskParameters(grade="pirads", at_least=3)}})
    assert resolve("classification", default).grade.at_least == 3
    assert resolve("classification:grade=pirads", default).grade.at_least == 2
    assert resolve("classification:class=significant_cancer", default).grade is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classification:grade=isup", "isup is not a grade of prostate_mpmri; choose from pirads"),
        ("classification:class=significant_cancer,grade=pirads", "either a class or a grade"),
        ("classification:at_least=2", "no grade is named"),
        ("segmentation:grade=pirads", "segmentation does not use grade"),
        ("classification:number=volume", "classification does not use number"),
        ("regression", "regression needs number.*choose from volume"),
        ("regression:number=age", "age is not a number of prostate_mpmri; choose from volume"),
        ("classification:grade=pirads,at_least=0", "at_least .* is not a grade from 1 to 15"),
        ("classification:grade=pirads,at_least=16", "at_least .* is not a grade from 1 to 15"),
        ("classification:grade=pirads,at_least=two", "at_least .* is not a grade from 1 to 15"),
    ],
)
def test_wrong_parameters_are_refused(text, message):
    with pytest.raises(BadOption, match=message):
        resolve(text)


def test_a_dataset_without_a_class_names_its_grades():
    brain = DatasetDeclaration(name="brain", modalities=("t1w",), grades=(CaseGrade(name="fazekas"),))
    with pytest.raises(BadOption, match=r"needs class.*or a grade: fazekas"):
        resolve("classification", brain)
    with pytest.raises(BadOption, match="it declares no number"):
        resolve("regression:number=age", brain)


def test_the_short_form_of_a_task_names_grade_and_number():
    for text in ("classification:grade=pirads,at_least=3", "regression:number=volume"):
        assert str(Task.parse(text)) == text
    assert Task.parse("classification:grade=pirads,at_least=3").parameters.at_least == 3


@pytest.mark.parametrize(
    ("task", "train", "splits", "error", "message"),
    [
        ("classification:grade=pirads", (0, None, 2), {}, BadDataset, "pirads, which is missing in 1 of 7.*train-1"),
        ("regression:number=volume", (0, 1), {"test": (1, None)}, BadDataset, "volume, which is missing.*test-1 of"),
        (
            "classification:grade=pirads", (0, 0, 2), {"val": (0, 3)}, BadDataset,
            "no training case has pirads 3, as case val-1 of val has .grade 0: 2 cases, grade 2: 1 case.",
        ),
        (
            "classification:grade=pirads,at_least=4", (0, 1, 3), {}, BadOption,
            "at least 4 does not separate the training cases .grade 0: 1 case, grade 1: 1 case, grade 3: 1 case.",
        ),
        ("classification:grade=pirads,at_least=1", (1, 2), {"val": (1,), "test": (2,)}, BadOption, "does not separate"),
        ("regression:number=volume", (1, 1, 1), {}, BadDataset, "the volume of all 3 training cases is equal"),
    ],
)  # fmt: skip
def test_cases_that_a_task_cannot_use_are_refused(task, train, splits, error, message):
    with pytest.raises(error) as caught:
        resolve(task).check_cases(make_dataset(train, **splits))
    assert re.search(message, str(caught.value)), caught.value


def test_a_task_takes_grades_scale_and_smallest_difference_from_the_training_cases():
    dataset = make_dataset((0, 3, 1, 1), val=(1, 3), test=(3,))
    graded = resolve("classification:grade=pirads")
    graded.check_cases(dataset)
    assert graded.fit(dataset, dataset.train).grades == (0, 1, 3)
    regression = resolve("regression:number=volume")
    regression.check_cases(dataset)
    fitted = regression.fit(dataset, dataset.train[:2])
    assert fitted.scale == (15.0, 15.0), "of the cases to train on"
    mae, r2, pearson = fitted.metrics
    assert mae.smallest_difference == float(f"{0.05 * pstdev([0.0, 30.0, 10.0, 10.0]):.2g}"), "of all training cases"
    assert (mae.unit, mae.higher_is_better, r2.smallest_difference, pearson.smallest_difference) == ("mL", False, 0, 0)
    declared = GRADED.model_copy(update={"numbers": (CaseNumber(name="volume", smallest_difference=0.3),)})
    assert (
        resolve("regression:number=volume", declared).fit(dataset, dataset.train).metrics[0].smallest_difference == 0.3
    )
    segmentation = resolve("segmentation")
    assert segmentation.fit(dataset, dataset.train) == segmentation


@pytest.mark.parametrize("grade", [-1, 16, 1.5])
def test_a_grade_outside_its_range_is_no_grade(grade):
    with pytest.raises(ValidationError, match=r"grades\.pirads"):
        make_dataset((grade,))


def test_grades_are_declared_and_stored_and_leave_older_digests_alone():
    dataset = make_dataset((0, 3))
    assert from_datalist(to_datalist(dataset), "d") == dataset
    with pytest.raises(ValidationError, match="has pirads, which the dataset does not declare"):
        make_dataset((0, 3), declaration=PROSTATE)
    with pytest.raises(ValidationError, match="grade or number is declared twice"):
        GRADED.model_validate(GRADED.model_dump() | {"grades": [{"name": "pirads"}] * 2})
    older = make_dataset((None,), (None,) * 2, (None,) * 2, PROSTATE.model_copy(update={"name": "renamed"}))
    assert older.digest() == "71d05efa0027601e6f1d182f7f896512e8f18b155dbddbbda7b500bda380b805", "before grades"


def test_a_subset_of_the_training_cases_has_every_grade_and_scales_the_number():
    dataset = make_dataset([0] * 12 + [1] * 6 + [2] * 3 + [3])
    task = resolve("classification:grade=pirads")
    assert sorted(case.grades["pirads"] for case in select_training_cases(dataset, task, 4, 7)) == [0, 1, 2, 3]
    with pytest.raises(BadOption, match=re.escape("3 training cases have no case that is grade 03")):
        select_training_cases(dataset, task, 3, 7)
    number = resolve("regression:number=volume")
    few = select_training_cases(dataset, number, 5, 7)
    volumes = [case.numbers["volume"] for case in few]
    assert number.fit(dataset, few).scale == pytest.approx((sum(volumes) / 5, pstdev(volumes)))


@pytest.mark.parametrize(("val", "count"), [((0, 1), "0 of 2 cases"), ((3,), "1 of 1 case")])
def test_val_needs_cases_on_both_sides_because_auroc_selects_the_checkpoint(val, count):
    with pytest.raises(BadDataset, match=f"pirads of at least 2 holds for {count} of `val`"):
        resolve("classification:grade=pirads").check_cases(make_dataset([0, 1, 2, 3], val=val))
    resolve("regression:number=volume").check_cases(make_dataset([0, 1, 2, 3], val=val))
