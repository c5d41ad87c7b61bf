"""Exported programs equal the original module, and hostile archives are rejected without executing code."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from vfmalign.core.domain.errors import BadCheckpoint, BadOption
from vfmalign.models.cards import load_encoder, publish_program
from vfmalign.models.formats.exported_program import ARCHITECTURE, build_exported
from vfmalign.models.formats.program_archive import read_program
from vfmalign.models.importer import InputDescription, import_model
from vfmalign.models.registry import ARCHITECTURES, get_architecture
from vfmalign.models.weights import parse_weights, random_state, to_safetensors

SHAPE = (1, 2, 8, 16, 16)


class Small(nn.Module):
    """A convolution, a block, a batch norm, a split and a concatenation; tensors beside the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2, 8, 4, 4)
        self.block = nn.Sequential(nn.Conv3d(8, 8, 3, padding=1), nn.GELU(), nn.BatchNorm3d(8))
        self.register_buffer("shift", torch.arange(8.0).reshape(1, 8, 1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second = self.stem(x).chunk(2, dim=1)
        mixed = torch.cat((second, first), dim=1) + self.shift
        deep = nn.functional.leaky_relu(self.block(mixed), 0.2)
        return {"deep": deep, "vector": deep.mean((2, 3, 4)).clamp(min=float("-inf"))}


def export(module: nn.Module, *shape: int) -> bytes:
    buffer = io.BytesIO()
    program = torch.export.export(module.eval(), (torch.randn(*shape),))
    torch.export.save(program, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def module() -> Small:
    torch.manual_seed(0)
    small = Small()
    small.block[2].running_mean.normal_()
    return small.eval()


@pytest.fixture(scope="module")
def archive(module) -> bytes:
    return export(module, *SHAPE)


def edited(archive: bytes, change=lambda model: None, files=None, drop=()) -> bytes:
    """The archive with its graph changed, with further files, or without some."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        names = {info.filename: old.read(info) for info in old.infolist()}
        root = next(iter(names)).split("/")[0]
        for name, data in {**names, **{f"{root}/{k}": v for k, v in (files or {}).items()}}.items():
            if name.endswith("models/model.json"):
                model = json.loads(data)
                change(model)
                data = json.dumps(model).encode()
            if not name.endswith(tuple(drop)) or not drop:
                new.writestr(name, data)
    return out.getvalue()


def nodes(model):
    return model["graph_module"]["graph"]["nodes"]


# --- equal to the module ----------------------------------------------------------------------------------------------


def test_a_program_gives_what_its_module_gives(module, archive, store):
    state = read_program(archive, ["stem", "block", "block.1"], "x")
    encoder = build_exported(parse_weights(to_safetensors(state), "x"), "x")
    input_NCDHW = torch.randn(3, *SHAPE[1:])
    with torch.inference_mode():
        stem = module.stem(input_NCDHW)
        mixed = torch.cat((stem[:, 4:], stem[:, :4]), dim=1) + module.shift
        maps = encoder.feature_maps(input_NCDHW)
        expected_maps = {"stem": stem, "block": module.block(mixed), "block.1": module.block[:2](mixed)}
    for layer, expected in expected_maps.items():
        assert (maps[layer] - expected).abs().max() <= 1e-5 * expected.abs().max(), layer
    assert encoder.layer_channels() == {"stem": 8, "block": 8, "block.1": 8, "pooled": 8}
    assert list(encoder.dense_layers()) == ["stem", "block", "block.1"]
    assert encoder.dense_layers()["stem"] == (4, 4, 4)


def test_the_outputs_are_the_layers_where_none_is_named(module, archive):
    encoder = build_exported(read_program(archive, [], "x"), "x")
    input_NCDHW = torch.randn(*SHAPE)
    with torch.inference_mode():
        expected, maps = module(input_NCDHW), encoder.feature_maps(input_NCDHW)
    deep, vector = encoder.layer_names()
    assert (maps[deep] - expected["deep"]).abs().max() <= 1e-5 * expected["deep"].abs().max()
    assert (maps[vector][:, :, 0, 0, 0] - expected["vector"]).abs().max() <= 1e-5
    assert list(encoder.dense_layers()) == [deep]


@pytest.mark.parametrize("name", ["profound_vit_micro", "provicnet_micro"])
def test_whole_encoders_survive_the_way_through_an_archive(name):
    architecture = ARCHITECTURES[name]
    encoder = architecture.build()
    encoder.load_state_dict(random_state(architecture, 1))
    shape = (1, encoder.in_channels, *architecture.preprocessing.shape_dhw)
    program = build_exported(read_program(export(encoder, *shape), [], "x"), "x")
    input_NCDHW = torch.randn(2, *shape[1:])
    with torch.inference_mode():
        expected = encoder(input_NCDHW)
        assert (program(input_NCDHW) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_program_is_published_and_loaded_back(archive, store, tmp_path):
    (tmp_path / "model.pt2").write_bytes(archive)
    described = InputDescription(("t2w", "adc"), (3.0, 1.0, 1.0), None, "zscore_nonzero")
    imported = import_model([tmp_path / "model.pt2"], "", ["block"], described, "x")
    assert imported.preprocessing.shape_dhw == (8, 16, 16)
    assert "its sample inputs were not read" in imported.report
    options = {"preprocessing": imported.preprocessing, "objective": "supervised"}
    card = publish_program(store, "a-program", imported.state, **options)
    encoder, loaded = load_encoder(store, "a-program")
    assert loaded == card
    assert (card.architecture, card.primary_layer) == (ARCHITECTURE, "block")
    input_NCDHW = torch.randn(*SHAPE)
    with torch.inference_mode():
        assert torch.equal(encoder(input_NCDHW), build_exported(imported.state, "x")(input_NCDHW))
    with pytest.raises(BadOption, match="has no initial weights"):
        get_architecture(card.architecture)
    narrow = imported.preprocessing.model_copy(update={"modalities": ("t2w",)})
    with pytest.raises(BadOption, match=r"the program takes an input of \[2, 8, 16, 16\]"):
        publish_program(store, "narrow", imported.state, preprocessing=narrow, objective="supervised")
    with pytest.raises(BadOption, match="the program has no layer 'stem'"):
        publish_program(store, "other", imported.state, primary_layer="stem", **options)


def test_an_unknown_layer_is_named_with_the_choices(archive):
    with pytest.raises(BadOption, match=r"no value 'stages.9'; choose from its submodules \(stem, block, block.0"):
        read_program(archive, ["stages.9"], "x")


# --- hostile archives -------------------------------------------------------------------------------------------------


class Payload:
    """Unpickling this would run a command that leaves a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_pickles_are_never_read(archive, tmp_path):
    marker = tmp_path / "executed"
    payload = pickle.dumps(Payload(str(marker)))
    pickle.loads(payload)  # it does work where it is unpickled …
    assert marker.exists()
    marker.unlink()
    hostile = edited(archive, files={"data/sample_inputs/model.pt": payload, "data/constants/opaque_obj_0": payload})
    build_exported(read_program(hostile, [], "x"), "x")  # … and is not even opened

    def pickled(name):
        config = json.loads(dict(_files(archive))[name])
        for one in config["config"].values():
            one["use_pickle"] = True
        return json.dumps(config).encode()

    name = "data/weights/model_weights_config.json"
    files = {name: pickled(name), "data/weights/weight_0": payload}
    with pytest.raises(BadCheckpoint, match=r"the weight 'stem\.weight' is pickled"):
        read_program(edited(archive, files=files), [], "x")
    assert not marker.exists()


def _files(archive: bytes):
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        return [(info.filename.partition("/")[2], old.read(info)) for info in old.infolist()]


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system",
        "_operator.attrgetter",
        "math.exp",
        "torch.ops.higher_order.cond",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten._print.default",
        "torch.ops.aten.set_.source_Tensor",
        "torch.ops.aten.no_such_operator.default",
        "torch.ops.prim.Print.default",
        "torch.ops.aten.relu.default.__init__.__globals__",
    ],
)
def test_only_plain_operators_are_called(archive, target):
    def change(model):
        nodes(model)[0]["target"] = target

    with pytest.raises(BadCheckpoint, match=r"the graph calls|this torch has no operator"):
        read_program(edited(archive, change), [], "x")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"as_string": "/etc/passwd"}, "'stride' is 'as_string'"),
        ({"as_operator": "os.system"}, "'stride' is 'as_operator'"),
        ({"as_sym_int": {"as_expr": {"expr_str": "__import__('os').system('true')"}}}, "'stride' is 'as_sym_int'"),
        ({"as_custom_obj": {"name": "x", "class_fqn": "y"}}, "'stride' is 'as_custom_obj'"),
        ({"as_tensor": {"name": "never_made"}}, "'stride' is 'as_tensor'"),
        ({"as_ints": ["4"]}, "'stride' is 'as_ints'|does not follow torch's schema"),
    ],
)
def test_only_plain_values_are_passed(archive, argument, message):
    def change(model):
        nodes(model)[0]["inputs"][3]["arg"] = argument

    assert_refused(edited(archive, change), message)


