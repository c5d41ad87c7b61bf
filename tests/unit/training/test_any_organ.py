"""Tasks with parameters on a made-up brain: several structures, stated classes, and a target without units."""

import math
from dataclasses import replace

import pytest
import torch

from vfmalign.core.domain.declarations import CaseClass, DatasetDeclaration, LabelMap
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.imaging.normalisation import compute_moments, scale_from_moments
from vfmalign.training.data import PreparedCase, collate, mask_structure, shuffle_targets
from vfmalign.training.figures import draw_panels
from vfmalign.training.tasks import get_task
from vfmalign.training.tasks.segmentation import Segmentation

CPU = torch.device("cpu")
SHAPE = (8, 16, 16)
BRAIN = DatasetDeclaration(
    name="brain",
    modalities=("t1w", "t2w"),
    labels=(
        LabelMap(name="brain_mask", values={1: "brain"}),
        LabelMap(name="hippocampus", values={1: "anterior", 2: "posterior"}, within="brain_mask"),
        LabelMap(name="tumour", values={1: "edema", 2: "core", 4: "core"}, may_be_empty=True, weight=2.0),
    ),
    classes=(CaseClass(name="disease"),),
)


def make_case(number, *, tumour=True):
    draw = torch.Generator().manual_seed(number)
    maps = {name: torch.zeros(SHAPE, dtype=torch.uint8) for name in ("brain_mask", "hippocampus", "tumour")}
    maps["brain_mask"][1:7, 2:14, 2:14] = 255  # a mask, whatever its value
    maps["hippocampus"][2:4, 4:8, 4:8], maps["hippocampus"][4:6, 4:8, 4:8] = 1, 2
    if tumour:
        maps["tumour"][5, 10:14, 10:14], maps["tumour"][5, 11, 11:13] = 1, torch.tensor([2, 4], dtype=torch.uint8)
    t1w = 50.0 + 100.0 * torch.rand(SHAPE, generator=draw)
    signal = torch.stack((t1w, torch.zeros(SHAPE)))
    scale = scale_from_moments(map(compute_moments, signal))
    t2w = (number + 1) * (300.0 - t1w)  # another gain in every scan
    return PreparedCase(
        f"case-{number}",
        f"group-{number}",
        scale.apply_(signal.clone()),
        torch.stack((scale.apply_(signal.clone())[0], t2w)),
        maps,
        (3.0, 1.0, 1.0),
        ("t1w", "t2w"),
        scale=scale,
        classes={"disease": number % 2 == 0},
    )


@pytest.fixture(scope="module")
def cases():
    return [make_case(number) for number in range(4)]


def to_output(classes_DHW, count):
    return torch.nn.functional.one_hot(classes_DHW, count).permute(3, 0, 1, 2).float() * 10


def test_later_maps_are_drawn_over_earlier_ones_and_values_of_one_name_are_one_structure(cases):
    task = Segmentation(get_task_spec(Task.parse("segmentation:label=brain_mask+hippocampus+tumour"), BRAIN))
    classes = task.draw(cases[0].labels)
    assert [structure.name for structure in task.structures] == ["brain", "anterior", "posterior", "edema", "core"]
    assert [int((classes == number).sum()) for number in range(1, 6)] == [864 - 64 - 16, 32, 32, 14, 2]


def test_a_structure_covers_what_is_declared_to_lie_within_it(cases):
    task = Segmentation(get_task_spec(Task.parse("segmentation:label=brain_mask+hippocampus+tumour"), BRAIN))
    classes = task.draw(cases[0].labels)
    brain, anterior = task.structures[:2]
    assert int(task.get_region(classes, brain).sum()) == 864 - 16, "with the hippocampus, without the tumour"
    assert int(task.get_region(classes, anterior).sum()) == 32


def test_a_perfect_segmentation_of_several_structures(cases):
    task = get_task(get_task_spec(Task.parse("segmentation:label=hippocampus"), BRAIN))
    case = cases[0]
    classes = Segmentation(task.spec).draw(case.labels)
    values = task.score(to_output(classes, 3), case)
    assert values == {
        "mean_dice": 1.0, "anterior_dice": 1.0, "posterior_dice": 1.0, "anterior_hd95": 0.0, "posterior_hd95": 0.0,
    }  # fmt: skip
    classes[classes == 2] = 0
    values = task.score(to_output(classes, 3), case)
    assert (values["mean_dice"], values["posterior_dice"]) == (0.5, 0.0)
    assert task.primary(to_output(classes, 3), case) == 0.5


