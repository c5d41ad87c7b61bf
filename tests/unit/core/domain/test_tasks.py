"""What a task needs of a model and a dataset, and how its parameters are resolved."""

import re

import pytest
from tests.prostate import PROSTATE, SPECS

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.declarations import CaseClass, DatasetDeclaration, LabelMap, TaskParameters
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import get_task_spec

BRAIN = DatasetDeclaration(
    name="brain",
    modalities=("t1w", "flair", "t2w"),
    labels=(
        LabelMap(name="hippocampus", values={1: "anterior", 2: "posterior"}),
        LabelMap(name="tumour", values={1: "edema", 2: "core", 4: "core"}, may_be_empty=True, weight=3.0),
        LabelMap(name="mask", values={1: "brain"}),
    ),
    classes=(CaseClass(name="disease"), CaseClass(name="malignant", label="tumour", at_least=2)),
    defaults={"segmentation": TaskParameters(labels=("hippocampus",), structures=("anterior",))},
)


def resolve(text, declaration):
    return get_task_spec(Task.parse(text), declaration)


def get_metrics(task, declaration=BRAIN):
    return [metric.name for metric in resolve(task, declaration).metrics]


# --- prostate mpMRI ---------------------------------------------------------------------------------------------------


def test_a_model_without_the_channel_that_a_task_is_about_is_refused():
    for name in ("segmentation", "super_resolution", "classification"):
        SPECS[name].check_input("m", ("t2w",))
    SPECS["distortion"].check_input("m", ("dwi", "t2w"))
    SPECS["translation"].check_input("m", ("adc", "dwi", "t2w"))
    with pytest.raises(BadOption, match="distortion needs dwi, which provicnet_t2w does not take as input"):
        SPECS["distortion"].check_input("provicnet_t2w", ("t2w",))
    with pytest.raises(BadOption, match="choose a model with the modalities t2w, dwi, adc"):
        SPECS["translation"].check_input("m", ("t2w", "dwi"))
    with pytest.raises(BadOption, match="restores t2w, dwi, adc, but m takes none of them"):
        SPECS["super_resolution"].check_input("m", ("t1w",))


def test_every_task_names_its_naive_baseline_and_its_metrics_once():
    for task in SPECS.values():
        assert task.naive_baseline
        names = [metric.name for metric in task.metrics]
        assert len(set(names)) == len(names)


def test_every_metric_has_its_smallest_relevant_difference():
    differences = {metric.name: metric.smallest_difference for task in SPECS.values() for metric in task.metrics}
    assert differences == {
        "lesion_dice": 0.01, "gland_dice": 0.01, "false_lesion_volume": 0.1, "lesion_hd95": 1.0, "gland_hd95": 1.0,
        "psnr": 0.1, "ssim": 0.002, "auroc": 0.01, "balanced_accuracy": 0.01,
    }  # fmt: skip


def test_the_defaults_of_prostate_mpmri_are_its_tasks():
    assert get_metrics("segmentation", PROSTATE) == [
        "lesion_dice", "gland_dice", "false_lesion_volume", "lesion_hd95", "gland_hd95",
    ]  # fmt: skip
    assert {name: spec.input_transform for name, spec in SPECS.items()} == {
        "segmentation": "identity",
        "super_resolution": "half_resolution",
        "denoising": "noisy:t2w+dwi",
        "distortion": "distorted_diffusion",
        "translation": "hidden_adc",
        "classification": "identity",
    }
    explicit = {
        "segmentation": "segmentation:label=gland+lesions,structure=lesion+gland",
        "super_resolution": "super_resolution:modality=adc+t2w+dwi",
        "denoising": "denoising:modality=dwi+t2w",
        "distortion": "distortion:modality=dwi",
        "translation": "translation:from=dwi+t2w,to=adc",
        "classification": "classification:class=significant_cancer",
    }
    for name, text in explicit.items():
        resolved = resolve(text, PROSTATE)
        assert (resolved.input_transform, resolved.metrics) == (SPECS[name].input_transform, SPECS[name].metrics)
    assert resolve(explicit["translation"], PROSTATE) == SPECS["translation"], "modalities have no order"


# --- parameters -------------------------------------------------------------------------------------------------------


