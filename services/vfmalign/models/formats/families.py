"""Families of public encoders, as their authors publish them.

An entry of `FAMILIES` states how to read the checkpoints of one family. `family_import` needs no other code for a
family. No file of the authors was available when the entries were written: the names come from their loaders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from vfmalign.core.domain.models import Preprocessing
from vfmalign.models.formats.hooked_encoder import AXES

HEAD, DECODER = "a head; every check trains its own", "the decoder; features come from the encoder alone"
STALE = "unused tensors of earlier versions of MONAI"
COUNTERS = {r".*\.num_batches_tracked": "the counter of a norm starts at 0"}

Shapes = Mapping[str, Sequence[int]]
Dict = dict[str, object]


class Network(NamedTuple):
    """Network of a file: name in `monai.networks.nets` or `registry`, arguments, layers and removed submodules."""

    net: str
    arguments: Dict
    layers: Sequence[str] = ()
    without: Sequence[str] = ()


@dataclass(frozen=True)
class Family:
    """Family of public encoders. Patterns match whole names, without the prefix if they begin with one.

    Attributes:
        networks: short text that names the networks.
        keys: names of tensors that identify the family.
        prefixes: prefixes before the encoder's names, most specific first.
        describe: derives the network from the shapes of the encoder's tensors. Raises KeyError for a missing tensor and
            ValueError for an unknown size.
        input: default input. The user may change it.
        licence: SPDX id under which the authors publish their weights.
        source: where the authors publish the network or its weights.
        axes: directions of the axes of the network's input (`HookedEncoder`).
        renames: patterns of names and their replacements, applied in order.
        dropped: maps patterns of tensors that may be dropped to the reason.
        missing: maps patterns of tensors that may be missing and are then initialised to the reason.
        verified: whether a file of the authors was imported and compared with their implementation.
    """

    networks: str
    keys: Sequence[str]
    prefixes: Sequence[str]
    describe: Callable[[Shapes, Preprocessing], Network]
    input: Preprocessing
    licence: str
    source: str
    axes: str = AXES
    renames: Sequence[tuple[str, str]] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    verified: bool = False


# --- networks ---------------------------------------------------------------------------------------------------------


def _count(shapes: Shapes, pattern: str) -> int:
    """Returns how many values the group of a pattern has at the beginning of the names."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def _get(shapes: Shapes, name: str, axes: int) -> Sequence[int]:
    if len(shapes[name]) != axes or not all(shapes[name]):
        raise ValueError(f"{name} has the shape {list(shapes[name])}, expected {axes} axes")
    return shapes[name]


def _root(value: int, what: str) -> int:
    side: int = round(value ** (1 / 3))
    if side**3 != value:
        raise ValueError(f"{what} is {value}, expected a cube")
    return side


