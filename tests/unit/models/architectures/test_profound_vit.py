"""The 3D masked autoencoder against upstream's outputs and against the papers' formulas."""

import pytest
import torch

from vfmalign.models.architectures.profound_vit import (
    MaeDecoder,
    ProFoundViT,
    crop_position_embedding,
    position_embedding,
    to_volume,
)
from vfmalign.models.architectures.transformer import TransformerSize, select_dense_blocks
from vfmalign.models.registry import ARCHITECTURES

SHAPE, PATCH = (8, 8, 12), (4, 4, 4)


def tokens_of(map_NCDHW: torch.Tensor) -> torch.Tensor:
    return map_NCDHW.flatten(2).transpose(1, 2)


def load(state, encoder: ProFoundViT, decoder: MaeDecoder) -> None:
    """Strictly: every tensor of the file is the encoder's or the decoder's, and none of theirs is missing."""
    mine = encoder.state_dict().keys()
    encoder.load_state_dict({name: t for name, t in state.items() if name in mine})
    decoder.load_state_dict({name: t for name, t in state.items() if name not in mine})


@pytest.fixture
def own(golden_of):
    state, golden = golden_of("profound_vit_small.safetensors")
    encoder = ProFoundViT(SHAPE, PATCH, TransformerSize(12, 2, 3)).eval()
    decoder = MaeDecoder(encoder, TransformerSize(6, 1, 3)).eval()
    load(state, encoder, decoder)
    return encoder, decoder, golden


def test_reproduces_upstream(golden_of, close):
    state, golden = golden_of("profound_vit_small.safetensors", shared=True)
    encoder = ProFoundViT(
        (16, 32, 64), (8, 16, 16), TransformerSize(48, 2, 4), eps=1e-5
    ).eval()  # torch's eps, as that instance had
    load(state, encoder, MaeDecoder(encoder, TransformerSize(24, 1, 4)))
    with torch.inference_mode():
        maps = encoder.feature_maps(golden["input_NCDHW"])
        close(encoder.tokens(golden["input_NCDHW"]), golden["tokens_NLC"])
    close(maps["pooled"], golden["tokens_NLC"][:, 0])
    close(tokens_of(maps["patch_tokens"]), golden["tokens_NLC"][:, 1:])


def test_reproduces_the_papers_formulas(own, close):
    encoder, _, golden = own
    with torch.inference_mode():
        maps = encoder.feature_maps(golden["input_NCDHW"])
    for i in range(2):
        close(tokens_of(maps[f"blocks.{i}"]), golden[f"block{i}_NLC"][:, 1:])
    close(tokens_of(maps["patch_tokens"]), golden["tokens_NLC"][:, 1:])
    close(maps["class_token"][:, :, 0, 0, 0], golden["tokens_NLC"][:, 0])
    assert torch.equal(maps["pooled"], maps["class_token"][:, :, 0, 0, 0])


def test_the_decoder_reproduces_the_papers_formulas(own, close):
    encoder, decoder, golden = own
    with torch.inference_mode():
        tokens = encoder.tokens(golden["input_NCDHW"], golden["kept_NK"])
        close(decoder(tokens, golden["kept_NK"]), golden["predicted_NLP"])
    assert torch.equal(to_volume(golden["patches_NLP"], (2, 2, 3), PATCH), golden["input_NCDHW"])


def test_golden_weights_matter(own):
    """Every parameter changes an output: the golden tests can notice any of them going astray."""
    encoder, decoder, golden = own

    def outputs():
        with torch.inference_mode():
            tokens = encoder.tokens(golden["input_NCDHW"], golden["kept_NK"])
            return torch.cat(
                (encoder.tokens(golden["input_NCDHW"]).flatten(), decoder(tokens, golden["kept_NK"]).flatten())
            )

    before = outputs()
    for module in (encoder, decoder):
        for name, parameter in module.named_parameters():
            kept = parameter.data.clone()
            parameter.data += 0.1 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
            assert (outputs() - before).abs().max() > 1e-3, name
            parameter.data = kept


