"""Features are the encoder's, do not depend on the batch, and do not change with the caller's torch settings."""

import threading

import pytest
import torch

from vfmalign.core.errors import BadOption, Exhausted
from vfmalign.features.device import MemoryMeter, choose_device, describe_device
from vfmalign.features.extractor import extract, extract_side_by_side, warm_up
from vfmalign.models.checkpoints import build_encoder, random_state
from vfmalign.models.encoder import pool
from vfmalign.models.registry import ARCHITECTURES

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


def test_results_do_not_depend_on_the_batch(encoder, input_NCDHW):
    together = extract(encoder, input_NCDHW, LAYERS, "mean")
    for layer in LAYERS:
        alone = [extract(encoder, input_NCDHW[i : i + 1], LAYERS, "mean")[layer] for i in range(5)]
        assert torch.equal(together[layer], torch.cat(alone))


def test_side_by_side_each_study_has_its_share_of_the_threads(encoder, input_NCDHW, monkeypatch):
    threads, seen = torch.get_num_threads(), set()
    forward = encoder.feature_maps

    def recorded(one_NCDHW):
        seen.add((threading.current_thread().name, torch.get_num_threads(), len(one_NCDHW)))
        return forward(one_NCDHW)

    monkeypatch.setattr(encoder, "feature_maps", recorded)
    torch.set_num_threads(4)
    try:
        together = extract_side_by_side(encoder, input_NCDHW, LAYERS)
        alone = [extract_side_by_side(encoder, input_NCDHW[i : i + 1], LAYERS) for i in range(5)]
        assert torch.get_num_threads() == 4
        assert {(own, studies) for _, own, studies in seen} == {(2, 1)}
        assert len({name for name, *_ in seen}) == 2
        for layer in LAYERS:
            assert torch.equal(together[layer], torch.cat([one[layer] for one in alone]))
        plain = extract(encoder, input_NCDHW, LAYERS, "mean")
        assert all((plain[k] - together[k]).abs().max() <= 1e-5 * plain[k].abs().max() for k in LAYERS)
    finally:
        torch.set_num_threads(threads)


def test_an_error_beside_another_study_reaches_the_caller(encoder, input_NCDHW):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(BadOption, match="the model has no layer"):
            extract_side_by_side(encoder, input_NCDHW, ["absent"])
        assert torch.get_num_threads() == 2
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("forward")]
    finally:
        torch.set_num_threads(before)


def test_an_outer_autocast_changes_nothing(encoder, input_NCDHW):
    plain = extract(encoder, input_NCDHW, LAYERS, "mean")
    with torch.autocast("cpu", torch.bfloat16):
        inside = extract(encoder, input_NCDHW, LAYERS, "mean")
    assert all(torch.equal(plain[layer], inside[layer]) for layer in LAYERS)


def test_unknown_and_repeated_layers(encoder, input_NCDHW):
    with pytest.raises(BadOption, match=r"no layer 'stages\.9'; choose from stages\.0, .*, pooled"):
        extract(encoder, input_NCDHW, ["stages.9"], "mean")
    with pytest.raises(BadOption, match="named twice"):
        extract(encoder, input_NCDHW, ["stages.1", "stages.1"], "mean")


def test_a_batch_too_large_for_the_device_says_what_to_set(encoder, input_NCDHW, monkeypatch):
    def out_of_memory(input_NCDHW):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder, "feature_maps", out_of_memory)
    with pytest.raises(Exhausted, match=r"5 studies of shape \[3, 16, 32, 32\] .* VFMALIGN_FEATURES__BATCH_SIZE"):
        extract(encoder, input_NCDHW, LAYERS, "mean")


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert describe_device(torch.device("cpu")) == "cpu"
    with pytest.raises(BadOption, match=r"VFMALIGN_FEATURES__DEVICE: there is no device 'cuda:99' here"):
        choose_device("cuda:99")


def test_the_meter_returns_what_the_function_does():
    meter = MemoryMeter(torch.device("cpu"))
    assert meter.run(lambda: 7) == 7
    assert meter.peak_bytes == 0


def test_warm_up_runs():
    warm_up(torch.device("cpu"))
