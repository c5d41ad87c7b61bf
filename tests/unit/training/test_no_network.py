"""Building networks and training them contacts no host: weights are never downloaded."""

from __future__ import annotations

import socket

import pytest
import torch

from vfmalign.core.domain.errors import BadCheckpoint
from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.formats.bounded_construction import MAX_MODULES
from vfmalign.models.formats.monai_bundle import encode_architecture_name
from vfmalign.models.registry import ARCHITECTURES, get_architecture, list_architectures
from vfmalign.models.weights import build_encoder, random_state
from vfmalign.training.networks.heads import CaseClassifier, EncoderDecoder, SpecialisedClassifier, SpecialisedUNet

INPUT = Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(32, 32, 32))
# Networks whose `pretrained` is True by default.
DOWNLOADING = {
    "EfficientNetBN": ({"model_name": "efficientnet-b0", "spatial_dims": 3, "in_channels": 1}, "_conv_stem"),
    "EfficientNetBNFeatures": ({"model_name": "efficientnet-b0", "spatial_dims": 3, "in_channels": 1}, "_conv_stem"),
    "ResNetFeatures": ({"model_name": "resnet10", "spatial_dims": 3, "in_channels": 1}, "layer1"),
}


@pytest.fixture(autouse=True)
def attempts(monkeypatch):
    """Hosts that the test tried to reach, none of which answers."""
    hosts: list[object] = []

    def refuse(*arguments, **options):
        hosts.append(arguments[-1])
        raise OSError("this test may not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield hosts
    assert not hosts


@pytest.mark.parametrize("name", list_architectures())
def test_built_in_architectures(name) -> None:
    get_architecture(name).build_empty()


@pytest.mark.parametrize("net", DOWNLOADING)
def test_networks_of_monai(net) -> None:
    arguments, layer = DOWNLOADING[net]
    get_architecture(encode_architecture_name(net, arguments, [layer], INPUT)).build_empty()


@pytest.mark.parametrize(
    "net",
    [
        CaseClassifier,
        lambda encoder: EncoderDecoder(encoder, 2),
        lambda _: SpecialisedUNet(3, 2, (16, 64, 64)),
        lambda _: SpecialisedClassifier(3, (16, 64, 64)),
    ],
)
def test_a_training_step(net) -> None:
    architecture = ARCHITECTURES["profound_conv_micro"]
    network = net(build_encoder(architecture, random_state(architecture, 0)).train())
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.zeros(1, 3, *architecture.preprocessing.shape_dhw)).square().mean().backward()
    optimiser.step()


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        ("Transchex", {"in_channels": 1, "img_size": [8], "patch_size": 1, "num_classes": 1}, "is not a network of"),
        ("TorchVisionFCModel", {"weights": "DEFAULT"}, "'weights' makes the network read or download files"),
        ("HoVerNet", {"pretrained_url": "https://example.org"}, "makes the network read or download files"),
        (
            "ViT",
            {
                "in_channels": 1,
                "img_size": [16, 16, 16],
                "patch_size": [8, 8, 8],
                "hidden_size": 12,
                "num_layers": 60_000,
            },
            f"has more than {MAX_MODULES} modules",
        ),
        (
            "SwinUNETR",
            {"in_channels": 1, "out_channels": 1, "depths": [60_000, 60_000, 60_000, 60_000]},
            f"has more than {MAX_MODULES} modules",
        ),
        (
            "SwinUNETR",
            {"in_channels": 1, "out_channels": 1, "window_size": 48},
            "has more than 2147483648 elements",
        ),
        (
            "UNet",
            {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [65_536, 65_536], "strides": [2]},
            "has more than 2147483648 elements",
        ),
    ],
)
def test_networks_that_download_or_are_too_large_are_refused(net, arguments, message) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        get_architecture(encode_architecture_name(net, arguments, ["x"], INPUT))
