"""Checkpoints of convolution stacks: what is derived, dropped and rejected, and the published encoders themselves."""

import io
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from vfmalign.core.domain.errors import BadCheckpoint, BadOption, NotFound
from vfmalign.models.cards import load_encoder, publish
from vfmalign.models.formats.stack_checkpoint import (
    ALIASES,
    AUTOENCODER_DILATIONS,
    DEFAULT_INPUT,
    FAMILY,
    PREFIX,
    decode_stack_name,
)
from vfmalign.models.importer import InputDescription, import_model
from vfmalign.models.registry import get_architecture
from vfmalign.models.weights import build_encoder, random_state

SHARED = Path(__file__).parents[4].parent / "shared" / "data" / "brain-encoders"
INPUT = InputDescription((), None, (16, 16, 16))
KEYS = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 23, 25, 27, 29, 31, 33]
DILATIONS = {0: 1, 2: 2, 4: 4, 6: 6, 8: 8, 10: 1, 12: 10, 14: 12, 16: 16, 18: 12, 20: 10}
DILATIONS |= {23: 8, 25: 6, 27: 4, 29: 2, 31: 1}


def forward_autoencoder(p: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """Maps of the dilated autoencoder before its head, from the published description alone."""
    maps = []
    for key in KEYS[:-1]:
        weight, bias = p[f"{key}.weight"], p[f"{key}.bias"]
        if key == 22:
            x = functional.conv_transpose3d(x, weight, bias, stride=2)
        else:
            d = DILATIONS[key]
            x = functional.silu(functional.conv3d(x, weight, bias, stride=2 if key == 10 else 1, padding=d, dilation=d))
        maps.append(x)
    return maps


def forward_meshnet(p: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """Maps of MeshNet before its head, from the published description alone."""
    maps = []
    for i in range(len([name for name in p if name.endswith(".0.weight")])):
        d = (16, 8, 4, 2, 1)[i % 5]
        x = functional.gelu(
            functional.instance_norm(functional.conv3d(x, p[f"model.{i}.0.weight"], padding=d, dilation=d))
        )
        maps.append(x)
    return maps


def make_autoencoder_state(widths=(2, 3)) -> dict[str, torch.Tensor]:
    narrow, wide = widths
    state, width = {}, 1
    for i, key in enumerate(KEYS):
        channels = wide if 5 <= i < 11 else 3 if key == 33 else narrow
        kernel = {22: 2, 33: 1}.get(key, 3)
        shape = (width, channels) if key == 22 else (channels, width)
        state[f"{key}.weight"] = torch.randn(*shape, kernel, kernel, kernel) / (width * kernel**3) ** 0.5
        state[f"{key}.bias"] = torch.randn(channels)
        width = channels
    return state


def make_meshnet_state(cycles=2, width=3) -> dict[str, torch.Tensor]:
    state = {f"model.{i}.0.weight": torch.randn(width, width if i else 1, 3, 3, 3) for i in range(5 * cycles)}
    return state | {
        f"model.{5 * cycles}.weight": torch.randn(2, width, 1, 1, 1),
        f"model.{5 * cycles}.bias": torch.randn(2),
    }


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


FORWARDS = {"dilated_autoencoder": forward_autoencoder, "meshnet": forward_meshnet}


@pytest.mark.parametrize(
    ("family", "state", "head", "compared"),
    [
        ("dilated_autoencoder", make_autoencoder_state(), "33", [4, 8, 10, 13, 16]),
        ("meshnet", make_meshnet_state(), "model.10", [4, 9]),
    ],
    ids=["dilated_autoencoder", "meshnet"],
)
def test_a_small_checkpoint_of_a_family_becomes_its_encoder(tmp_path, family, state, head, compared):
    imported = import_model([save(tmp_path / "net.pth", state)], family, [], INPUT, "net")
    architecture = get_architecture(imported.architecture)
    encoder = build_encoder(architecture, imported.state)
    x = torch.rand(2, 1, 16, 16, 16)
    with torch.inference_mode():
        maps, expected = encoder.feature_maps(x), FORWARDS[family](state, x)
    assert [layer.name for layer in architecture.layers] == [f"layers.{i}" for i in compared]
    assert architecture.primary_layer == f"layers.{len(expected) - 1}"
    for i in compared:
        assert torch.allclose(maps[f"layers.{i}"], expected[i], rtol=1e-6, atol=1e-6)
    assert f"dropped {head}.weight, {head}.bias (a task's head; every check trains its own)" in imported.report
    assert architecture.preprocessing.modalities == ("input",)
    assert architecture.preprocessing.normalisation == "quantile_range"
    assert '"initialisation":"layer_sequential_unit_variance"' in architecture.name


@pytest.mark.parametrize("file", ["sae_robust_tissue", "sae_big_robust_tissue", "meshnet_mindgrab"])
def test_the_published_brain_encoders_agree_with_a_plain_forward_pass(file):
    path = SHARED / f"{file}.pth"
    if not path.exists():
        pytest.skip("the published encoders are not beside this checkout")
    family = "meshnet" if "meshnet" in file else "dilated_autoencoder"
    imported = import_model([path], family, [], InputDescription(("t1w",), None, (32, 32, 32)), file)
    encoder = build_encoder(get_architecture(imported.architecture), imported.state)
    state = torch.load(path, weights_only=True, map_location="cpu")
    torch.manual_seed(0)
    x = functional.interpolate(torch.rand(1, 1, 8, 8, 8), size=(32, 32, 32), mode="trilinear")
    with torch.inference_mode():
        maps, expected = encoder.feature_maps(x), FORWARDS[family](state, x)
    *_, last = (name for name in maps if name != "pooled")
    assert last == f"layers.{len(expected) - 1}"
    for name, map_NCDHW in maps.items():
        if name != "pooled":
            reference = expected[int(name.removeprefix("layers."))]
            assert (map_NCDHW - reference).abs().max() <= 1e-6 * reference.abs().max()
    head = {name: t for name, t in state.items() if name.rpartition(".")[0] in {"33", "model.25"}}
    kept = sum(tensor.numel() for tensor in imported.state.values())
    assert kept == sum(tensor.numel() for tensor in state.values()) - sum(t.numel() for t in head.values())


def test_a_window_replaces_the_quantiles_of_a_stack():
    described = InputDescription(("ct",), None, None, "window", window=(-160.0, 240.0))
    preprocessing = described.adjust(DEFAULT_INPUT)
    assert (preprocessing.window, preprocessing.quantiles, preprocessing.reference) == ((-160.0, 240.0), None, "ct")
    with pytest.raises(BadOption, match="two bounds in HU are required for the normalisation window") as caught:
        InputDescription(("ct",), None, None, "window").adjust(DEFAULT_INPUT)
    assert "such as -160 and 240" in caught.value.remedy


def test_a_description_imports_any_stack_and_is_published_on_the_card(tmp_path, store):
    net = nn.Sequential(nn.Conv3d(2, 4, 5, padding=4, dilation=2), nn.ReLU(), nn.Conv3d(4, 8, 2, 2), nn.ELU())
    content = {
        "layers": [
            {"channels": 4, "kernel": 5, "dilation": 2, "activation": "relu"},
            {"channels": 8, "kernel": 2, "stride": 2, "activation": "elu"},
        ]
    }
    (tmp_path / "net.json").write_text(json.dumps(content))
    described = InputDescription(("t1w", "flair"), (2.0, 2.0, 2.0), (8, 8, 8), "zscore_nonzero")
    path = save(tmp_path / "net.pth", net.state_dict())
    imported = import_model([path], FAMILY, [], described, "net", description=tmp_path / "net.json")
    published = publish(
        store, "net", imported.state, architecture=imported.architecture, objective="supervised",
        preprocessing=imported.preprocessing,
    )  # fmt: skip
    encoder, card = load_encoder(store, "net")
    assert card == published
    assert card.architecture.startswith(PREFIX)
    assert card.preprocessing.modalities == ("t1w", "flair")
    assert card.preprocessing.reference == "t1w"
    assert [(layer.name, layer.channels) for layer in card.layers] == [("layers.0", 4), ("layers.1", 8)]
    x = torch.rand(1, 2, 8, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(encoder.feature_maps(x)["layers.1"], net(x), rtol=1e-6, atol=1e-6)
    again = random_state(decode_stack_name(card.architecture), 3)
    assert again.keys() == imported.state.keys()
    assert all(
        torch.equal(again[name], value) for name, value in random_state(get_architecture(card.architecture), 3).items()
    )


def test_an_encoders_own_weights_are_read_back(tmp_path):
    imported = import_model([save(tmp_path / "a.pth", make_meshnet_state())], "meshnet", [], INPUT, "net")
    path = save(tmp_path / "own.pth", imported.state)
    (tmp_path / "net.json").write_text(imported.architecture.removeprefix(PREFIX))
    again = import_model([path], FAMILY, [], InputDescription((), None, None), "net", description=tmp_path / "net.json")
    assert again.architecture == imported.architecture
    assert all(torch.equal(again.state[name], value) for name, value in imported.state.items())


def test_the_names_for_pretraining_stand_for_the_published_widths():
    for name in ALIASES:
        architecture = get_architecture(name)
        assert architecture.name.startswith(PREFIX)
        assert architecture.preprocessing == DEFAULT_INPUT
        assert get_architecture(architecture.name) == architecture
    weights = sum(p.numel() for p in get_architecture("dilated_autoencoder").build_empty().parameters())
    assert weights == 219_219 - 3 * 16 - 3
    assert len(AUTOENCODER_DILATIONS) == 17


def without(state: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in names}


@pytest.mark.parametrize(
    ("family", "state", "says"),
    [
        ("meshnet", make_autoencoder_state(), "its 18 convolutions do not match meshnet"),
        ("dilated_autoencoder", make_meshnet_state(), "its 11 convolutions do not match dilated_autoencoder"),
        ("meshnet", without(make_meshnet_state(), "model.9.0.weight"), "its 10 convolutions do not match meshnet"),
        ("meshnet", {"weight": torch.ones(3)}, "no weights of 3D convolutions"),
        ("meshnet", {"a.kernel": torch.ones(1, 1, 3, 3, 3)}, "no weights of 3D convolutions"),
        ("meshnet", make_meshnet_state() | {"model.0.1.weight": torch.ones(3)}, "unexpected model.0.1.weight"),
        ("meshnet", make_meshnet_state() | {"model.0.1.running_mean": torch.ones(3)}, "uses batch normalisation"),
        (
            "dilated_autoencoder",
            make_autoencoder_state() | {"4.weight": torch.randn(2, 5, 3, 3, 3)},
            r"wrong shape: layers.2.convolution.weight is \[2, 5, 3, 3, 3\] instead of \[2, 2, 3, 3, 3\]",
        ),
        (
            "dilated_autoencoder",
            make_autoencoder_state() | {"4.weight": torch.full((2, 2, 3, 3, 3), torch.nan)},
            "NaN or infinity in layers.2.convolution.weight",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_rejected_with_a_remedy(tmp_path, family, state, says):
    with pytest.raises(BadCheckpoint, match=says) as caught:
        import_model([save(tmp_path / "net.pth", state)], family, [], INPUT, "net")
    assert caught.value.remedy
    assert caught.value.subject == "net"


def test_a_checkpoint_that_is_no_state_dict_is_rejected(tmp_path):
    buffer = io.BytesIO()
    torch.save(nn.Conv3d(1, 1, 1), buffer)
    (tmp_path / "net.pth").write_bytes(buffer.getvalue())
    with pytest.raises(BadCheckpoint, match="never unpickled"):
        import_model([tmp_path / "net.pth"], "meshnet", [], INPUT, "net")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "not a JSON object"),
        ("{", "cannot be read as JSON"),
        ('{"layers": [], "input": 3}', "not a JSON object, or its `input`"),
        ('{"layers": []}', "layers: Tuple should have at least 1"),
        ('{"layers": [{"channels": 1, "dilation": 99}]}', "layers.0.dilation: Input should be less than"),
        ('{"layers": [{"channels": 1, "stride": 5}]}', "not multiples of the stride 5"),
        ('{"layers": [{"channels": 1}], "surprise": 1}', "surprise: Extra inputs"),
    ],
)
def test_a_malformed_description_is_rejected_with_a_remedy(tmp_path, text, says):
    (tmp_path / "net.json").write_text(text)
    path = save(tmp_path / "net.pth", make_meshnet_state())
    with pytest.raises(BadOption, match=says) as caught:
        import_model([path], FAMILY, [], INPUT, "net", description=tmp_path / "net.json")
    assert caught.value.remedy
    assert caught.value.field == "description"


def test_options_that_do_not_belong_together_are_rejected(tmp_path):
    path, file = save(tmp_path / "net.pth", make_meshnet_state()), tmp_path / "net.json"
    with pytest.raises(BadOption, match="needs a description"):
        import_model([path], FAMILY, [], INPUT, "net")
    with pytest.raises(BadOption, match="no other model may have one"):
        import_model([path], "meshnet", [], INPUT, "net", description=file)
    with pytest.raises(NotFound, match="the file does not exist"):
        import_model([path], FAMILY, [], INPUT, "net", description=file)
    with pytest.raises(BadOption, match="leave out --layers"):
        import_model([path], "meshnet", ["layers.0"], INPUT, "net")
    ae = save(tmp_path / "ae.pth", make_autoencoder_state())
    with pytest.raises(BadOption, match="not multiples of the stride 2"):
        import_model([ae], "dilated_autoencoder", [], InputDescription((), None, (15, 16, 16)), "net")
    with pytest.raises(BadOption, match=r"the input is not valid: modalities\[0\]: not a valid id; use a lower"):
        import_model([path], "meshnet", [], InputDescription(("T1 w",), None, None), "net")


@pytest.mark.parametrize(
    "name", [PREFIX, f"{PREFIX}{{}}", f'{PREFIX}{{"layers":[{{"channels":1e9}}]}}', f"{PREFIX}[1]"]
)
def test_names_that_encode_no_stack_are_rejected(name):
    with pytest.raises(BadOption, match="correct the description"):
        get_architecture(name)