def test_a_segmentation_has_metrics_for_each_structure():
    assert get_metrics("segmentation:label=hippocampus") == [
        "mean_dice", "anterior_dice", "posterior_dice", "anterior_hd95", "posterior_hd95",
    ]  # fmt: skip
    assert get_metrics("segmentation:label=hippocampus,structure=posterior") == ["posterior_dice", "posterior_hd95"]
    weighted = get_metrics("segmentation:label=mask+tumour")
    assert weighted[:5] == ["core_dice", "edema_dice", "brain_dice", "false_core_volume", "false_edema_volume"]
    assert get_metrics("segmentation:label=tumour+mask")[0] == "mean_dice", "the last structure drawn has no weight"


def test_structures_are_drawn_in_the_order_of_the_maps():
    spec = resolve("segmentation:label=mask+tumour", BRAIN)
    assert [(s.name, s.label, s.values) for s in spec.structures] == [
        ("brain", "mask", ()),
        ("edema", "tumour", (1,)),
        ("core", "tumour", (2, 4)),
    ]
    only_core = resolve("segmentation:label=mask+tumour,structure=core", BRAIN)
    assert [label.name for label in only_core.labels] == ["tumour"], "maps without a wanted structure are not read"


def test_empty_parameters_take_the_defaults_of_the_dataset():
    assert get_metrics("segmentation") == ["anterior_dice", "anterior_hd95"]
    assert get_metrics("segmentation:structure=posterior") == ["posterior_dice", "posterior_hd95"]
    assert len(resolve("segmentation:label=hippocampus", BRAIN).structures) == 2, "the default is of other maps"


def test_tasks_on_images_name_their_modalities():
    super_resolution = resolve("super_resolution:modality=t1w", BRAIN)
    assert (super_resolution.input_transform, super_resolution.modalities) == ("half_resolution:t1w", ("t1w",))
    every = resolve("super_resolution:modality=t2w+t1w+flair", BRAIN)
    assert (every.input_transform, every.modalities) == ("half_resolution", ())
    denoising = resolve("denoising:modality=flair+t1w", BRAIN)
    assert (denoising.input_transform, denoising.naive_baseline) == ("noisy:t1w+flair", "the noisy T1W, FLAIR")
    assert resolve("denoising:modality=t2w+t1w+flair", BRAIN).input_transform == "noisy"
    distortion = resolve("distortion:modality=t2w+flair", BRAIN)
    assert (distortion.input_transform, distortion.naive_baseline) == (
        "distorted:flair+t2w",
        "the uncorrected FLAIR, T2W",
    )
    translation = resolve("translation:from=t1w,to=t2w", BRAIN)
    assert (translation.input_transform, translation.modalities) == ("hidden:flair+t2w", ("t1w", "t2w"))
    assert translation.naive_baseline == (
        "least squares: T2W linear in T1W and their logarithms, fitted on the training cases"
    )


def test_a_class_is_stated_by_cases_or_derives_from_a_label_map():
    stated = resolve("classification:class=disease", BRAIN)
    derived = resolve("classification:class=malignant", BRAIN)
    assert (stated.labels, derived.labels) == ((), (BRAIN.labels[1],))
    assert stated.case_class == BRAIN.classes[0]


@pytest.mark.parametrize(
    ("task", "field", "message"),
    [
        ("astrology", "task.name", "unknown task 'astrology'; choose one of segmentation, super_resolution"),
        ("classification", "task.parameters.class_name", "brain has no default; choose from disease"),
        ("translation:to=t2w", "task.parameters.inputs", "no default; choose from t1w, flair, t2w"),
        ("distortion", "task.parameters.modalities", "distortion needs modality"),
        ("segmentation:label=liver", "task.parameters.labels", "liver is not a label map of brain; choose from"),
        ("segmentation:structure=core", "task.parameters.structures", "core is not a structure of hippocampus"),
        ("segmentation:label=mask+mask", "task.parameters.labels", "mask is named twice"),
        ("classification:class=age", "task.parameters.class_name", "age is not a class of brain; choose from disease"),
        (
            "super_resolution:modality=adc", "task.parameters.modalities",
            "adc is not a modality of brain; choose from t1w",
        ),
        ("translation:from=t1w+t2w,to=t2w", "task.parameters.target", "t2w is both the target and an input"),
        ("classification:class=disease,label=mask", "task.parameters.labels", "classification does not use label"),
        ("distortion:modality=t1w,to=t2w", "task.parameters.target", "leave it empty; distortion uses modality"),
    ],
)  # fmt: skip
def test_a_parameter_that_does_not_fit_is_refused_by_name(task, field, message):
    with pytest.raises(BadOption, match=re.escape(message)) as caught:
        resolve(task, BRAIN)
    assert caught.value.field == field


