"""Trainings with a frozen encoder: only the head changes, also after an interruption and in two processes."""

import pytest
import torch
from safetensors.torch import load as parse_safetensors
from tests.integration.training.conftest import ARCHITECTURE, BATCH_NORM, INPUT, RECIPE, comparable

from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.errors import BadOption, Cancelled
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES, get_architecture
from vfmalign.models.weights import build_encoder, random_state
from vfmalign.training.data import derive_seed, load_cases
from vfmalign.training.networks.heads import freeze_encoder

OF_BATCH_NORM = {"architecture": BATCH_NORM, "model_id": "", "model_sha256": ""}


class LateStop:
    """Asks the job to stop once it has been asked `checks` times."""

    def __init__(self, checks):
        self.checks = checks

    def check(self):
        self.checks -= 1
        if self.checks < 0:
            raise Cancelled("stopped by the test")


@pytest.fixture(scope="module")
def batch_norm_model(store):
    """A model with running statistics other than the initial ones."""
    state = random_state(get_architecture(BATCH_NORM), 5)
    draw = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var")):
            # Larger means would leave nothing for the rectifiers to let through.
            tensor.copy_(torch.rand(tensor.shape, generator=draw) * (0.1 if name.endswith("mean") else 1.0) + 0.01)
    return publish(store, "batch-norm", state, architecture=BATCH_NORM, objective="supervised", preprocessing=INPUT)


def read_weights(store, name):
    card = load_card(store, name)
    return parse_safetensors(store.get(card.checkpoint.key, sha256=card.checkpoint.sha256))


def read_state(store, job):
    key = store.get_json(job_key(job, "checkpoint/latest.json"))["state"]["key"]
    return parse_safetensors(store.get(key))


@pytest.mark.parametrize("task", ["segmentation", "classification", "distortion"])
def test_only_the_head_trains(store, make_spec, finish, model, task):
    result = finish(make_spec(f"frozen-{task}", task=task, frozen=True))
    assert result.encoder_sha256 == model.checkpoint.sha256
    assert result.weight_change == 0.0
    assert result.curve[2].train_loss != result.curve[1].train_loss, "the head does not train"
    state = read_state(store, f"frozen-{task}")
    before = read_weights(store, model.id)
    assert all(torch.equal(state[f"model.encoder.{name}"], tensor) for name, tensor in before.items())
    trained = {name.split(":")[0] for name in state if name.startswith("optimiser.")}
    assert trained
    assert not any(name.startswith("optimiser.encoder.") for name in trained)
    tuned = finish(make_spec(f"tuned-{task}", task=task))
    assert tuned.encoder_sha256 != model.checkpoint.sha256
    assert tuned.parameters == result.parameters


def test_running_statistics_never_move(store, make_spec, finish, batch_norm_model):
    fields = {"architecture": BATCH_NORM, "model_id": batch_norm_model.id, "task": "segmentation"}
    fields["model_sha256"] = batch_norm_model.checkpoint.sha256
    tuned = finish(make_spec("tuned-batch-norm", **fields))
    before, after = (read_weights(store, name) for name in (batch_norm_model.id, tuned.encoder))
    moved = {name.rpartition(".")[2] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {"weight", "bias"}
    result = finish(make_spec("frozen-batch-norm", frozen=True, **fields))
    assert result.encoder_sha256 == batch_norm_model.checkpoint.sha256
    assert result.curve[2].train_loss != result.curve[1].train_loss


def test_random_weights_can_be_frozen(store, make_spec, finish):
    finish(make_spec("frozen-random", network="scratch", frozen=True))
    drawn = random_state(ARCHITECTURES[ARCHITECTURE], derive_seed(1, "encoder"))
    after = read_weights(store, "frozen-random-encoder")
    assert all(torch.equal(after[name], tensor) for name, tensor in drawn.items())


def test_statistics_of_random_weights_are_estimated_from_the_training_cases(store, make_spec, finish, dataset):
    finish(make_spec("estimated", task="segmentation", network="scratch", frozen=True, **OF_BATCH_NORM))
    encoder = build_encoder(
        get_architecture(BATCH_NORM), random_state(get_architecture(BATCH_NORM), derive_seed(1, "encoder"))
    )
    task = get_task_spec(Task.parse("segmentation"), dataset.declaration)
    cases = load_cases(store, dataset.train, task=task, preprocessing=INPUT, workers=1, check=lambda: None)
    torch.optim.swa_utils.update_bn([torch.stack([case.input_CDHW for case in cases])], encoder)
    after = read_weights(store, "estimated-encoder")
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("frozen", {"frozen": True}), ("estimated", {"network": "scratch", **OF_BATCH_NORM})],
)
def test_a_resumed_training_equals_an_uninterrupted_one(store, make_spec, finish, name, changes):
    recipe = RECIPE.model_copy(update={"epochs": 3, "steps_per_epoch": 3})
    fields = {"task": "segmentation", "recipe": recipe, **changes}
    whole = finish(make_spec(f"{name}-whole", **fields))
    spec = make_spec(f"{name}-stopped", **fields)
    checks = 0
    while not store.exists(job_key(spec.job_id, "result.json")):
        checks += 16
        try:
            resumed = finish(spec, LateStop(checks))
        except Cancelled:
            continue
    assert checks > 16, "the training was never interrupted"
    assert comparable(resumed) == comparable(whole)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "specialised", "publish_as": ""}, "a specialised network has none"),
        (
            {"kind": "pretrain", "task": "", "model_id": "", "model_sha256": "", "objective": "contrastive"},
            "a pretraining trains the encoder",
        ),
    ],
)
def test_without_an_encoder_to_freeze_nothing_is_trained(store, make_spec, finish, changes, reason):
    spec = make_spec("refused", frozen=True, **changes)
    with pytest.raises(BadOption, match=f"there is no encoder to freeze: {reason}"):
        finish(spec)
    assert not store.exists(job_key("refused", "checkpoint/latest.json"))


def test_a_network_without_a_head_cannot_be_frozen():
    network = torch.nn.Module()
    network.encoder = torch.nn.Linear(2, 2)
    with pytest.raises(BadOption, match="no parameters outside its encoder"):
        freeze_encoder(network)