def test_one_structure_of_a_map_is_a_task_of_its_own(cases):
    task = get_task(get_task_spec(Task.parse("segmentation:label=hippocampus,structure=posterior"), BRAIN))
    assert task.classes == 2
    classes = Segmentation(task.spec).draw(cases[0].labels)
    assert torch.equal(classes > 0, cases[0].labels["hippocampus"] == 2)
    assert task.score(to_output(classes, 2), cases[0]) == {"posterior_dice": 1.0, "posterior_hd95": 0.0}
    assert torch.equal(mask_structure(task.spec.structures[-1], cases[0].labels), classes > 0)


def test_a_structure_that_a_case_may_lack_has_a_false_volume():
    task = get_task(get_task_spec(Task.parse("segmentation:label=tumour"), BRAIN))
    healthy = make_case(9, tumour=False)
    predicted = torch.zeros(SHAPE, dtype=torch.int64)
    predicted[0, 0, :4] = 2
    values = task.score(to_output(predicted, 3), healthy)
    assert values["false_core_volume"] == pytest.approx(4 * 3.0 / 1000)
    assert (values["false_edema_volume"], values["core_dice"]) == (0.0, None)
    assert task.primary(to_output(predicted, 3), healthy) is None, "core is weighted and drawn last"
    assert math.isfinite(float(task.loss(torch.randn(1, 3, *SHAPE), collate([healthy], CPU))))


def test_cases_state_their_class(cases):
    task = get_task(get_task_spec(Task.parse("classification:class=disease"), BRAIN))
    prepared = task.prepare(cases)
    assert [case.positive for case in prepared] == [True, False, True, False]
    assert task.primary(task.naive_baseline(prepared[:3])(prepared[0]), prepared[0]) == pytest.approx(2 / 3)
    with pytest.raises(BadDataset, match="use cases that are disease and cases that are not"):
        task.naive_baseline(prepared[::2])


def test_a_translation_without_units_predicts_the_target_relative_to_its_mean(cases):
    task = get_task(get_task_spec(Task.parse("translation:from=t1w,to=t2w"), BRAIN))
    prepared = task.prepare(cases)
    targets = [case.clean_CDHW[1] for case in prepared]
    assert [float(target.mean()) for target in targets] == pytest.approx([1.0] * 4, rel=1e-5)
    assert torch.equal(prepared[0].clean_CDHW[0], cases[0].clean_CDHW[0]), "the inputs stay as they are"
    predicted = task.naive_baseline(prepared[:3])(prepared[3])
    # T2W is linear in T1W up to a gain that differs from scan to scan and is divided out.
    assert float((predicted[0] - targets[3]).abs().mean()) < 0.02
    assert task.primary(predicted, prepared[3]) > 25


@pytest.mark.parametrize("name", ["super_resolution", "denoising"])
def test_a_restoration_restores_only_its_modalities(cases, name):
    task = get_task(get_task_spec(Task.parse(f"{name}:modality=t1w"), BRAIN))
    assert (task.restores, task.residual) == (("t1w",), True)
    case = replace(cases[0], input_CDHW=cases[0].clean_CDHW + torch.tensor([0.5, 9.0])[:, None, None, None])
    output = task.naive_baseline([])(case)
    assert torch.equal(output, case.input_CDHW[:1])
    assert float(task.loss(output[None], collate([case], CPU))) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "segmentation:label=brain_mask+hippocampus+tumour",
        "classification:class=disease",
        "translation:from=t1w,to=t2w",
        "super_resolution:modality=t1w",
        "denoising:modality=t1w",
        "distortion:modality=t2w",
    ],
)
def test_panels_can_be_drawn(cases, text):
    task = get_task(get_task_spec(Task.parse(text), BRAIN))
    case = task.prepare(cases)[0]
    shape = (1,) if task.outputs else (task.classes or 1, *SHAPE)
    assert draw_panels(task.panels(torch.zeros(shape), case), "case").startswith(b"\x89PNG")


def test_shuffled_targets_are_those_of_other_cases_and_inputs_stay(cases):
    prepared = get_task(get_task_spec(Task.parse("classification:class=disease"), BRAIN)).prepare(cases)
    shuffled = shuffle_targets(prepared, seed=3)
    for case, other in zip(prepared, shuffled, strict=True):
        assert (other.case, other.group) == (case.case, case.group)
        assert other.input_CDHW is case.input_CDHW
        (source,) = [one for one in prepared if one.clean_CDHW is other.clean_CDHW]
        assert source is not case
        assert other.labels is source.labels
        assert (other.positive, other.classes, other.label_max) == (source.positive, source.classes, source.label_max)
    assert {id(case.clean_CDHW) for case in shuffled} == {id(case.clean_CDHW) for case in prepared}, "a permutation"
    again = shuffle_targets(prepared, seed=3)
    assert [case.clean_CDHW is other.clean_CDHW for case, other in zip(shuffled, again, strict=True)] == [True] * 4
