"""Both pretraining objectives: what they hide, what they compare, and that they learn."""

from dataclasses import replace

import pytest
import torch

from vfmalign.core.domain.errors import BadDataset, BadOption
from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.training.data import collate, draw_batch, generator
from vfmalign.training.optim import build_optimiser, learning_rate_at, set_learning_rate
from vfmalign.training.pretraining import OBJECTIVES, build_objective
from vfmalign.training.pretraining.masked import MASKED_SHARE, MaskedAutoencoder, hidden_units, masked_error

CPU = torch.device("cpu")
RECIPE = TrainingRecipe(epochs=1, steps_per_epoch=12, batch_size=6, learning_rate=3e-3)


SMALL = ("profound_conv_micro", "profound_vit_micro", "provicnet_fusion_micro")


def build(name, recipe=RECIPE, architecture="profound_conv_micro"):
    torch.manual_seed(0)
    return build_objective(name, ARCHITECTURES[architecture].build(), recipe, CPU, seed=7)


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_validation_loss_falls(name, architecture, cases):
    slow = (name, architecture) == ("contrastive", "provicnet_fusion_micro")
    recipe = RECIPE.model_copy(update={"learning_rate": 1e-3, "steps_per_epoch": 30} if slow else {})
    learner = build(name, architecture=architecture)
    optimiser = build_optimiser(learner.network, recipe)
    before = learner.validate(cases, lambda: None)
    for step in range(recipe.steps_per_epoch):
        set_learning_rate(optimiser, learning_rate_at(step, recipe))
        optimiser.zero_grad()
        batch = draw_batch(cases, step=step, batch_size=recipe.batch_size, patch_shape_dhw=None, seed=1, device=CPU)
        learner.loss(batch, generator(1, "loss", step), learner.network).backward()
        optimiser.step()
    assert learner.validate(cases, lambda: None) < 0.9 * before


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_validation_and_loss_repeat_with_their_seed(name, architecture, cases):
    learner = build(name, architecture=architecture)
    assert learner.validate(cases, lambda: None) == learner.validate(cases, lambda: None)
    batch = collate(cases[:4], CPU)
    first, again, other = (learner.loss(batch, generator(seed, "loss"), learner.network).item() for seed in (1, 1, 2))
    assert first == again != other


def test_masks_hide_whole_units_of_the_stated_share():
    mask = hidden_units((3, 2, 16, 32, 32), generator(0, "m"))
    assert mask.shape == (3, 1, 16, 32, 32)
    units = mask.reshape(3, 4, 4, 8, 4, 8, 4).permute(0, 1, 3, 5, 2, 4, 6).flatten(4)
    assert torch.equal(units.all(-1), units.any(-1))
    assert (units.all(-1).flatten(1).sum(1) == int(MASKED_SHARE * 256)).all()
    assert not torch.equal(mask[0], mask[1])


def test_the_error_counts_hidden_voxels_that_are_not_padding():
    clean = torch.ones(1, 2, 1, 1, 4)
    clean[..., 3] = 0  # padding
    hidden = torch.tensor([True, False, False, True]).reshape(1, 1, 1, 1, 4)
    output = torch.tensor([3.0, 9.0, 9.0, 9.0]).expand(1, 2, 1, 1, 4)
    assert float(masked_error(output, clean, hidden)) == 4.0


@pytest.mark.parametrize("architecture", SMALL)
def test_what_is_hidden_is_seen_by_no_part_of_the_network(architecture, cases):
    learner = build("masked_reconstruction", architecture=architecture)
    batch = collate(cases[:2], CPU)
    clean = batch.clean_NCDHW
    hidden = learner.hidden(clean.shape, generator(0, "m"))

    def restore(volumes):
        return learner.restore(replace(batch, clean_NCDHW=volumes), hidden, learner.network)

    restored = restore(clean)
    assert restored.shape == clean.shape
    assert torch.equal(restored, restore(torch.where(hidden, clean + 5, clean)))
    assert not torch.equal(restored, restore(torch.where(hidden, clean, clean + 5)))


def test_a_masked_autoencoder_encodes_a_quarter_of_the_patches(cases):
    learner = build("masked_reconstruction", architecture="profound_vit_micro")
    seen = []
    learner.encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    learner.validate(cases[:2], lambda: None)
    assert seen == [(2, 1 + 16, 96)]  # of 4 × 4 × 4 patches
    hidden = learner.hidden((1, 3, 16, 32, 32), generator(0, "m"))
    patches = hidden.reshape(4, 4, 4, 8, 4, 8).permute(0, 2, 4, 1, 3, 5).flatten(3)
    assert torch.equal(patches.all(-1), patches.any(-1))
    assert patches.all(-1).sum() == 48


def test_the_published_decoder_is_half_as_wide_as_the_encoder():
    with torch.device("meta"):
        network = MaskedAutoencoder(ARCHITECTURES["profound_vit_base"].build())
    assert network.decoder.decoder_embed.out_features == 384
    assert len(network.decoder.decoder_blocks) == 8
    assert network.decoder.decoder_blocks[0].attn.num_heads == 16


def test_pictures_show_what_was_hidden_and_restored(cases):
    learner = build("masked_reconstruction", architecture="profound_vit_micro")
    assert [panel.title for panel in learner.panels(cases[0])] == ["masked input", "reference", "prediction"]


def test_contrast_needs_several_cases(cases):
    with pytest.raises(BadOption, match=r"recipe\.batch_size"):
        build("contrastive", RECIPE.model_copy(update={"batch_size": 1}))
    with pytest.raises(BadDataset, match="two different cases"):
        build("contrastive").validate([cases[0], cases[0]], lambda: None)


def test_fine_tuning_is_no_pretraining():
    with pytest.raises(BadOption, match="masked_reconstruction, contrastive"):
        build("supervised")
