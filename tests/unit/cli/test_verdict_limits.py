"""What is known of a verdict before anything is trained, and which gates that refuses."""

from __future__ import annotations

from typing import Any

import pytest

from vfmalign.analysis.checks.gates import Gate
from vfmalign.cli.verdict_limits import (
    describe_control,
    describe_work,
    list_limits_of_check,
    list_limits_of_dataset,
)
from vfmalign.client.messages.checks import CheckSpec, TrainingPlan
from vfmalign.client.messages.features import ClassCount, Dataset, GradeCount, SplitSize
from vfmalign.client.messages.jobs import Recipe
from vfmalign.core.domain.declarations import CaseClass, CaseGrade, DatasetDeclaration
from vfmalign.core.domain.errors import BadOption

DECLARATION = DatasetDeclaration(
    name="brain",
    modalities=("t1w",),
    labels=({"name": "hippocampus", "values": {1: "anterior"}},),
    classes=(CaseClass(name="atrophy"), CaseClass(name="present", label="hippocampus", at_least=1)),
    grades=(CaseGrade(name="fazekas", at_least=2),),
)
REHEARSAL = Recipe(epochs=1, steps_per_epoch=4)


def make_spec(task: str = "segmentation:label=hippocampus", **fields: Any) -> CheckSpec:
    return CheckSpec(model_id="m", dataset_id="d", task=task, **fields)


def make_dataset(patients: int, *, counts: tuple[int, int] = (50, 50), held_out: bool = True) -> Dataset:
    """A dataset with so many test patients, and with so many of them with and without the class `atrophy`."""
    return Dataset(
        dataset_id="d",
        dataset_digest="0" * 64,
        splits=(
            SplitSize(split="train", cases=99, patients=99),
            SplitSize(split="test", cases=2 * patients, patients=patients),
        ),
        held_out=held_out,
        declaration=DECLARATION,
        classes=(ClassCount(name="atrophy", test_positive=counts[0], test_negative=counts[1]),),
        grades=(
            GradeCount(name="fazekas", grade=1, test_patients=counts[1]),
            GradeCount(name="fazekas", grade=2, test_patients=counts[0] - 4),
            GradeCount(name="fazekas", grade=3, test_patients=4),
        ),
    )


def is_refused(
    spec: CheckSpec, dataset: Dataset | None, *, require: str = "", gate: str = "", pretraining: str = ""
) -> bool:
    wanted = Gate.parse(*([text] if text else [] for text in (gate, require, pretraining)))
    try:
        for limit in list_limits_of_check(spec, dataset):
            limit.check_gate(wanted)
    except BadOption as error:
        option = "--require " if require else "--require-pretraining " if pretraining else "--gate "
        return error.reason == "GATE_CANNOT_PASS" and error.field.startswith(option) and bool(error.remedy)
    return False


@pytest.mark.parametrize(
    ("patients", "require", "gate", "refused"),
    [
        (5, "gain", "", True),
        (5, "gain,equivalent,inconclusive", "", True),
        (5, "inconclusive,insufficient_data", "", False),
        (5, "", "mmd2.upper<=1", True),
        (7, "", "difference_scratch.lower>=0", True),
        (8, "gain,equivalent", "", True),
        (8, "gain,inconclusive", "", False),
        (8, "", "mmd2.upper<=1", False),
        (16, "gain", "", True),
        (16, "", "difference_specialised.lower>=0", True),
        (17, "gain", "", False),
        (17, "", "difference_specialised.lower>=0", False),
        (5, "", "", False),
    ],
)
def test_a_gate_that_the_number_of_patients_keeps_from_passing_is_refused(
    patients: int, require: str, gate: str, refused: bool
) -> None:
    assert is_refused(make_spec(), make_dataset(patients), require=require, gate=gate) == refused
    if require:
        assert is_refused(make_spec(), make_dataset(patients), pretraining=require) == refused


@pytest.mark.parametrize(
    ("seeds", "gate", "refused"),
    [
        (2, {"require": "gain"}, True),
        (2, {"require": "inconclusive"}, True),
        (1, {"pretraining": "gain"}, True),
        (1, {"gate": "difference_scratch.lower>=0"}, True),
        (1, {"gate": "mmd2.upper<=1"}, False),
        (3, {"require": "gain", "gate": "difference_scratch.lower>=0", "pretraining": "gain"}, False),
    ],
)
def test_a_gate_that_the_number_of_seeds_keeps_from_passing_is_refused(
    seeds: int, gate: dict[str, str], refused: bool
) -> None:
    for dataset in (None, make_dataset(100)):
        assert is_refused(make_spec(seeds=seeds), dataset, **gate) == refused


