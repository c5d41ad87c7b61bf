"""Model cards: JSON in the bucket, which may name any architecture, and the message that shows a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import monai.networks.nets  # noqa: F401  imported here, so that no input has to wait for it
from tests.fuzz.harness import Target
from tests.fuzz.memory_store import MemoryStore

from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.storage.keys import model_card_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.provenance import Provenance
from vfmalign.features.converters import to_model
from vfmalign.models.cards import load_encoder
from vfmalign.models.formats import exported_program
from vfmalign.models.formats.monai_bundle import encode_architecture_name
from vfmalign.models.registry import ARCHITECTURES, get_architecture, list_architectures

_SMALL = Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(16, 16, 16))


def run(data: bytes) -> None:
    """Reads a card, shows it, builds the network that it describes, and looks for its weights."""
    store = MemoryStore({model_card_key("m"): data})
    card = load_card(store, "m")
    to_model(card, store.uri, Provenance()).to_proto()
    if card.architecture not in ARCHITECTURES and card.architecture != exported_program.ARCHITECTURE:
        get_architecture(card.architecture).build_empty()
    load_encoder(store, "m")


def make_seeds() -> Mapping[str, bytes]:
    """Cards of every kind of architecture."""
    unet = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [2, 4], "strides": [2]}
    monai = encode_architecture_name("UNet", unet, ["model"], _SMALL)
    names = {
        "convnext": "profound_conv_micro",
        "transformer": "profound_vit_micro",
        "slices": "provicnet_micro",
        "stack": get_architecture("meshnet").name,
        "monai": monai,
        "program": exported_program.ARCHITECTURE,
        "unknown": "resnet",
    }
    return {name: json.dumps(_make_card(architecture)).encode() for name, architecture in names.items()}


def _make_card(architecture: str) -> dict[str, Any]:
    preprocessing = ARCHITECTURES[architecture].preprocessing if architecture in ARCHITECTURES else _SMALL
    return {
        "id": "m",
        "architecture": architecture,
        "objective": "supervised",
        "checkpoint": {"key": f"models/m/{'0' * 64}.safetensors", "sha256": "0" * 64},
        "preprocessing": preprocessing.model_dump(mode="json"),
        "layers": [{"name": "stages.3", "channels": 128}],
        "primary_layer": "stages.3",
        "pretraining": [{"dataset_id": "d", "dataset_digest": "0" * 64, "volume_sha256": ["0" * 64], "groups": ["g"]}],
        "parent_model_id": "p",
        "source": "made by a test",
    }


TARGET = Target(
    run,
    make_seeds,
    words=(
        *list_architectures(),
        "masked_reconstruction",
        "random",
        "zscore_gland",
        "quantile_range",
        "window",
        "spacing_mm",
    ),
    is_json=True,
)
