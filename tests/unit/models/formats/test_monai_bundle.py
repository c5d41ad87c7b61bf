"""MONAI bundles: what is accepted and rejected, and that a configuration is never executed."""

import json
import subprocess
import sys
from pathlib import Path

import monai.networks.nets
import pytest
import torch
from safetensors.torch import save

from vfmalign.core.domain.errors import BadCheckpoint, BadOption
from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.encoder import pool
from vfmalign.models.formats.monai_bundle import PREFIX, encode_architecture_name
from vfmalign.models.importer import InputDescription, import_model
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import build_encoder, random_state

ARGUMENTS = {
    "spatial_dims": 3,
    "init_filters": 8,
    "in_channels": 2,
    "out_channels": 3,
    "blocks_down": [1, 1],
    "blocks_up": [1],
}
SWIN = {"in_channels": 1, "out_channels": 2, "depths": [1, 1, 1, 1], "feature_size": 12, "dropout_path_rate": 0.1}
SWIN_INPUT = Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(64, 64, 64))
LAYERS = ["down_layers.0", "down_layers.1"]
INPUT = InputDescription(("t2w", "adc"), (3.0, 1.0, 1.0), (8, 16, 16), "zscore_nonzero")


def network() -> torch.nn.Module:
    return monai.networks.nets.SegResNet(**ARGUMENTS)