@pytest.mark.parametrize(
    ("task", "counts", "refused"),
    [
        ("classification:grade=fazekas", (9, 31), True),
        ("classification:grade=fazekas", (17, 23), False),
        ("classification:grade=fazekas,at_least=3", (17, 23), True),
        ("classification:class=atrophy", (9, 31), True),
        ("classification:class=atrophy", (31, 9), True),
        ("classification:class=atrophy", (17, 23), False),
        ("classification:class=present", (9, 31), False),
        ("segmentation:label=hippocampus", (9, 31), False),
    ],
)
def test_a_classification_needs_patients_of_both_classes(task: str, counts: tuple[int, int], refused: bool) -> None:
    dataset = make_dataset(40, counts=counts)
    for gate in ("difference_specialised.lower>=0", "rpg_scratch.lower>=0"):
        assert is_refused(make_spec(task), dataset, gate=gate) == refused
    assert is_refused(make_spec(task), dataset, require="gain,inconclusive") == refused
    assert not is_refused(make_spec(task), dataset, gate="mmd2_std.upper<=1"), "the shift has an interval"


def test_a_classification_with_few_patients_of_a_class_is_at_best_inconclusive() -> None:
    spec, dataset = make_spec("classification:class=atrophy"), make_dataset(40, counts=(16, 24))
    assert is_refused(spec, dataset, require="gain,equivalent")
    assert is_refused(spec, dataset, gate="rpg_scratch.lower>=0")
    assert not is_refused(spec, dataset, require="gain,inconclusive")
    (limit,) = list_limits_of_check(spec, dataset)
    assert "16 test patients of one class of atrophy, its classification ends as at best `inconclusive`" in limit.reason


def test_classes_that_derive_from_label_maps_need_twice_the_patients() -> None:
    (limit,) = list_limits_of_check(make_spec("classification:class=present"), make_dataset(18))
    assert limit.reason.startswith("with at most 9 test patients of one class of present,")
    assert list_limits_of_check(make_spec("classification:class=present"), make_dataset(34)) == []


@pytest.mark.parametrize(("require", "gate"), [("insufficient_data", ""), ("gain", ""), ("", "mmd2.lower>=0")])
def test_no_gate_passes_on_a_rehearsal(require: str, gate: str) -> None:
    for dataset in (None, make_dataset(100)):
        assert is_refused(make_spec(recipe=REHEARSAL), dataset, require=require, gate=gate)


def test_every_limit_is_named_with_its_numbers() -> None:
    training, data = list_limits_of_check(make_spec(recipe=REHEARSAL), make_dataset(5))
    assert "4 of the recipe's 10,000 steps ends as `insufficient_training`" in training.reason
    assert data.reason == (
        "with 5 test patients, a check ends as `insufficient_data`: a verdict needs 8, and `gain`, `equivalent` or "
        "`harm` 17"
    )
    assert "--share" in data.remedy
    assert "at best `inconclusive`" in list_limits_of_check(make_spec(), make_dataset(9))[0].reason


def test_without_a_held_out_case_no_verdict_is_possible() -> None:
    dataset = make_dataset(1, held_out=False)
    assert is_refused(make_spec(), dataset, require="inconclusive")
    assert list_limits_of_dataset(dataset) == [], "the import says it in its own words"


def test_a_dataset_names_what_each_task_lacks() -> None:
    limits = list_limits_of_dataset(make_dataset(12, counts=(3, 9)))
    assert ["with 12 test patients" in limits[0], "3 test patients of one class of atrophy" in limits[1]] == [True] * 2
    assert "at most 6 test patients of one class of present" in limits[2]
    assert "3 test patients of one class of fazekas of at least 2" in limits[3]
    assert limits[4].startswith("for more, give test a larger share")
    assert list_limits_of_dataset(make_dataset(34, counts=(17, 17))) == []
    assert list_limits_of_dataset(make_dataset(0)) == [], "a dataset for a pretraining"


def test_the_work_is_counted_in_trainings_with_the_seeds_of_the_check_and_with_one() -> None:
    three, one = TrainingPlan(seeds=3, trainings=11, reused=7), TrainingPlan(seeds=1, trainings=5, reused=4)
    assert describe_work(make_spec(), (three, one)).startswith(
        "with 3 seeds it runs 4 trainings of 10,000 steps and reuses 7; "
        "with 1 seed it runs 1 training of 10,000 steps and reuses 4; "
    )
    recipe = Recipe(preset="demo", epochs=4)
    text = describe_work(make_spec(seeds=1, recipe=recipe), (one, one))
    assert text.startswith("with 1 seed it runs 1 training of 64 steps and reuses 4; the time left"), "said once"


@pytest.mark.parametrize(
    ("recipe", "own"),
    [(Recipe(), 4), (Recipe(learning_rate=1e-3), 3)],
    ids=["two recipes are tried", "one recipe"],
)
def test_a_control_runs_only_the_trainings_of_the_untrained_copy(recipe: Recipe, own: int) -> None:
    text = describe_control(make_spec(recipe=recipe), "c1")
    assert text == (
        f"it runs {own} trainings of the untrained copy; with the same recipe, it shares the others with check c1"
    )


def test_a_gate_on_the_shift_of_a_frozen_encoder_is_refused_and_no_other() -> None:
    spec = make_spec(frozen=True)
    assert is_refused(spec, None, gate="mmd2.upper<=1")
    assert is_refused(spec, None, gate="mmd2_std.upper<=1")
    assert not is_refused(spec, None, gate="difference_scratch.lower>=0")
    assert not is_refused(spec, None, require="gain", pretraining="gain")
    assert not is_refused(spec.model_copy(update={"frozen": False}), None, gate="mmd2.upper<=1")