def test_structures_of_one_name_and_one_called_mean_are_refused():
    twice = DatasetDeclaration(
        name="x",
        modalities=("ct",),
        labels=(LabelMap(name="a", values={1: "bone"}), LabelMap(name="b", values={1: "bone"})),
    )
    with pytest.raises(BadOption, match="structures of one name"):
        resolve("segmentation:label=a+b", twice)
    mean = DatasetDeclaration(
        name="x", modalities=("ct",), labels=(LabelMap(name="a", values={1: "mean", 2: "median"}),)
    )
    with pytest.raises(BadOption, match="the name mean of a structure is reserved"):
        resolve("segmentation:label=a", mean)


def test_the_only_label_map_is_segmented_where_none_is_named():
    only = DatasetDeclaration(name="x", modalities=("ct",), labels=(LabelMap(name="liver", values={1: "liver"}),))
    assert resolve("segmentation", only) == resolve("segmentation:label=liver", only)


def test_a_dataset_that_declares_nothing_of_a_kind_is_named():
    bare = DatasetDeclaration(name="bare", modalities=("ct",))
    with pytest.raises(BadOption, match=r"needs label.*choose another dataset: it declares no label map"):
        resolve("segmentation", bare)


BOTH_SIDES = {"train": (False, True), "val": (True, False), "test": (True,)}


def make_dataset(sides=BOTH_SIDES, **case):
    """A dataset whose cases have the disease or not."""
    volumes = {kind: StoredObject(key=f"k/{kind}", sha256="a" * 64) for kind in ("t1w", "flair", "t2w", "hippocampus")}
    cases = {
        split: tuple(
            Case(**{"id": f"{split}-{place}", "group": split, "volumes": volumes, "classes": {"disease": side}} | case)
            for place, side in enumerate(values)
        )
        for split, values in sides.items()
    }
    return DatasetManifest(id="brains", declaration=BRAIN, **cases)


def test_a_case_without_what_the_task_needs_is_named():
    for task in ("segmentation", "classification:class=disease", "super_resolution:modality=t1w"):
        resolve(task, BRAIN).check_cases(make_dataset())
    with pytest.raises(
        BadDataset, match="brains: segmentation needs mask, which is missing in 5 of 5 cases, such as train-0 of"
    ) as error:
        resolve("segmentation:label=mask", BRAIN).check_cases(make_dataset())
    for part in ("`--only-with mask`", "another `--id`", "private/mapping.csv"):
        assert part in error.value.remedy
    with pytest.raises(
        BadDataset, match=r"classification needs disease.*with disease of every case and another `--id`"
    ):
        resolve("classification:class=disease", BRAIN).check_cases(make_dataset(classes={}))


@pytest.mark.parametrize(("split", "values"), [("train", (False,) * 3), ("val", (True,) * 2)])
def test_a_stated_class_needs_train_and_val_cases_on_both_sides(split, values):
    one_sided = make_dataset(BOTH_SIDES | {split: values})
    count = f"{sum(values)} of {len(values)} cases of `{split}`"
    with pytest.raises(BadDataset, match=f"disease holds for {count}, which needs cases on both sides"):
        resolve("classification:class=disease", BRAIN).check_cases(one_sided)
    resolve("segmentation", BRAIN).check_cases(one_sided)


def test_ct_is_not_distorted():
    ct = DatasetDeclaration(name="abdomen", modalities=("ct", "mr"), units={"ct": "HU"})
    assert resolve("distortion:modality=mr", ct).input_transform == "distorted:mr"
    with pytest.raises(BadOption, match="ct is in HU: CT and PET have no susceptibility distortion"):
        resolve("distortion:modality=mr+ct", ct)