def write(folder: Path, definition: object, weights: bytes | None = None, **rest: object) -> Path:
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    image = {"num_channels": 2, "spatial_shape": [8, 16, 16]}
    metadata = {"network_data_format": {"inputs": {"image": image}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": definition, **rest}))
    if weights is not None:
        (folder / "models" / "model.safetensors").write_bytes(weights)
    return folder


def definition(**changed: object) -> dict[str, object]:
    return {"_target_": "SegResNet", **ARGUMENTS, **changed}


@pytest.mark.parametrize("package", ["", "monai.networks.nets.", "monai.networks.nets.segresnet."])
def test_a_bundle_becomes_an_encoder(tmp_path, package):
    torch.manual_seed(0)
    net = network().eval()
    stated = definition(_target_=f"{package}SegResNet", in_channels="@channels")
    folder = write(tmp_path, stated, save(net.state_dict()), channels=2)
    imported = import_model([folder], "", LAYERS, INPUT, "bundle")
    architecture = get_architecture(imported.architecture)
    encoder = build_encoder(architecture, imported.state)
    input_NCDHW = torch.randn(2, 2, 8, 16, 16)
    expected = {}
    for layer in LAYERS:
        net.get_submodule(layer).register_forward_hook(lambda m, i, o, layer=layer: expected.__setitem__(layer, o))
    with torch.inference_mode():
        net(input_NCDHW)
        maps = encoder.feature_maps(input_NCDHW)
    for layer in LAYERS:
        assert torch.equal(maps[layer], expected[layer])
    assert torch.equal(maps["pooled"], pool(expected[LAYERS[-1]]))
    assert encoder.dense_layers() == {"down_layers.0": (1, 1, 1), "down_layers.1": (2, 2, 2)}
    assert architecture.layers[1].channels == 16
    assert architecture.primary_layer == "down_layers.1"
    assert imported.report.startswith("MONAI bundle checkpoint: ")


def test_a_bundle_is_published_and_loaded_back_from_its_card_alone(tmp_path, store):
    folder = write(tmp_path, definition(), save(network().state_dict()))
    imported = import_model([folder], "", LAYERS, INPUT, "bundle")
    options = {
        "architecture": imported.architecture,
        "preprocessing": imported.preprocessing,
        "objective": "supervised",
    }
    card = publish(store, "a-bundle", imported.state, **options)
    encoder, loaded = load_encoder(store, "a-bundle")
    assert loaded == card
    assert all(torch.equal(tensor, imported.state[name]) for name, tensor in encoder.state_dict().items())
    other = random_state(get_architecture(card.architecture), 3)
    assert other.keys() == imported.state.keys()
    assert publish(store, "another", other, **options).layers == card.layers


def test_tokens_and_vectors_are_layers_too():
    vit = {
        "in_channels": 1, "img_size": [8, 16, 16], "patch_size": [4, 8, 8], "hidden_size": 12, "mlp_dim": 24,
        "num_layers": 1, "num_heads": 3, "proj_type": "conv", "classification": True, "num_classes": 5,
    }  # fmt: skip
    preprocessing = Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(8, 16, 16))
    architecture = get_architecture(
        encode_architecture_name("ViT", vit, ["blocks.0", "classification_head"], preprocessing)
    )
    assert {layer.name: layer.channels for layer in architecture.layers} == {"blocks.0": 12, "classification_head": 5}
    encoder = build_encoder(architecture, random_state(architecture, 0))
    with torch.inference_mode():
        maps = encoder.feature_maps(torch.randn(2, 1, 8, 16, 16))
    assert maps["blocks.0"].shape == (2, 12, 9, 1, 1)
    assert maps["pooled"].shape == (2, 5)
    assert encoder.dense_layers() == {}


def test_a_network_that_reads_values_back_while_it_is_built_becomes_an_encoder():
    name = encode_architecture_name("SwinUNETR", SWIN, ["encoder1", "encoder2"], SWIN_INPUT)
    architecture = get_architecture(name)
    assert {layer.name: layer.channels for layer in architecture.layers} == {"encoder1": 12, "encoder2": 12}
    state = random_state(architecture, 0)
    net = monai.networks.nets.SwinUNETR(**SWIN).eval()
    net.load_state_dict({key.removeprefix("network."): tensor for key, tensor in state.items()})
    input_NCDHW = torch.randn(1, 1, 64, 64, 64)
    with torch.inference_mode():
        maps = build_encoder(architecture, state).feature_maps(input_NCDHW)
        assert torch.equal(maps["encoder1"], net.encoder1(input_NCDHW))


def test_a_large_network_is_described_without_memory_for_it(python):
    name = encode_architecture_name("SwinUNETR", {**SWIN, "window_size": 20}, ["encoder1"], SWIN_INPUT)
    code = """if True:
        import resource, sys
        from vfmalign.models.registry import get_architecture
        import monai.networks.nets
        monai.networks.nets.UNet(3, 1, 1, (4, 8), (2,))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        get_architecture(sys.argv[1])
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    with python([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True) as process:
        grown_mib = float(process.communicate()[0])
    assert grown_mib < 256, "its tables of positions would take gigabytes"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_target_": "os.system"}, "the network is 'os.system', not a class of monai.networks.nets"),
        ({"_target_": "monai.bundle.ConfigParser"}, "not a class of monai.networks.nets"),
        ({"_target_": "$__import__('os').system('true')"}, "not a class of monai.networks.nets"),
        ({"_target_": "monai.networks.nets.torch"}, "'torch' is not a network"),
        ({"_target_": "monai.networks.nets.resnet.get_inplanes"}, "'get_inplanes' is not a network"),
        ({"_target_": 3}, "the network is '3'"),
        ({"norm": "$open('x')"}, "holds the expression or reference"),
        ({"norm": "@another#thing"}, "holds the expression or reference"),
        ({"norm": {"_target_": "torch.nn.ReLU"}}, "holds the directive '_target_'"),
        ({"norm": ["GROUP", {"num_groups": "$1+1"}]}, "holds the expression or reference"),
        ({"_requires_": "$print()"}, "has the directive '_requires_'"),
        ({"_mode_": "callable"}, "has the directive '_mode_'"),
        ({"pretrained": "/some/path"}, "makes the network read or download files"),
        ({"colour": "red"}, "MONAI rejects the arguments: "),
    ],
)
def test_more_than_a_network_with_plain_values_is_refused(tmp_path, changed, message):
    folder = write(tmp_path, definition(**changed), save(network().state_dict()))
    with pytest.raises(BadCheckpoint, match=r"give a bundle with a network of monai\.networks\.nets") as caught:
        import_model([folder], "", LAYERS, INPUT, "bundle")
    assert message in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_name_is_as_strict_as_a_file():
    """An architecture's name arrives from cards and from clients: it says no more than a configuration may."""
    spelt = {"net": "SegResNet", "arguments": {"norm": "$1"}, "layers": LAYERS, "input": {}}
    for text in ("{}", "nonsense", json.dumps(spelt)):
        with pytest.raises(BadOption, match="does not encode a network"):
            get_architecture(PREFIX + text)
    preprocessing = Preprocessing(modalities=("t2w", "adc"), spacing_mm=None, shape_dhw=(8, 16, 16))
    for arguments in ({**ARGUMENTS, "norm": "$1"}, {**ARGUMENTS, "norm": {"_target_": "x"}}):
        with pytest.raises(BadCheckpoint):
            get_architecture(encode_architecture_name("SegResNet", arguments, LAYERS, preprocessing))
    with pytest.raises(BadCheckpoint, match="is not a network"):
        get_architecture(encode_architecture_name("__builtins__", {}, LAYERS, preprocessing))


def test_what_is_missing_is_named_with_the_choices(tmp_path):
    folder = write(tmp_path, definition(), save(network().state_dict()))
    with pytest.raises(BadOption, match=r"no layer is named; choose from .*down_layers"):
        import_model([folder], "", [], INPUT, "bundle")
    with pytest.raises(BadOption, match=r"SegResNet has no submodule 'down'; choose from act_mod"):
        import_model([folder], "", ["down"], INPUT, "bundle")
    nothing = InputDescription((), None, None, "zscore_nonzero")
    with pytest.raises(BadOption, match=r"input.shape_dhw by --set \(its metadata state 2 channels"):
        import_model([folder], "", LAYERS, nothing, "bundle")
    one = InputDescription(("t2w",), None, (8, 16, 16), "zscore_nonzero")
    with pytest.raises(BadOption, match=r"the network does not take an input of \[1, 8, 16, 16\]"):
        import_model([folder], "", LAYERS, one, "bundle")
    with pytest.raises(BadOption, match="brings its own architecture"):
        import_model([folder], "profound_conv_micro", LAYERS, INPUT, "bundle")


def test_files_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    folder = write(tmp_path, definition())
    with pytest.raises(BadCheckpoint, match="TorchScript is code and is not read"):
        import_model([folder], "", LAYERS, INPUT, "bundle")
    (folder / "models" / "model.safetensors").write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises(BadCheckpoint, match="do not fit monai:"):
        import_model([folder], "", LAYERS, INPUT, "bundle")
    (folder / "configs" / "inference.json").write_text("[1")
    with pytest.raises(BadCheckpoint, match=r"configs/inference\.json cannot be read as JSON"):
        import_model([folder], "", LAYERS, INPUT, "bundle")
    (folder / "configs" / "metadata.json").unlink()
    (folder / "configs" / "inference.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"configs/metadata\.json does not exist"):
        import_model([folder], "", LAYERS, INPUT, "bundle")