def test_shapes_are_fixed_numbers(archive):
    def change(model):
        values = model["graph_module"]["graph"]["tensor_values"]
        values["x"]["sizes"][0] = {"as_expr": {"expr_str": "__import__('os').system('true')"}}

    assert_refused(edited(archive, change), "not an \\(N, C, D, H, W\\) tensor of fixed size")


def test_weights_are_as_large_as_their_bytes(archive):
    name = "data/weights/model_weights_config.json"
    config = json.loads(dict(_files(archive))[name])
    meta = config["config"]["stem.bias"]["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 2**40}], [{"as_int": 0}]
    assert_refused(edited(archive, files={name: json.dumps(config).encode()}), "is larger than its bytes")
    meta["sizes"], meta["strides"] = [{"as_int": 8}], [{"as_int": 2**20}]
    assert_refused(edited(archive, files={name: json.dumps(config).encode()}), "does not follow torch's schema")


def test_weights_that_the_graph_changes_are_refused(archive):
    def change(model):
        nodes(model)[0]["target"] = "torch.ops.aten.relu_.default"
        nodes(model)[0]["inputs"] = [{"name": "self", "arg": {"as_tensor": {"name": "p_stem_weight"}}, "kind": 1}]

    assert_refused(edited(archive, change), "changes a weight")


def test_a_program_that_cannot_run_is_refused(archive):
    def change(model):
        nodes(model)[0]["inputs"][3]["arg"] = {"as_ints": [0, 0, 0]}

    assert_refused(edited(archive, change), "the program does not run")


@pytest.mark.parametrize("drop", ["models/model.json", "model_weights_config.json", "weight_0"])
def test_missing_files_are_refused(archive, drop):
    assert_refused(
        edited(archive, drop=(drop,)), "the archive has no|is not in the archive|does not follow torch's schema"
    )


def test_other_files_are_refused(archive):
    assert_refused(b"", "cannot be read as an archive")
    assert_refused(archive[: len(archive) // 2], "cannot be read as an archive")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("x/models/model.json", b"0" * 10_000)
    assert_refused(out.getvalue(), "the archive is compressed")


def assert_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message) as caught:
        read_program(data, [], "upload")
    assert "export the encoder alone with torch 2.9 or later" in str(caught.value)
