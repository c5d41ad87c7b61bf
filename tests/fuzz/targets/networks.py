"""Networks that the architecture of a card, job or request describes as JSON: MONAI's, and stacks of convolutions."""

from __future__ import annotations

import json
from collections.abc import Mapping

import monai.networks.nets
from tests.fuzz.harness import Target

from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.formats import monai_bundle, stack_checkpoint
from vfmalign.models.registry import get_architecture

_SMALL = Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(16, 16, 16))
_UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [2, 4], "strides": [2]}
_VIT = {"in_channels": 1, "img_size": [16, 16, 16], "patch_size": [8, 8, 8], "hidden_size": 12, "mlp_dim": 12}


def run(data: bytes) -> None:
    """Builds the network on the meta device."""
    text = data.decode(errors="replace")
    is_stack = b'"compared"' in data
    get_architecture((stack_checkpoint.PREFIX if is_stack else monai_bundle.PREFIX) + text).build_empty()


def make_seeds() -> Mapping[str, bytes]:
    """Valid networks, and some that are too large or download weights."""
    networks = {
        "unet": ("UNet", _UNET, ["model"]),
        "vit": ("ViT", {**_VIT, "num_layers": 1, "num_heads": 2}, ["blocks.0"]),
        "deep": ("ViT", {**_VIT, "num_layers": 2**16, "num_heads": 2}, ["blocks.0"]),
        "wide": ("UNet", {**_UNET, "channels": [2**16, 2**16]}, ["model"]),
        "downloads": (
            "EfficientNetBN",
            {"model_name": "efficientnet-b0", "spatial_dims": 3, "in_channels": 1},
            ["_fc"],
        ),
        "reads_files": ("Transchex", {"in_channels": 1, "img_size": [8], "patch_size": 1, "num_classes": 1}, ["x"]),
    }
    seeds = {
        name: monai_bundle.encode_architecture_name(net, arguments, layers, _SMALL).removeprefix("monai:").encode()
        for name, (net, arguments, layers) in networks.items()
    }
    turned = monai_bundle.encode_architecture_name(
        "resnet10", {"n_input_channels": 1}, ["layer1"], _SMALL, axes="RAS", without=["fc"]
    )
    seeds["turned"] = turned.removeprefix("monai:").encode()
    stack = {"layers": [{"channels": 2}], "compared": [0], "input": _SMALL.model_dump(mode="json")}
    seeds["list"] = json.dumps({"net": "UNet", "arguments": [1], "layers": [], "input": {}}).encode()
    return seeds | {"stack": json.dumps(stack).encode()}


TARGET = Target(
    run,
    make_seeds,
    words=tuple(name for name in dir(monai.networks.nets) if name[:1].isupper()),
    is_json=True,
)
