"""Jobs on a brain dataset of one modality: a structure, a stated class and a restored modality, with their scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.dataset_imports import import_dataset

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.declarations import CaseClass, DatasetDeclaration, LabelMap
from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.keys import volume_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.imaging.datasets.discovery import ImportOptions
from vfmalign.imaging.volumes import Volume, encode
from vfmalign.models.architectures.dilated_stack import ConvolutionLayer, StackDescription
from vfmalign.models.cards import publish
from vfmalign.models.formats.stack_checkpoint import encode_stack_name
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import random_state

BRAIN = DatasetDeclaration(
    name="brain",
    modalities=("t1w",),
    labels=(LabelMap(name="hippocampus", values={1: "anterior", 2: "posterior"}),),
    classes=(CaseClass(name="disease"),),
)
SPLITS = {"train": 4, "val": 2, "test": 3}
RECIPE = TrainingRecipe(epochs=2, steps_per_epoch=3, batch_size=2, learning_rate=3e-3)


@pytest.fixture(scope="module", autouse=True)
def _torch_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def make_stack(shape_DHW):
    """Architecture of a small one-channel encoder."""
    layers = tuple(ConvolutionLayer(channels=4, dilation=dilation) for dilation in (1, 2, 1))
    preprocessing = Preprocessing(modalities=("t1w",), spacing_mm=(1.0, 1.0, 1.0), shape_dhw=shape_DHW)
    return encode_stack_name(StackDescription(layers=layers, input=preprocessing))


def make_case(number):
    """Noise with two structures, of which the anterior one is brighter, more so in a diseased brain."""
    random = np.random.default_rng(number)
    label = np.zeros((14, 18, 16), np.float32)
    label[4:10, 8:13, 4:11], label[4:10, 4:8, 4:11] = 1, 2
    image = 100 + 5 * random.standard_normal(label.shape) + (40 + 40 * (number % 2)) * (label == 1) + 20 * (label == 2)
    return {"t1w": image.astype(np.float32), "hippocampus": label}


@pytest.fixture(scope="module")
def brains(store):
    number, splits = 0, {}
    for split, count in SPLITS.items():
        splits[split] = []
        for _ in range(count):
            name = f"b-{number}"
            volumes = {
                kind: store.put(volume_key("brains", name, kind), encode(Volume(array, np.eye(4))))
                for kind, array in make_case(number).items()
            }
            case = Case(id=name, group=name, volumes=volumes, classes={"disease": bool(number % 2)})
            splits[split].append(case)
            number += 1
    dataset = DatasetManifest(id="brains", declaration=BRAIN, **splits)
    save_dataset(store, dataset)
    return dataset


@pytest.fixture(scope="module")
def stack(store):
    architecture = make_stack((16, 16, 16))
    state = random_state(get_architecture(architecture), 5)
    return publish(store, "stack", state, architecture=architecture, objective="masked_reconstruction")


@pytest.fixture(scope="module")
def run(make_spec, finish):
    """Runs a job on a dataset."""

    def run(job, task, dataset, card, network="pretrained", recipe=RECIPE):
        spec = make_spec(
            job,
            task=task,
            dataset_id=dataset.id,
            dataset_digest=dataset.digest(),
            architecture=card.architecture,
            model_id=card.id,
            model_sha256=card.checkpoint.sha256,
            network=network,
            recipe=recipe,
            publish_as="" if network == "specialised" else f"{job}-encoder",
        )
        return finish(spec)

    return run


@pytest.mark.parametrize("network", ["pretrained", "specialised"])
@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("segmentation:label=hippocampus,structure=anterior", ["anterior_dice", "anterior_hd95"]),
        (
            "segmentation:label=hippocampus",
            ["mean_dice", "anterior_dice", "posterior_dice", "anterior_hd95", "posterior_hd95"],
        ),
        ("classification:class=disease", ["auroc", "balanced_accuracy"]),
        ("super_resolution:modality=t1w", ["psnr", "ssim"]),
    ],
)
def test_a_task_with_parameters_trains_and_scores(run, store, brains, stack, task, metrics, network):
    name = f"{network}-{task.split(':')[0]}-{len(metrics)}".replace("_", "-")
    result = run(name, task, brains, stack, network)
    assert [metric.name for metric in result.metrics] == metrics
    assert len(result.test_scores) == len(result.naive_baseline_scores) == 3
    assert all(sorted(score.values) == sorted(metrics) for score in result.test_scores)
    assert result.figures
    if network == "pretrained":
        assert result.weight_change > 0
        assert load_card(store, result.encoder).preprocessing.modalities == ("t1w",)
    if task.startswith("classification"):
        assert [score.positive for score in result.test_scores] == [False, True, False]
        assert len(result.train_labels) == 4


def test_a_task_about_something_undeclared_fails_by_name(run, brains, stack):
    with pytest.raises(BadOption, match="tumour is not a label map of brain; choose from hippocampus"):
        run("undeclared", "segmentation:label=tumour", brains, stack)


def test_a_label_map_with_an_undeclared_value_is_refused(run, store, brains, stack):
    label = make_case(0)["hippocampus"]
    label[0, 0, 0] = 7
    ref = store.put(volume_key("odd", "b-0", "hippocampus"), encode(Volume(label, np.eye(4))))
    odd = brains.train[0].model_copy(update={"volumes": brains.train[0].volumes | {"hippocampus": ref}})
    dataset = brains.model_copy(update={"id": "odd", "train": (odd, *brains.train[1:])})
    save_dataset(store, dataset)
    with pytest.raises(BadDataset, match="case b-0: the label map hippocampus holds 7"):
        run("odd", "segmentation:label=hippocampus", dataset, stack)


def test_real_hippocampi_are_segmented(run, store, shared_folder, tmp_path):
    source = shared_folder / "data" / "hippocampus"
    if not source.is_dir():
        pytest.skip("the hippocampus cases are not beside this repository")
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for file in sorted((source / kind).iterdir())[:8]:
            (tmp_path / "set" / kind / file.name).write_bytes(file.read_bytes())
    options = ImportOptions(declaration=BRAIN.model_copy(update={"classes": ()}))
    dataset = import_dataset(
        tmp_path / "set", store, "hippocampi", options, mapping_path=tmp_path / "mapping.csv", salt=bytes(32)
    )
    architecture = make_stack((40, 56, 40))
    card = publish(
        store,
        "stack-40",
        random_state(get_architecture(architecture), 5),
        architecture=architecture,
        objective="random",
    )
    recipe = RECIPE.model_copy(
        update={"epochs": 3, "steps_per_epoch": 10, "learning_rate": 1e-2, "patch_shape_dhw": (16, 24, 24)}
    )
    result = run("real", "segmentation:label=hippocampus,structure=anterior", dataset, card, "specialised", recipe)
    assert result.primary_metric == "anterior_dice"
    assert len(result.test_scores) == len(dataset.test)
    assert all(score.values["anterior_dice"] is not None for score in result.test_scores)
    # Thirty steps only begin to learn it.
    assert max(point.validation_score for point in result.curve) > result.curve[0].validation_score + 0.05
