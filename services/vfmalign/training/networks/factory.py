"""Builds the network of a validated job, with its initial weights."""

from __future__ import annotations

import torch

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.models.cards import load_card_encoder
from vfmalign.models.encoder import Encoder
from vfmalign.models.weights import build_encoder, random_state
from vfmalign.training.data import derive_seed
from vfmalign.training.learner import FineTuning, Learner
from vfmalign.training.networks.heads import (
    CaseClassifier,
    EncoderDecoder,
    SpecialisedClassifier,
    SpecialisedUNet,
    check_shape,
    freeze_encoder,
)
from vfmalign.training.plan import JobPlan
from vfmalign.training.pretraining import build_objective
from vfmalign.training.tasks import get_task
from vfmalign.training.tasks.task import TrainableTask


def build_learner(store: ObjectStore, plan: JobPlan, device: torch.device) -> Learner:
    """Builds the network of a job with its initial weights, and wraps it in its task or objective."""
    spec = plan.spec
    torch.manual_seed(derive_seed(spec.seed, "head"))
    if plan.task is not None:
        encoder = None if spec.network == "specialised" else _starting_encoder(store, plan, device)
        return _fine_tuning(plan, encoder, device)
    encoder = _starting_encoder(store, plan, device)
    _check_shapes(plan, encoder.input_multiple())
    return build_objective(spec.objective, encoder, spec.recipe, device, spec.seed)


def _fine_tuning(plan: JobPlan, encoder: Encoder | None, device: torch.device) -> FineTuning:
    if plan.task is None:
        raise TypeError("a fine-tuning has a task")
    task = get_task(plan.task)
    if task.outputs and plan.spec.recipe.patch_shape_dhw not in (None, plan.preprocessing.network_shape_dhw):
        raise BadOption(
            f"{plan.task.name} needs whole volumes instead of patches",
            field="recipe.patch_shape_dhw",
            remedy="leave it out",
        )
    network = build_network(task, encoder, plan.preprocessing)
    if isinstance(network, SpecialisedUNet | SpecialisedClassifier):
        _check_shapes(plan, network.stride_DHW)
    else:
        _check_shapes(plan, network.encoder.input_multiple())
        if plan.spec.frozen:
            freeze_encoder(network)
    return FineTuning(task, network.to(device), encoder, device, plan.preprocessing.patch_shape_dhw)


def build_network(
    task: TrainableTask, encoder: Encoder | None, preprocessing: Preprocessing
) -> CaseClassifier | EncoderDecoder | SpecialisedClassifier | SpecialisedUNet:
    """Builds the task's head on the encoder. If there is no encoder, builds the task's specialised network."""
    modalities, shape_DHW = preprocessing.modalities, preprocessing.network_shape_dhw
    if task.outputs:
        if encoder is None:
            return SpecialisedClassifier(len(modalities), shape_DHW, task.outputs)
        return CaseClassifier(encoder, task.outputs)
    restored = [channel for channel, modality in enumerate(modalities) if modality in task.restores]
    out_channels, residual = task.classes or len(restored), restored if task.residual else ()
    if encoder is None:
        return SpecialisedUNet(
            len(modalities), out_channels, shape_DHW, residual=residual, background_first=task.classes > 0
        )
    return EncoderDecoder(encoder, out_channels, residual=residual, background_first=task.classes > 0)


def _check_shapes(plan: JobPlan, stride_DHW: tuple[int, int, int]) -> None:
    check_shape(plan.preprocessing.network_shape_dhw, stride_DHW, field="architecture")
    if plan.spec.recipe.patch_shape_dhw is not None:
        check_shape(plan.spec.recipe.patch_shape_dhw, stride_DHW, field="recipe.patch_shape_dhw")


def _starting_encoder(store: ObjectStore, plan: JobPlan, device: torch.device) -> Encoder:
    if plan.spec.initial_seed is not None:  # as features of random weights are drawn
        return build_encoder(plan.architecture, random_state(plan.architecture, plan.spec.initial_seed), device)
    drawn = random_state(plan.architecture, derive_seed(plan.spec.seed, "encoder"))
    if plan.parent is None:
        return build_encoder(plan.architecture, drawn, device)
    encoder = load_card_encoder(store, plan.parent, device)
    if all(torch.equal(tensor.cpu(), drawn[name]) for name, tensor in encoder.state_dict().items()):
        raise BadOption(
            f"the weights of {plan.parent.id} are the random ones that seed {plan.spec.seed} draws",
            field="model_id",
            remedy="import the pretrained weights, or run the check of an untrained network with `--control "
            "random-weights`",
        )
    return encoder
