"""Public encoders: every family in the authors' forms against another implementation, and what is refused."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import (
    UNETR,
    SegResNet,
    SegResNetDS,
    SegResNetDS2,
    SegResNetVAE,
    SwinUNETR,
    ViT,
    ViTAutoEnc,
    resnet10,
    resnet18,
    resnet34,
    resnet50,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from vfmalign.core.domain.errors import BadCheckpoint, BadOption
from vfmalign.models.formats.families import FAMILIES
from vfmalign.models.importer import ImportedModel, InputDescription, import_model
from vfmalign.models.registry import ARCHITECTURES, get_architecture
from vfmalign.models.weights import build_encoder, random_state

State = dict[str, Tensor]
SHAPE = (32, 64, 96)
"""D, H, W: all different, so that a confused axis shows."""


def read(tmp_path: Path, content: object, name: str = "", shape: tuple[int, int, int] = SHAPE) -> ImportedModel:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.pth"  # never a file that an earlier result has mapped
    torch.save(content, path)
    return import_model([path], name, [], InputDescription(shape_dhw=shape), "model")


def resnet(make: Callable[..., nn.Module], **options: object) -> nn.Module:
    return make(spatial_dims=3, n_input_channels=1, feed_forward=False, conv1_t_stride=2, **options)


def vit(cls: type[nn.Module], **options: object) -> nn.Module:
    size = {"hidden_size": 128, "mlp_dim": 192, "num_heads": 2}
    return cls(in_channels=1, img_size=SHAPE[::-1], patch_size=(16, 16, 16), **size, **options)  # type: ignore[call-arg]


def swin(**options: object) -> nn.Module:
    return SwinUNETR(in_channels=1, out_channels=3, feature_size=12, **options)


def as_ssl(state: State) -> object:
    """The published weights of SwinUNETR's pretraining: a wrapper, a prefix, other names, and heads."""
    encoder = {name: tensor for name, tensor in state.items() if name.startswith("swinViT.")}
    renamed = {f"module.{n.removeprefix('swinViT.').replace('mlp.linear', 'mlp.fc')}": t for n, t in encoder.items()}
    heads = {"module.rotation_head.weight": torch.zeros(4, 4), "module.norm.weight": torch.zeros(4)}
    return {"state_dict": renamed | heads, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}


def as_medicalnet(state: State) -> object:
    counters = "num_batches_tracked"  # torch of that time had none
    return {"state_dict": {f"module.{n}": t for n, t in state.items() if counters not in n}, "optimizer": {"lr": 1}}


def as_backbone(state: State) -> object:
    return {"state_dict": {f"backbone.{name}": tensor for name, tensor in state.items()}}


def as_vista3d(state: State) -> object:
    heads = {"point_head.a.weight": torch.zeros(2), "class_head.b.weight": torch.zeros(2)}
    return {"model": {f"image_encoder.{name}": tensor for name, tensor in state.items()} | heads}


def keep(state: State) -> object:
    return state


SWIN = {"patch_embed": "swinViT.patch_embed"} | {f"layers{i}.0": f"swinViT.layers{i}.0" for i in range(1, 5)}
RESNET = {f"layer{i}": f"layer{i}" for i in range(1, 5)}
DOWN = {f"down_layers.{i}": f"down_layers.{i}" for i in range(4)}
DS = {f"layers.{i}.blocks": f"encoder.layers.{i}.blocks" for i in range(4)}
BLOCKS = {f"blocks.{i}": f"blocks.{i}" for i in range(2)}
VIT_OF_UNETR = {f"blocks.{i}": f"vit.blocks.{i}" for i in range(12)}

