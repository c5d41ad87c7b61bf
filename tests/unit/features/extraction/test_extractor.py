"""Features are the encoder's, do not depend on the batch, and do not change with the caller's torch settings."""

import pytest
import torch

from vfmalign.core.domain.errors import BadOption, Exhausted
from vfmalign.features.extraction.device import MemoryMeter, choose_device, describe_device
from vfmalign.features.extraction.extractor import PreparedInput, extract, extract_patches, warm_up
from vfmalign.models.encoder import pool
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import build_encoder, random_state

LAYERS = ("stages.3", "stages.0", "pooled")


@pytest.fixture(scope="module")
def encoder():
    architecture = ARCHITECTURES["profound_conv_micro"]
    return build_encoder(architecture, random_state(architecture, 3))


@pytest.fixture(scope="module")
def input_NCDHW():
    return torch.randn(5, 3, 16, 32, 32, generator=torch.Generator().manual_seed(0))


def test_pooled_features_are_the_means_of_the_encoders_maps(encoder, input_NCDHW):
    features = extract(encoder, input_NCDHW, LAYERS, "mean")
    with torch.inference_mode():
        maps = encoder.feature_maps(input_NCDHW)
    assert tuple(features) == LAYERS
    for layer in LAYERS:
        expected = pool(maps[layer])
        assert features[layer].shape == (5, encoder.layer_channels()[layer])
        assert (features[layer] - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert features[layer].dtype == torch.float32
        assert not features[layer].requires_grad


def test_whole_maps_without_pooling(encoder, input_NCDHW):
    features = extract(encoder, input_NCDHW, LAYERS, "none")
    assert {layer: tuple(t.shape) for layer, t in features.items()} == {
        "stages.3": (5, 128, 1, 2, 2),
        "stages.0": (5, 16, 4, 8, 8),
        "pooled": (5, 128),
    }
    assert all(tensor.is_contiguous() for tensor in features.values())
    pooled = extract(encoder, input_NCDHW, LAYERS, "mean")
    assert (pool(features["stages.0"]) - pooled["stages.0"]).abs().max() <= 1e-6


def test_features_of_patches_are_their_mean_with_every_voxel_of_the_image_counted_once(encoder):
    study = PreparedInput(torch.randn(3, 16, 40, 32), slices=(-4, 12), image=((4, 16), (0, 40), (3, 30)))
    totals, covered = dict.fromkeys(LAYERS, 0.0), torch.zeros(16, 40, 32)
    starts = [(0, h, w) for h in (0, 8, 16, 24) for w in (0, 8, 16)]
    for d, h, w in starts:
        covered[d : d + 16, h : h + 16, w : w + 16] += 1
    image = torch.zeros(16, 40, 32)
    image[4:16, 0:40, 3:30] = 1.0
    for d, h, w in starts:
        region = slice(d, d + 16), slice(h, h + 16), slice(w, w + 16)
        weight = float((image[region].double() / covered[region]).sum() / image.sum())
        features = extract(encoder, study.input_CDHW[None, :, *region], LAYERS, "mean", torch.tensor([[d - 4, 12]]))
        totals = {layer: totals[layer] + weight * features[layer].double() for layer in LAYERS}
    for size in (1, 5):
        found = extract_patches(encoder, study, LAYERS, (16, 16, 16), size)
        for layer in LAYERS:
            assert found[layer].shape == (1, encoder.layer_channels()[layer])
            assert (found[layer] - totals[layer]).abs().max() <= 1e-6 * totals[layer].abs().max()


def test_results_do_not_depend_on_the_batch(encoder, input_NCDHW):
    together = extract(encoder, input_NCDHW, LAYERS, "mean")
    for layer in LAYERS:
        alone = [extract(encoder, input_NCDHW[i : i + 1], LAYERS, "mean")[layer] for i in range(5)]
        assert torch.equal(together[layer], torch.cat(alone))


@pytest.mark.parametrize(("at_once", "passes"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1])])
def test_on_a_cpu_as_many_share_a_pass_as_the_encoder_says(encoder, input_NCDHW, monkeypatch, at_once, passes):
    forward, seen = encoder.feature_maps, []
    alone = extract(encoder, input_NCDHW, LAYERS, "mean")
    monkeypatch.setattr(
        encoder, "feature_maps", lambda one_NCDHW, _: (seen.append(len(one_NCDHW)), forward(one_NCDHW))[1]
    )
    monkeypatch.setattr(encoder, "studies_at_once", at_once)
    found = extract(encoder, input_NCDHW, LAYERS, "mean")
    assert seen == passes
    assert all((found[k] - alone[k]).abs().max() <= 1e-5 * alone[k].abs().max() for k in LAYERS)


def test_an_outer_autocast_changes_nothing(encoder, input_NCDHW):
    plain = extract(encoder, input_NCDHW, LAYERS, "mean")
    with torch.autocast("cpu", torch.bfloat16):
        inside = extract(encoder, input_NCDHW, LAYERS, "mean")
    assert all(torch.equal(plain[layer], inside[layer]) for layer in LAYERS)


def test_unknown_and_repeated_layers(encoder, input_NCDHW):
    with pytest.raises(BadOption, match=r"no layer 'stages\.9'; choose from stages\.0, .*, pooled"):
        extract(encoder, input_NCDHW, ["stages.9"], "mean")
    with pytest.raises(BadOption, match="listed twice"):
        extract(encoder, input_NCDHW, ["stages.1", "stages.1"], "mean")


def test_a_batch_too_large_for_the_device_says_what_to_set(encoder, input_NCDHW, monkeypatch):
    def out_of_memory(input_NCDHW, slices_N2):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder, "feature_maps", out_of_memory)
    with pytest.raises(Exhausted, match=r"5 studies of shape \[3, 16, 32, 32\] .* VFMALIGN_FEATURES__BATCH_SIZE"):
        extract(encoder, input_NCDHW, LAYERS, "mean")


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert describe_device(torch.device("cpu")) == "cpu"
    with pytest.raises(BadOption, match=r"VFMALIGN_FEATURES__DEVICE: this machine has no device 'cuda:99'"):
        choose_device("cuda:99")


def test_the_meter_returns_what_the_function_does():
    meter = MemoryMeter(torch.device("cpu"))
    assert meter.run(lambda: 7) == 7
    assert meter.peak_bytes == 0


def test_warm_up_runs():
    warm_up(torch.device("cpu"))
