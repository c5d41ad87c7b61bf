"""ProViCNet against upstream's outputs and the papers' formulas, and the conversion of volumes to slices."""

import pytest
import torch

from vfmalign.models.architectures.provicnet import FusionEncoder, SliceEncoder, adjacent_slices
from vfmalign.models.architectures.transformer import TransformerSize
from vfmalign.models.architectures.upstream import convert_provicnet
from vfmalign.models.encoder import pool_volume
from vfmalign.models.registry import ARCHITECTURES


def tokens_of(map_SCHW: torch.Tensor) -> torch.Tensor:
    return map_SCHW.flatten(2).transpose(1, 2)


@pytest.fixture
def own(golden_of):
    state, golden = golden_of("provicnet_small.safetensors")
    encoder = SliceEncoder(TransformerSize(12, 2, 3)).eval()
    encoder.load_state_dict(state)
    return encoder, golden


def test_reproduces_upstream(golden_of, close):
    state, golden = golden_of("provicnet_small.safetensors", shared=True)
    encoder = SliceEncoder(TransformerSize(48, 2, 4)).eval()
    encoder.load_state_dict(convert_provicnet([state], "provicnet_small").state)
    with torch.inference_mode():
        maps = encoder.slice_maps(golden["input_NCHW"], golden["position_N2"])
    close(tokens_of(maps["patch_tokens"]), golden["patch_tokens_NLC"])
    close(maps["class_token"][:, :, 0, 0], golden["cls_NC"])


def test_reproduces_the_papers_formulas(own, close):
    encoder, golden = own
    with torch.inference_mode():
        maps = encoder.slice_maps(golden["images_SCHW"], golden["position_S2"])
    for i in range(2):
        close(tokens_of(maps[f"blocks.{i}"]), golden[f"block{i}_SLC"])
    close(maps["class_token"][:, :, 0, 0], golden["class_SC"])
    close(tokens_of(maps["patch_tokens"]), golden["patch_tokens_SLC"])


def test_golden_weights_matter(own):
    encoder, golden = own

    def outputs():
        with torch.inference_mode():
            maps = encoder.slice_maps(golden["images_SCHW"], golden["position_S2"])
            return torch.cat((maps["class_token"].flatten(), maps["patch_tokens"].flatten()))

    before = outputs()
    for name, parameter in encoder.named_parameters():
        if name == "backbone.mask_token":  # serves DINOv2's pretraining alone
            continue
        kept = parameter.data.clone()
        parameter.data += 0.1 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
        assert (outputs() - before).abs().max() > 1e-3, name
        parameter.data = kept


def test_slices_stand_between_their_neighbours():
    volume_NDHW = torch.arange(5.0)[None, :, None, None].expand(1, 5, 2, 2)
    windows = adjacent_slices(volume_NDHW)[0, :, :, 0, 0].tolist()
    assert windows == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [2, 3, 4]]
    assert adjacent_slices(volume_NDHW[:, :1])[0, :, :, 0, 0].tolist() == [[0, 0, 0]]
    two = torch.stack((volume_NDHW[0], volume_NDHW[0] + 10))
    assert adjacent_slices(two)[1, :, :, 0, 0].tolist() == [[v + 10 for v in window] for window in windows]


def test_a_volume_is_its_slices_with_their_places(close):
    """More slices than go through at once, against each slice alone."""
    torch.manual_seed(0)
    encoder = SliceEncoder(TransformerSize(12, 2, 3), patch=4).eval()
    input_NCDHW = torch.randn(2, 1, 11, 8, 8)
    with torch.inference_mode():
        maps = encoder.feature_maps(input_NCDHW)
        for n, d in ((0, 0), (1, 9), (1, 10)):
            window = adjacent_slices(input_NCDHW[n : n + 1, 0])[0, d : d + 1]
            alone = encoder.slice_maps(window, torch.tensor([[float(d), 11.0]]))
            for layer, map_SCHW in alone.items():
                close(maps[layer][n, :, d], map_SCHW[0])
    close(maps["pooled"], maps["class_token"].mean((2, 3, 4)))


def test_the_place_of_a_slice_matters():
    encoder = SliceEncoder(TransformerSize(12, 1, 3), patch=4).eval()
    image = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        maps = [
            encoder.slice_maps(image, torch.tensor([p]))["class_token"] for p in ([3.0, 9.0], [4.0, 9.0], [3.0, 8.0])
        ]
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("fused", [False, True])
def test_padded_slices_do_not_count(close, fused):
    """A volume of five slices, alone and padded to nine, in a batch with one whose last slices were cut off."""
    torch.manual_seed(0)
    size = TransformerSize(12, 1, 3)
    encoder = (FusionEncoder(("t2w", "dwi"), size, patch=4) if fused else SliceEncoder(size, patch=4)).eval()
    volume_NCDHW = torch.randn(1, encoder.in_channels, 5, 8, 8)
    long_NCDHW = torch.randn(1, encoder.in_channels, 11, 8, 8)
    padded_NCDHW = torch.nn.functional.pad(volume_NCDHW, (0, 0, 0, 0, 2, 2), value=-3.0)
    slices_N2 = torch.tensor([[-2, 5], [1, 11]])
    with torch.inference_mode():
        alone, whole = encoder.feature_maps(volume_NCDHW), encoder.feature_maps(long_NCDHW)
        batch = encoder.feature_maps(torch.cat((padded_NCDHW, long_NCDHW[:, :, 1:10])), slices_N2)
    for layer, map_NCDHW in alone.items():
        close(pool_volume(encoder, batch[layer], slices_N2)[:1], pool_volume(encoder, map_NCDHW, None))
        if map_NCDHW.ndim == 5:
            close(batch[layer][:1, :, 2:7], map_NCDHW)
            assert not batch[layer][0, :, [0, 1, 7, 8]].any()
            # The ends of a part lack a neighbour; the slices between them have the index that they have in the whole.
            close(batch[layer][1:, :, 1:8], whole[layer][:, :, 2:9])


def test_gradients_reach_the_weights_past_padded_slices():
    encoder = SliceEncoder(TransformerSize(12, 1, 3), patch=4)
    maps = encoder.feature_maps(torch.randn(2, 1, 4, 8, 8), torch.tensor([[-1, 3], [0, 2]]))
    pool_volume(encoder, maps["blocks.0"], torch.tensor([[-1, 3], [0, 2]])).sum().backward()
    assert encoder.backbone.patch_embed.proj.weight.grad.abs().sum() > 0


def test_fusion_puts_the_sequences_side_by_side():
    encoder = FusionEncoder(("t2w", "dwi"), TransformerSize(12, 1, 3), patch=4).eval()
    input_NCDHW = torch.randn(1, 2, 3, 8, 8)
    with torch.inference_mode():
        both = encoder.feature_maps(input_NCDHW)
        second = encoder.streams["dwi"].feature_maps(input_NCDHW[:, 1:])
    for layer, map_NCDHW in second.items():
        assert torch.equal(both[layer][:, 12:], map_NCDHW)
    assert encoder.layer_channels() == dict.fromkeys(second, 24)


def test_published_size():
    encoder = ARCHITECTURES["provicnet_t2w"].build_empty().state_dict()
    assert encoder["backbone.pos_embed"].shape == (1, 1370, 384)
