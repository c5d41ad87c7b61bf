"""A job fine-tunes a one-channel stack on a mapped modality, and publishes it with its own input's name."""

import math

import pytest

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.architectures.dilated_stack import StackDescription
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.formats.stack_checkpoint import decode_stack_name, encode_stack_name
from vfmalign.models.weights import random_state
from vfmalign.training.plan import make_plan

INPUT = Preprocessing(
    modalities=("input",), spacing_mm=(3.0, 2.0, 2.0), shape_dhw=(16, 32, 32), normalisation="quantile_range"
)
LAYERS = [
    {"channels": 6, "dilation": 2, "activation": "silu"},
    {"channels": 6, "stride": 2, "activation": "silu"},
    {"channels": 6, "kernel": 2, "stride": 2, "transposed": True},
    {"channels": 6, "activation": "silu"},
]
STACK = encode_stack_name(StackDescription.model_validate({"layers": LAYERS, "input": INPUT}))


@pytest.fixture(scope="module")
def stack(store):
    return publish(
        store, "stack", random_state(decode_stack_name(STACK), 5), architecture=STACK, objective="supervised"
    )


@pytest.fixture
def stack_spec(make_spec, stack):
    fields = {"architecture": STACK, "model_id": stack.id, "model_sha256": stack.checkpoint.sha256}
    return lambda job, **changes: make_spec(job, **(fields | {"modality_map": {"t2w": "input"}} | changes))


@pytest.mark.parametrize("network", ["pretrained", "scratch"])
@pytest.mark.parametrize(
    "task", ["segmentation", "super_resolution:modality=t2w", "classification"], ids=lambda task: task.partition(":")[0]
)
def test_every_kind_of_head_trains(store, stack_spec, finish, task, network):
    job = f"stack-{task.partition(':')[0].replace('_', '-')}-{network}"
    result = finish(stack_spec(job, task=task, network=network))
    assert len(result.curve) == 3
    assert all(point.train_loss is None or math.isfinite(point.train_loss) for point in result.curve)
    _, card = load_encoder(store, result.encoder)
    assert card.architecture == STACK
    assert card.preprocessing == INPUT, "the card keeps the model's own names"
    assert [layer.name for layer in card.layers] == [f"layers.{i}" for i in range(4)]


def test_pretraining_takes_a_map(store, make_spec, finish):
    spec = make_spec(
        "stack-pretraining", kind="pretrain", architecture=STACK, model_id="", model_sha256="", task="",
        network="scratch", objective="masked_reconstruction", modality_map={"adc": "input"},
    )  # fmt: skip
    finish(spec)
    _, card = load_encoder(store, "stack-pretraining-encoder")
    assert card.preprocessing.modalities == ("input",)


@pytest.mark.parametrize(
    ("modality_map", "says"),
    [({}, "stack takes input, which the dataset"), ({"t2w": "image"}, "stack has no input image")],
)
def test_a_job_with_a_wrong_map_is_refused(store, stack_spec, modality_map, says):
    with pytest.raises(BadOption, match=says):
        make_plan(store, stack_spec("stack-refused", modality_map=modality_map))
