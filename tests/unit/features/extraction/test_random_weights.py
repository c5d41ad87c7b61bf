"""Feature sets of random weights: what determines the weights and their running statistics."""

import numpy as np
import pytest
import torch
from tests.unit.features.extraction.test_dataset_extraction import OPTIONS, Surroundings, expected_rows, request_

from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.features.extraction.dataset_extraction import extract_dataset
from vfmalign.features.extraction.extractor import extract, extract_patches, list_patches
from vfmalign.imaging.preprocessing import prepare_study
from vfmalign.imaging.volumes import load_case
from vfmalign.models.cards import publish
from vfmalign.models.formats.monai_bundle import encode_architecture_name
from vfmalign.models.registry import ARCHITECTURES, get_architecture
from vfmalign.models.weights import build_encoder, random_state

__all__ = ["request_"]


def test_random_weights_depend_on_the_seed_and_not_on_the_checkpoint(store, models, card, dataset, request_):
    results = [
        extract_dataset(
            store,
            models,
            request_.model_copy(update={"initialisation": "random", "initialisation_seed": seed}),
            OPTIONS,
            Surroundings().hooks,
        )
        for seed in (0, 1)
    ]
    sets = [read_feature_set(store, result.feature_set_id) for result in results]
    architecture = ARCHITECTURES[card.architecture]
    for seed, stored in enumerate(sets):
        encoder = build_encoder(architecture, random_state(architecture, seed))
        expected = expected_rows(store, dataset, card, "stages.3", encoder)
        assert np.array_equal(stored.layers["stages.3"], expected)
    assert not np.array_equal(sets[0].layers["stages.3"], sets[1].layers["stages.3"])
    assert len({result.feature_set_id for result in results}) == 2
    assert len({result.checkpoint_sha256 for result in results} | {card.checkpoint.sha256}) == 3


@pytest.mark.parametrize("patch_DHW", [None, (16, 16, 16)])
def test_random_weights_take_their_statistics_from_train(store, models, card, dataset, patch_DHW):
    preprocessing = card.preprocessing.model_copy(update={"patch_shape_dhw": patch_DHW})
    options = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8], "n_input_channels": 3}
    name = encode_architecture_name("ResNet", options, ["layer1", "layer2"], preprocessing)
    architecture = get_architecture(name)
    model = f"resnet-{patch_DHW is None}".lower()
    state = random_state(architecture, 3)
    publish(store, model, state, architecture=name, objective="supervised", preprocessing=preprocessing)
    dataset = dataset.model_copy(update={"id": f"{dataset.id}-{model}", "train": dataset.test, "test": ()})
    save_dataset(store, dataset)
    request = ExtractDatasetRequest(model_id=model, dataset_id=dataset.id, split="train", initialisation="random")
    result = extract_dataset(store, models, request, OPTIONS, Surroundings().hooks)
    assert result.committed.manifest.request.running_statistics == "train"
    stored = read_feature_set(store, result.feature_set_id)
    encoder = build_encoder(architecture, random_state(architecture, 0))
    studies = [prepare_study(load_case(store, case, ("t2w", "dwi", "adc")), preprocessing) for case in dataset.train]
    inputs = [study.input_CDHW for study in studies]
    if patch_DHW is not None:
        cuts = [list_patches(study, patch_DHW) for study in studies]
        inputs = [cut[number % len(cut)][0] for number, cut in enumerate(cuts)]
    assert len(inputs) <= 8, "one batch"
    torch.optim.swa_utils.update_bn([torch.stack(inputs)], encoder)
    encoder.eval()
    for study, row in zip(studies, stored.layers["layer2"], strict=True):
        if patch_DHW is None:
            expected = extract(encoder, study.input_CDHW[None], ["layer2"], "mean")
        else:
            expected = extract_patches(encoder, study, ["layer2"], patch_DHW)
        np.testing.assert_allclose(row, expected["layer2"][0].numpy(), rtol=1e-4, atol=1e-5)


def test_a_seed_is_ignored_with_the_checkpoint(store, models, request_):
    seeded = request_.model_copy(update={"initialisation_seed": 9})
    first, second = (extract_dataset(store, models, r, OPTIONS, Surroundings().hooks) for r in (request_, seeded))
    assert first.feature_set_id == second.feature_set_id