FORMS = {
    "SwinUNETR, SSL": ("swin_unetr", swin, as_ssl, SWIN),
    "SwinUNETR, whole": ("swin_unetr", lambda: swin(depths=(1, 2, 1, 1), num_heads=(2, 2, 4, 4)), keep, SWIN),
    "SwinUNETR, v2": ("swin_unetr", lambda: swin(use_v2=True), keep, SWIN),
    "ResNet-10": ("resnet", lambda: resnet(resnet10, bias_downsample=False), as_medicalnet, RESNET),
    "ResNet-18": ("resnet", lambda: resnet(resnet18, shortcut_type="A"), as_medicalnet, RESNET),
    "ResNet-34": ("resnet", lambda: resnet(resnet34, shortcut_type="A"), keep, RESNET),
    "ResNet-50": ("resnet", lambda: resnet(resnet50, bias_downsample=False), as_backbone, RESNET),
    "SegResNet": ("segresnet", lambda: SegResNet(init_filters=8), lambda state: {"net": state}, DOWN),
    "SegResNetVAE": ("segresnet", lambda: SegResNetVAE((96, 64, 32), init_filters=8), keep, DOWN),
    "SegResNet, batch norm": ("segresnet", lambda: SegResNet(init_filters=8, norm="batch"), keep, DOWN),
    "SegResNetDS": ("segresnet_ds", lambda: SegResNetDS(init_filters=8), keep, DS),
    "SegResEncoder": (
        "segresnet_ds",
        lambda: SegResNetDS(init_filters=8, resolution=(1, 1, 5)),
        lambda state: {n.removeprefix("encoder."): t for n, t in state.items() if n.startswith("encoder.")},
        DS,
    ),
    "VISTA3D": ("segresnet_ds", lambda: SegResNetDS2(init_filters=8, norm="instance"), as_vista3d, DS),
    "ViTAutoEnc": ("vit", lambda: vit(ViTAutoEnc, num_layers=2), lambda state: {"state_dict": state}, BLOCKS),
    "ViT, classifier": ("vit", lambda: vit(ViT, num_layers=2, classification=True, qkv_bias=True), keep, BLOCKS),
    "UNETR": (
        "vit",
        lambda: UNETR(1, 2, SHAPE[::-1], feature_size=4, hidden_size=128, mlp_dim=192, num_heads=2),
        keep,
        VIT_OF_UNETR,
    ),
}  # fmt: skip


def turn(map_NCDHW: Tensor, axes: str) -> Tensor:
    """Between S, P, L and R, A, S: back and forth, the same exchange of axes is undone by the same flips."""
    return map_NCDHW.flip(3, 4).permute(0, 1, 4, 3, 2) if axes == "RAS" else map_NCDHW


def turn_back(map_NCDHW: Tensor, axes: str) -> Tensor:
    return map_NCDHW.permute(0, 1, 4, 3, 2).flip(3, 4) if axes == "RAS" else map_NCDHW


