"""The example network in docs/models.md works."""

import re
from pathlib import Path

import torch
from safetensors.torch import save

from vfmalign.features.extraction.extractor import extract
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.formats.checkpoint import import_checkpoint
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.training.networks.heads import EncoderDecoder

DOCS = (Path(__file__).parents[3] / "docs" / "models.md").read_text()


def test_the_documented_network_is_imported_served_and_trained(store, monkeypatch):
    code = next(block for block in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL) if "TWO_STEPS" in block)
    scope: dict[str, object] = {"__name__": "documented"}
    exec(code, scope)
    architecture = scope["TWO_STEPS"]
    monkeypatch.setitem(ARCHITECTURES, architecture.name, architecture)
    imported = import_checkpoint([save(architecture.build().state_dict())], architecture)
    publish(store, "documented", imported.state, architecture=architecture.name, objective="supervised")
    encoder, card = load_encoder(store, "documented")
    input_NCDHW = torch.randn(2, 3, *card.preprocessing.shape_dhw)
    rows = extract(encoder, input_NCDHW, [layer.name for layer in card.layers], "mean")
    assert {layer: tuple(row.shape) for layer, row in rows.items()} == {"first": (2, 8), "second": (2, 16)}
    assert EncoderDecoder(encoder, 2)(input_NCDHW).shape == (2, 2, *card.preprocessing.shape_dhw)


def test_every_architecture_that_is_named_exists():
    named = set(re.findall(r"`((?:profound|provicnet)_[a-z0-9_]+)`", DOCS))
    assert named
    assert named <= ARCHITECTURES.keys()
