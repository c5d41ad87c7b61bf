"""Checkpoints of public encoders, whose shapes determine the network: safetensors that a user imports."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.networks.nets import SegResNet, ViT
from monai.networks.nets.segresnet_ds import SegResEncoder
from monai.networks.nets.swin_unetr import SwinTransformer
from tests.fuzz.harness import Target

from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.formats.families import FAMILIES
from vfmalign.models.formats.family_import import import_family
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import to_safetensors

_SIDES = (32, 32, 32)


def run(data: bytes) -> None:
    """Recognises the family and imports its encoder."""
    if data[8:9] == b"{":
        import_family(data, "", _shrink, get_architecture, "file")


def _shrink(preprocessing: Preprocessing) -> Preprocessing:
    return preprocessing.model_copy(update={"shape_dhw": _SIDES})


def make_seeds() -> Mapping[str, bytes]:
    """Small networks of four families, and the names of all families with tensors of no use."""
    torch.manual_seed(0)
    swin = SwinTransformer(1, 2, (1, 1, 1), (2, 2, 2), (1, 1, 1, 1), (1, 1, 1, 1))
    vit = ViT(1, _SIDES, 16, hidden_size=2, mlp_dim=2, num_layers=1, num_heads=1)
    networks = {
        "swin": (swin, "module.swinViT."),
        "vit": (vit, "vit."),
        "segresnet": (SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,)), ""),
        "segresnet_ds": (SegResEncoder(init_filters=1, blocks_down=(1, 1)), "encoder."),
    }
    seeds = {
        name: to_safetensors({prefix + key: tensor for key, tensor in network.state_dict().items()})
        for name, (network, prefix) in networks.items()
    }
    names = {f"names_of_{name}": dict.fromkeys(family.keys) for name, family in FAMILIES.items()}
    return seeds | {
        name: to_safetensors({key: torch.zeros(1, 1, 1, 1, 1) for key in keys}) for name, keys in names.items()
    }


TARGET = Target(
    run,
    make_seeds,
    words=tuple({word for family in FAMILIES.values() for key in (*family.keys, *family.prefixes) for word in [key]}),
)
