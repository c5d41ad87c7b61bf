"""A map feeds a dataset's modality to a model whose input has another name; without one, the error suggests it."""

import numpy as np
import pytest
import torch

from vfmalign.client.messages.features import ExtractDatasetRequest
from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.declarations import DatasetDeclaration
from vfmalign.core.domain.errors import BadOption, BadVolume
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.feature_sets import read_feature_set
from vfmalign.core.storage.keys import volume_key
from vfmalign.features.extraction.dataset_extraction import extract_dataset
from vfmalign.features.extraction.parts import ExtractionOptions, Hooks
from vfmalign.features.extraction.study import Source, prepare_sources
from vfmalign.imaging.volumes import encode
from vfmalign.models.architectures.dilated_stack import StackDescription
from vfmalign.models.cards import publish
from vfmalign.models.encoder import pool
from vfmalign.models.formats.stack_checkpoint import decode_stack_name, encode_stack_name
from vfmalign.models.weights import build_encoder, random_state

OPTIONS = ExtractionOptions(batch_size=2, part_cases=2, readers=1)
INPUT = Preprocessing(
    modalities=("input",), spacing_mm=(3.0, 2.0, 2.0), shape_dhw=(8, 16, 16), normalisation="quantile_range"
)
STACK = encode_stack_name(
    StackDescription.model_validate(
        {"layers": [{"channels": 4, "activation": "silu"}, {"channels": 6}], "input": INPUT}
    )
)


@pytest.fixture(scope="module")
def brain(store, small_volume):
    """Two cases with two modalities."""
    cases = []
    for number in range(2):
        case = f"brain-{number}"
        volumes = {
            kind: store.put(volume_key("brain", case, kind), encode(small_volume(100 + 10 * number + i)))
            for i, kind in enumerate(("t1w", "flair"))
        }
        cases.append(Case(id=case, group=f"patient-{number}", volumes=volumes))
    declaration = DatasetDeclaration(name="brain", modalities=("t1w", "flair"))
    dataset = DatasetManifest(id="brain", declaration=declaration, test=tuple(cases))
    save_dataset(store, dataset)
    return dataset


@pytest.fixture(scope="module")
def stack(store):
    state = random_state(decode_stack_name(STACK), 0)
    return publish(store, "stack", state, architecture=STACK, objective="supervised")


def run(store, models, **fields):
    request = ExtractDatasetRequest.from_fields(model_id="stack", dataset_id="brain", split="test", **fields)
    hooks = Hooks(lambda function: function(), Stages(), lambda *point: None, lambda: False)
    return extract_dataset(store, models, request, OPTIONS, hooks)


def test_each_modality_can_feed_the_one_input(store, models, brain, stack, small_volume):
    sets = {name: run(store, models, modality_map={name: "input"}) for name in ("t1w", "flair")}
    assert sets["t1w"].feature_set_id != sets["flair"].feature_set_id
    encoder = build_encoder(decode_stack_name(STACK), random_state(decode_stack_name(STACK), 0))
    for place, (name, result) in enumerate(sets.items()):
        loaded = read_feature_set(store, result.feature_set_id)
        assert loaded.manifest.request.preprocessing.modalities == (name,)
        assert loaded.manifest.request.preprocessing.reference == name
        study = prepare_sources(
            store,
            [Source("input", "f", encode(small_volume(100 + place)))],
            INPUT,
            "identity",
            Stages(),
        )
        with torch.inference_mode():
            expected = pool(encoder.feature_maps(study.input_CDHW[None])["layers.1"])[0].numpy()
        np.testing.assert_allclose(loaded.layers["layers.1"][0], expected, rtol=1e-4, atol=1e-6)


def test_the_map_is_part_of_the_id_only_where_it_changes_the_input(store, models, brain, stack):
    state = random_state(decode_stack_name(STACK), 0)
    own = INPUT.model_copy(update={"modalities": ("t1w",), "reference": "t1w"})
    publish(store, "stack-t1w", state, architecture=STACK, objective="supervised", preprocessing=own)
    hooks = Hooks(lambda function: function(), Stages(), lambda *point: None, lambda: False)
    fields = {"model_id": "stack-t1w", "dataset_id": "brain", "split": "test"}
    plain, mapped = (
        extract_dataset(store, models, ExtractDatasetRequest.from_fields(**fields, **m), OPTIONS, hooks)
        for m in ({}, {"modality_map": {"t1w": "t1w"}})
    )
    assert plain.feature_set_id == mapped.feature_set_id


@pytest.mark.parametrize(
    ("modality_map", "says", "remedy"),
    [
        ({}, "stack takes input, which the dataset (brain) does not have", "--map t1w=input"),
        ({"t2w": "input"}, "the dataset (brain) has no modality t2w", "t1w, flair"),
        ({"t1w": "image"}, "stack has no input image", "choose one of input"),
    ],
)
def test_wrong_maps_are_refused_before_anything_is_stored(store, models, brain, stack, modality_map, says, remedy):
    before = set(store.list("features/"))
    with pytest.raises(BadOption) as caught:
        run(store, models, modality_map=modality_map)
    assert says in caught.value.message
    assert remedy in caught.value.remedy
    assert set(store.list("features/")) == before


def test_a_study_of_other_modalities_is_told_what_the_model_takes(store, small_volume):
    source = Source("t1w", "study.volumes[0]", encode(small_volume(1)))
    with pytest.raises(BadVolume, match="no input volume; the model takes input") as caught:
        prepare_sources(store, [source], INPUT, "identity", Stages())
    assert caught.value.remedy == "send input, or name t1w as the model does"


def test_modalities_that_the_model_does_not_take_are_not_read(store, small_volume):
    sources = [Source("input", "a", encode(small_volume(1))), Source("t1w", "b", b"not a volume")]
    assert prepare_sources(store, sources, INPUT, "identity", Stages()).input_CDHW.shape == (1, 8, 16, 16)