def test_masked_patches_are_not_seen():
    """What lies under masked patches changes nothing that the encoder or the decoder says."""
    torch.manual_seed(0)
    encoder = ProFoundViT(SHAPE, PATCH, TransformerSize(12, 2, 3)).eval()
    decoder = MaeDecoder(encoder, TransformerSize(6, 1, 3)).eval()
    input_NCDHW, visible_NK = torch.randn(1, 3, *SHAPE), torch.tensor([[0, 5, 7]])
    changed_NCDHW = input_NCDHW.clone()
    changed_NCDHW[:, :, :4, :4, 4:8] = 9.0  # patch 1
    with torch.inference_mode():
        first, second = (decoder(encoder.tokens(x, visible_NK), visible_NK) for x in (input_NCDHW, changed_NCDHW))
        assert torch.equal(first, second)
        assert not torch.equal(encoder(input_NCDHW), encoder(changed_NCDHW))


def test_a_smaller_input_lies_in_the_middle_of_the_grid():
    whole_1LC = position_embedding((4, 4, 6), 6)
    grid_DHWC = whole_1LC[0, 1:].reshape(4, 4, 6, 6)
    part_1LC = crop_position_embedding(whole_1LC, (4, 4, 6), (4, 2, 3))
    assert torch.equal(part_1LC[0, 0], whole_1LC[0, 0])
    assert torch.equal(part_1LC[0, 1:], grid_DHWC[:, 1:3, 1:4].flatten(0, 2))
    assert torch.equal(crop_position_embedding(whole_1LC, (4, 4, 6), (4, 4, 6)), whole_1LC)
    with pytest.raises(ValueError, match="is larger than the grid of"):
        crop_position_embedding(whole_1LC, (4, 4, 6), (4, 4, 7))


def test_an_encoder_sees_parts_of_its_volume():
    encoder = ProFoundViT(SHAPE, PATCH, TransformerSize(12, 2, 3)).eval()
    decoder = MaeDecoder(encoder, TransformerSize(6, 1, 3)).eval()
    input_NCDHW, visible_NK = torch.randn(1, 3, 8, 4, 8), torch.tensor([[0, 3]])
    with torch.inference_mode():
        maps = encoder.feature_maps(input_NCDHW)
        predicted_NLP = decoder(encoder.tokens(input_NCDHW, visible_NK), visible_NK, (2, 1, 2))
    assert maps["blocks.1"].shape == (1, 12, 2, 1, 2)
    assert predicted_NLP.shape == (1, 4, 4**3 * 3)


def test_places_are_told_apart():
    """Every place has an embedding of its own; neighbours along an axis differ in that axis's third alone."""
    embedding_LC = position_embedding((2, 3, 4), 18)[0]
    assert torch.equal(embedding_LC[0], torch.zeros(18))
    patches_DHWC = embedding_LC[1:].reshape(2, 3, 4, 18)
    assert len({tuple(row) for row in embedding_LC.tolist()}) == 25
    moved = (patches_DHWC[1, 0, 0] != patches_DHWC[0, 0, 0]).nonzero().flatten()
    assert set(moved.tolist()) <= set(range(6))
    moved = (patches_DHWC[0, 0, 1] != patches_DHWC[0, 0, 0]).nonzero().flatten()
    assert set(moved.tolist()) <= set(range(12, 18))


def test_published_size():
    encoder = ARCHITECTURES["profound_vit_base"].build_empty()
    shapes = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    assert shapes["patch_embed.proj.weight"] == (768, 3, 16, 32, 32)
    assert shapes["pos_embed"] == (1, 257, 768)
    assert len(encoder.blocks) == 12
    assert not encoder.pos_embed.requires_grad
    decoder = {
        name: tuple(t.shape) for name, t in MaeDecoder(encoder, TransformerSize(384, 8, 16)).state_dict().items()
    }
    assert decoder["decoder_pred.weight"] == (16 * 32 * 32 * 3, 384)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="cannot be divided into patches"):
        ProFoundViT((8, 8, 10), PATCH, TransformerSize(12, 1, 3))
    with pytest.raises(ValueError, match="choose a multiple of 6"):
        ProFoundViT(SHAPE, PATCH, TransformerSize(16, 1, 4))


def test_dense_heads_read_four_blocks_evenly():
    assert select_dense_blocks(12) == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]
    assert select_dense_blocks(2) == ["blocks.0", "blocks.1"]