@pytest.mark.parametrize("name", FORMS)
def test_the_features_are_those_of_the_authors_network(tmp_path: Path, name: str) -> None:
    family, make, save, layers = FORMS[name]
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    imported = read(tmp_path, save(net.state_dict()))
    assert imported.report.startswith(f"recognised as {family}: the file has ")
    assert [layer.name for layer in get_architecture(imported.architecture).layers] == list(layers)
    encoder = build_encoder(get_architecture(imported.architecture), imported.state)
    axes = FAMILIES[family].axes
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        input_NCDHW = torch.randn(1, 1, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(1))
        outputs: dict[str, Tensor] = {}
        hooks = [
            net.get_submodule(own).register_forward_hook(
                lambda m, i, o, key=key, outputs=outputs: outputs.__setitem__(key, o)
            )
            for key, own in layers.items()
        ]
        with torch.inference_mode():
            net.to(dtype)(turn(input_NCDHW, axes))
            maps = encoder.to(dtype).feature_maps(input_NCDHW)
        for hook in hooks:
            hook.remove()
        for layer, expected in outputs.items():
            if expected.ndim == 3:
                grid = [side // 16 for side in SHAPE[::-1]]
                tokens = expected.transpose(1, 2)
                expected = tokens.unflatten(2, grid) if "classifier" not in name else tokens[..., None, None]
            expected = turn_back(expected, axes) if "classifier" not in name else expected
            torch.testing.assert_close(maps[layer], expected, rtol=tolerance, atol=tolerance)


def test_only_the_encoder_is_kept_and_the_tensors_are_counted(tmp_path: Path) -> None:
    net = swin()
    whole, encoder = net.state_dict(), net.swinViT.state_dict()
    imported = read(tmp_path, whole)
    assert imported.state.keys() == {f"network.{name}" for name in encoder}
    assert dict(imported.tensors) == {"loaded": len(encoder), "dropped": len(whole) - len(encoder), "initialised": 0}
    tables = [name for name in whole if name.endswith("relative_position_index")]
    for name in tables:
        del whole[name]
    again = read(tmp_path, whole)
    assert again.tensors.initialised == len(tables)
    assert all(torch.equal(again.state[name], imported.state[name]) for name in imported.state)
    assert "the positions follow from the window" in again.report


def test_a_safetensors_file_of_a_family_is_recognised(tmp_path: Path) -> None:
    save_file(SegResNetDS(init_filters=8).state_dict(), tmp_path / "model.safetensors")
    imported = import_model([tmp_path / "model.safetensors"], "segresnet_ds", [], InputDescription(), "model")
    assert "recognised" not in imported.report  # the caller named it
    assert imported.preprocessing == FAMILIES["segresnet_ds"].input


def drop(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


REFUSED = {
    "a tensor is missing": (lambda: drop(swin().state_dict(), "swinViT.layers4.0.blocks.1.norm2.bias"), "",
                            r"missing network\.layers4\.0\.blocks\.1\.norm2\.bias"),
    "a tensor is unknown": (lambda: swin().state_dict() | {"swinViT.extra.weight": torch.zeros(2)}, "",
                            r"unexpected network\.extra\.weight"),
    "a shape differs": (lambda: swin().state_dict() | {"swinViT.layers2.0.blocks.0.norm1.weight": torch.zeros(5)}, "",
                        r"network\.layers2\.0\.blocks\.0\.norm1\.weight is \[5\] instead of \[24\]"),
    "an unknown depth": (lambda: resnet(resnet34, shortcut_type="A").state_dict()
                         | {"layer3.6.conv1.weight": torch.zeros(2)}, "",
                         r"does not fit resnet .*its stages have \[3, 4, 7, 3\] blocks, expected one of 10: \[1, 1,"),
    "another family": (lambda: SegResNet().state_dict(), "swin_unetr",
                       r"not a swin_unetr: expected tensors patch_embed\.proj\.weight and .*found convInit"),
    "no family": (lambda: {"weight": torch.zeros(3)}, "", r"belongs to no family of public encoders \(it has weight\)"),
    "no table of positions": (lambda: drop(
        swin().state_dict(), "swinViT.layers3.0.blocks.0.attn.relative_position_bias_table"), "",
        r"it has no layers3\.0\.blocks\.0\.attn\.relative_position_bias_table"),
    "a kernel of another rank": (lambda: swin().state_dict() | {"swinViT.patch_embed.proj.weight": torch.zeros(2, 2)},
                                 "", r"has the shape \[2, 2\], expected 5 axes"),
    "twice": (lambda: swin().state_dict() | {"swinViT.layers1.0.blocks.0.mlp.fc1.weight": torch.zeros(48, 12)}, "",
              r"two tensors of the file are layers1\.0\.blocks\.0\.mlp\.linear1\.weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_does_not_fit_is_refused_with_the_expected_one(tmp_path: Path, what: str) -> None:
    make, name, message = REFUSED[what]
    with pytest.raises((BadCheckpoint, BadOption), match=message) as caught:
        read(tmp_path, make(), name)
    assert caught.value.remedy
    assert str(tmp_path) not in str(caught.value)


def test_an_input_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"48 patches of \[16, 16, 16\] voxels|it has 48|is 48, expected a cube"):
        read(tmp_path, vit(ViTAutoEnc, num_layers=1).state_dict(), shape=(96, 96, 96))
    path = tmp_path / "model.pth"
    torch.save(swin().state_dict(), path)
    with pytest.raises(BadOption, match=r"does not take an input of \[2, 64, 64, 64\]"):
        import_model([path], "", [], InputDescription(("t1w", "t2w"), None, (64, 64, 64), "zscore_nonzero"), "model")
    with pytest.raises(BadOption, match="the layers of a public encoder follow from its family"):
        import_model([path], "", ["layers1.0"], InputDescription(), "model")


def test_foreign_pickles_and_truncated_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"pickled objects \(numpy.*expected tensors, numbers, text") as caught:
        read(tmp_path, {"state_dict": swin().state_dict(), "best": np.float64(0.5)})
    lines = caught.value.remedy.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["import", "state", "safetensors.torch.save_file({n:"]
    path = tmp_path / "model.pth"
    torch.save(swin().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadCheckpoint, match="damaged, truncated"):
        import_model([path], "", [], InputDescription(), "model")


def test_the_recipe_converts_a_refused_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = SegResNetDS(init_filters=8).state_dict()
    with pytest.raises(BadCheckpoint) as caught:
        read(tmp_path, {"state_dict": state, "best": np.float64(0.5)})
    code = caught.value.remedy.partition("\n")[2].replace('"FILE', '"0.pth')
    code = code.replace("weights_only=False)", 'weights_only=False)["state_dict"]')  # the entry with the weights
    exec(code, {})  # the three lines that users run elsewhere
    imported = import_model([tmp_path / "0.pth.safetensors"], "", [], InputDescription(shape_dhw=SHAPE), "model")
    assert imported.tensors.loaded == sum(name.startswith("encoder.") for name in state)


def test_files_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: opened.append(options["mmap"]) or load(file, **options))
    read(tmp_path, SegResNetDS(init_filters=8).state_dict())
    path = tmp_path / "old.pth"
    torch.save(SegResNetDS(init_filters=8).state_dict(), path, _use_new_zipfile_serialization=False)
    import_model([path], "", [], InputDescription(), "model")
    assert opened == [True, False]  # files of the first versions of torch cannot be mapped


def test_every_family_is_unverified_and_says_where_it_comes_from() -> None:
    assert not any(family.verified for family in FAMILIES.values())
    assert all(family.licence and family.source for family in FAMILIES.values())


# --- DINOv2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", ["s", "b", "l"])
def test_dinov2_on_slices_is_that_of_timm(tmp_path: Path, size: str, registers: int) -> None:
    timm = pytest.importorskip("timm")
    names = {"s": "small", "b": "base", "l": "large"}
    reg = f"_reg{registers}" if registers else ""
    torch.manual_seed(0)
    net = timm.create_model(f"vit_{names[size]}_patch14{reg}_dinov2", img_size=518, dynamic_img_size=True).eval()
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name or "gamma" in name else 0.0, 0.05)
    state = net.state_dict()
    if registers:  # timm has no position of the class token
        state["pos_embed"] = torch.cat((torch.zeros_like(state["cls_token"]), state["pos_embed"]), dim=1)
        state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, state["cls_token"].shape[-1])
    imported = read(tmp_path, state, shape=(2, 42, 56))
    assert imported.architecture == f"dinov2_vit{size}14{reg}"
    encoder = build_encoder(ARCHITECTURES[imported.architecture], imported.state)
    mean, sd = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        input_NCDHW = torch.rand(1, 1, 2, 42, 56, dtype=dtype, generator=torch.Generator().manual_seed(1))
        images = (input_NCDHW[0, 0, :, None].expand(-1, 3, -1, -1) - mean[:, None, None]) / sd[:, None, None]
        with torch.inference_mode():
            maps = encoder.to(dtype).feature_maps(input_NCDHW)
            final, expected = net.to(dtype).forward_intermediates(images.to(dtype))
        for i, map_SCHW in enumerate(expected):
            torch.testing.assert_close(maps[f"blocks.{i}"][0].transpose(0, 1), map_SCHW, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(maps["class_token"][0, :, :, 0, 0].T, final[:, 0], rtol=tolerance, atol=tolerance)


def test_dinov2_is_read_in_its_original_names_and_sizes(tmp_path: Path) -> None:
    state = {n.removeprefix("backbone."): t for n, t in random_state(ARCHITECTURES["dinov2_vits14"], 0).items()}
    imported = read(tmp_path, {"teacher": {f"backbone.{n}": t for n, t in state.items()}}, shape=(3, 28, 42))
    assert imported.architecture == "dinov2_vits14"
    assert imported.preprocessing.shape_dhw == (3, 28, 42)
    assert read(tmp_path, drop(state, "mask_token"), shape=(3, 28, 42)).tensors.initialised == 1
    with pytest.raises(BadOption, match=r"input of \[1, 3, 28, 40\].*a multiple of \[1, 14, 14\]"):
        read(tmp_path, state, shape=(3, 28, 40))
    with pytest.raises(BadCheckpoint, match=r"it has 384 channels × 11 blocks, expected one of 384 × 12, 768 × 12"):
        read(tmp_path, {name: tensor for name, tensor in state.items() if not name.startswith("blocks.11.")})
