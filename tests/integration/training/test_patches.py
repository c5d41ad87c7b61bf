"""A model that reads patches: random ones in training, weighted means of all for predictions and scores."""

import pytest
from tests.integration.training.conftest import BATCH_NORM, INPUT, RECIPE

from vfmalign.core.domain.errors import BadOption
from vfmalign.models.cards import publish
from vfmalign.models.formats.monai_bundle import decode_architecture_name
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import random_state

PATCH = (16, 16, 16)
PATCHES = RECIPE.model_copy(update={"epochs": 1, "patch_shape_dhw": PATCH})


@pytest.fixture(scope="module")
def patched(store):
    """A network of batch normalisation that reads a quarter of its input at once."""
    definition = decode_architecture_name(BATCH_NORM)
    preprocessing = INPUT.model_copy(update={"patch_shape_dhw": PATCH})
    name = BATCH_NORM.replace(INPUT.to_json().decode(), preprocessing.to_json().decode())
    assert get_architecture(name).preprocessing == preprocessing != definition.preprocessing
    state = random_state(get_architecture(name), 5)
    return publish(store, "patched", state, architecture=name, objective="supervised", preprocessing=preprocessing)


@pytest.fixture
def fields(patched):
    return {
        "architecture": patched.architecture,
        "model_id": patched.id,
        "model_sha256": patched.checkpoint.sha256,
        "recipe": PATCHES,
    }


@pytest.mark.parametrize(
    ("task", "network"),
    [("segmentation", "pretrained"), ("classification", "scratch"), ("segmentation", "specialised")],
)
def test_every_network_trains_and_predicts(make_spec, finish, fields, task, network):
    changes = {"publish_as": ""} if network == "specialised" else {}
    result = finish(make_spec(f"patches-{task}-{network}", task=task, network=network, **changes, **fields))
    assert result.curve[1].validation_score is not None
    assert len(result.test_scores) == 3


def test_a_recipe_with_other_patches_is_rejected(make_spec, finish, fields):
    with pytest.raises(BadOption, match=r"the model reads patches of \(16, 16, 16\) voxels, not of None"):
        finish(make_spec("other", task="segmentation", **fields | {"recipe": RECIPE}))