def _describe_swin(shapes: Shapes, _: Preprocessing) -> Network:
    width, channels, *patch = _get(shapes, "patch_embed.proj.weight", 5)
    stages = range(1, 5)
    tables = [_get(shapes, f"layers{i}.0.blocks.0.attn.relative_position_bias_table", 2) for i in stages]
    hidden = _get(shapes, "layers1.0.blocks.0.mlp.linear1.weight", 2)[0]
    arguments: Dict = {
        "in_chans": channels,
        "embed_dim": width,
        "window_size": [(_root(tables[0][0], "the number of relative positions") + 1) // 2] * 3,
        "patch_size": patch,
        "depths": [_count(shapes, rf"layers{i}\.0\.blocks\.(\d+)\.") for i in stages],
        "num_heads": [heads for _, heads in tables],
        "mlp_ratio": hidden / width,
        "qkv_bias": "layers1.0.blocks.0.attn.qkv.bias" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "use_v2": any(name.startswith("layers1c.") for name in shapes),
    }
    return Network("SwinTransformer", arguments, ["patch_embed", *(f"layers{i}.0" for i in stages)])


RESNETS = {(1, 1, 1, 1): "10", (2, 2, 2, 2): "18", (3, 4, 6, 3): "34", (3, 4, 6, 3, "bottleneck"): "50"}


def _describe_resnet(shapes: Shapes, _: Preprocessing) -> Network:
    stages = range(1, 5)
    blocks: tuple[int | str, ...] = tuple(_count(shapes, rf"layer{i}\.(\d+)\.") for i in stages)
    blocks += ("bottleneck",) if "layer1.0.conv3.weight" in shapes else ()
    if blocks not in RESNETS:
        known = "; ".join(f"{depth}: {list(key)}" for key, depth in RESNETS.items())
        raise ValueError(f"its stages have {list(blocks)} blocks, expected one of {known}")
    arguments: Dict = {
        "n_input_channels": _get(shapes, "conv1.weight", 5)[1],
        "conv1_t_stride": 2,  # shapes do not show it; the authors and MONAI's ResNetFeatures use 2
        "shortcut_type": "B" if "layer2.0.downsample.0.weight" in shapes else "A",
        "bias_downsample": "layer2.0.downsample.0.bias" in shapes,
        "feed_forward": False,
    }
    return Network(f"resnet{RESNETS[blocks]}", arguments, [f"layer{i}" for i in stages])


def _describe_segresnet(shapes: Shapes, _: Preprocessing) -> Network:
    filters, channels = _get(shapes, "convInit.conv.weight", 5)[:2]
    stages = range(_count(shapes, r"down_layers\.(\d+)\."))
    norm: object = ["group", {"num_groups": 8}] if "down_layers.0.1.norm1.weight" in shapes else "instance"
    arguments: Dict = {
        "init_filters": filters,
        "in_channels": channels,
        "norm": "batch" if "down_layers.0.1.norm1.running_mean" in shapes else norm,
        "blocks_down": [_count(shapes, rf"down_layers\.{i}\.(\d+)\.conv1\.") for i in stages],
        "blocks_up": [],
        "use_conv_final": False,
    }
    return Network("SegResNet", arguments, [f"down_layers.{i}" for i in stages], ["conv_final"])


def _describe_segresnet_ds(shapes: Shapes, _: Preprocessing) -> Network:
    filters, channels = _get(shapes, "conv_init.weight", 5)[:2]
    stages = range(_count(shapes, r"layers\.(\d+)\."))
    kernels = [_get(shapes, f"layers.{i}.blocks.0.conv1.weight", 5)[2:] for i in stages]
    arguments: Dict = {
        "init_filters": filters,
        "in_channels": channels,
        "norm": "batch" if "layers.0.blocks.0.norm1.running_mean" in shapes else "instance",
        "blocks_down": [_count(shapes, rf"layers\.{i}\.blocks\.(\d+)\.") for i in stages],
    }
    if any(1 in kernel for kernel in kernels):
        arguments["anisotropic_scales"] = [[min(side, 2) for side in kernel] for kernel in kernels]
    return Network("SegResEncoder", arguments, [f"layers.{i}.blocks" for i in stages])


def _describe_vit(shapes: Shapes, preprocessing: Preprocessing) -> Network:
    is_convolution = "patch_embedding.patch_embeddings.weight" in shapes
    channels, tokens = len(preprocessing.modalities), _get(shapes, "patch_embedding.position_embeddings", 3)[1]
    if is_convolution:
        width, channels, *patch = _get(shapes, "patch_embedding.patch_embeddings.weight", 5)
    else:
        width, values = _get(shapes, "patch_embedding.patch_embeddings.1.weight", 2)
        patch = [_root(values // channels, "the number of voxels of a patch")] * 3
    depth = _count(shapes, r"blocks\.(\d+)\.")
    is_classifier = "cls_token" in shapes
    d, h, w = preprocessing.network_shape_dhw
    if (w // patch[0]) * (h // patch[1]) * (d // patch[2]) != tokens:
        side = _root(tokens, "the number of patches")
        sizes = ",".join(str(side * step) for step in reversed(patch))
        raise ValueError(f"it has {tokens} patches of {patch} voxels; set input.shape_dhw={sizes}")
    arguments: Dict = {
        "in_channels": channels,
        "img_size": [w, h, d],
        "patch_size": patch,
        "hidden_size": width,
        "mlp_dim": _get(shapes, "blocks.0.mlp.linear1.weight", 2)[0],
        "num_layers": depth,
        "num_heads": max(1, width // 64),  # shapes do not show it; 64 channels per head, as in ViT-B and ViT-L
        "proj_type": "conv" if is_convolution else "perceptron",
        "classification": is_classifier,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
    }
    without = ["classification_head"] if is_classifier else []
    return Network("ViT", arguments, [f"blocks.{i}" for i in range(depth)], without)


DINOV2 = {(384, 12): "dinov2_vits14", (768, 12): "dinov2_vitb14", (1024, 24): "dinov2_vitl14"}


def _describe_dinov2(shapes: Shapes, _: Preprocessing) -> Network:
    size = (_get(shapes, "backbone.pos_embed", 3)[2], _count(shapes, r"backbone\.blocks\.(\d+)\."))
    if size not in DINOV2:
        known = ", ".join(f"{width} × {depth}" for width, depth in DINOV2)
        raise ValueError(f"it has {size[0]} channels × {size[1]} blocks, expected one of {known}")
    return Network(DINOV2[size] + ("_reg4" if "backbone.register_tokens" in shapes else ""), {})


_input = partial(Preprocessing, modalities=("input",), spacing_mm=(1.0, 1.0, 1.0), shape_dhw=(96, 96, 96))
_ct = partial(_input, modalities=("ct",), normalisation="window")

FAMILIES: dict[str, Family] = {
    "swin_unetr": Family(
        networks="SwinUNETR and its SSL encoder, any size, v1 or v2",
        keys=("patch_embed.proj.weight", "layers1.0.blocks.0.attn.qkv.weight"),
        prefixes=("swinViT.", "swin_vit.", "encoder.", "backbone.", ""),
        describe=_describe_swin,
        input=_ct(spacing_mm=(2.0, 1.5, 1.5), window=(-175.0, 250.0)),
        licence="Apache-2.0",
        source="github.com/Project-MONAI/research-contributions/tree/main/SwinUNETR",
        axes="RAS",
        renames=((r"\.mlp\.fc([12])\.", r".mlp.linear\1."),),
        dropped={
            r"(decoder\d|encoder(\d|10))\..*": DECODER,
            r"(out|norm|conv|head|rotation_\w+|contrastive_\w+|proj\w*)\..*": HEAD,
        },
        missing={r".*\.relative_position_index": "the positions follow from the window"},
    ),
    "resnet": Family(
        networks="ResNet-10, 18, 34 and 50 with a stem of stride 2 (MedicalNet)",
        keys=("conv1.weight", "layer1.0.conv1.weight", "layer4.0.bn1.running_mean"),
        prefixes=("", "backbone.", "encoder."),
        describe=_describe_resnet,
        input=_input(shape_dhw=(128, 128, 128)),
        licence="MIT",
        source="github.com/Tencent/MedicalNet",
        axes="RAS",
        dropped={r"(fc|conv_seg|head|classifier)\..*": HEAD},
        missing=COUNTERS,
    ),
    "segresnet": Family(
        networks="SegResNet and SegResNetVAE, any size",
        keys=("convInit.conv.weight", "down_layers.0.1.conv1.conv.weight"),
        prefixes=("", "backbone.", "encoder."),
        describe=_describe_segresnet,
        input=_input(shape_dhw=(128, 128, 128)),
        licence="Apache-2.0",
        source="github.com/Project-MONAI/model-zoo",
        axes="RAS",
        dropped={r"(up_layers|up_samples|conv_final|vae_\w+)\..*": DECODER},
        missing=COUNTERS,
    ),
    "segresnet_ds": Family(
        networks="SegResNetDS, SegResNetDS2 and SegResEncoder, any size (CT-FM, VISTA3D)",
        keys=("conv_init.weight", "layers.0.blocks.0.conv1.weight"),
        prefixes=("image_encoder.encoder.", "encoder.", "backbone.", ""),
        describe=_describe_segresnet_ds,
        input=_ct(spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(32, 128, 128), window=(-1024.0, 2048.0)),
        licence="Apache-2.0",
        source="huggingface.co/project-lighter",
        dropped={
            r"(image_encoder\.)?up_layers\w*\..*": DECODER,
            r"(head|head_module|point_head|class_head|projector)\..*": HEAD,
        },
        missing=COUNTERS,
    ),
    "vit": Family(
        networks="MONAI's ViT, any size with 64 channels per head (ViTAutoEnc, UNETR)",
        keys=("patch_embedding.position_embeddings", "blocks.0.attn.qkv.weight"),
        prefixes=("vit.", "backbone.", "encoder.", ""),
        describe=_describe_vit,
        input=_ct(spacing_mm=(2.0, 2.0, 2.0), window=(-57.0, 164.0)),
        licence="Apache-2.0",
        source="github.com/Project-MONAI/tutorials/tree/main/self_supervised_pretraining",
        axes="RAS",
        dropped={
            r"(conv3d_transpose\w*|decoder\d|encoder\d|out)\..*": DECODER,
            r"classification_head\..*": HEAD,
            r"blocks\.\d+\.cross_attn\..*": STALE,
        },
        missing={r"blocks\.\d+\.norm_cross_attn\..*": "the norm is not used"},
    ),
    "dinov2": Family(
        networks="DINOv2 ViT-S/14, B/14 and L/14 on slices, with and without registers",
        keys=("pos_embed", "patch_embed.proj.weight", "blocks.0.ls1.gamma"),
        prefixes=("backbone.", "encoder.", ""),
        describe=_describe_dinov2,
        input=_input(spacing_mm=(3.0, 1.0, 1.0), shape_dhw=(32, 224, 224), normalisation="quantile_range"),
        licence="Apache-2.0",
        source="github.com/facebookresearch/dinov2",
        renames=((r"^", "backbone."),),
        dropped={r"backbone\.((dino_|ibot_)?head|linear_head)\..*": HEAD},
        missing={r"backbone\.mask_token": "only the pretraining uses it"},
    ),
}
