"""Runs an encoder over prepared studies.

Computes in float32 with deterministic kernels, without autocast or TF32. Features before and after fine-tuning thus
differ only because of the weights.

Legend: N: studies. C: channels. D, H, W: depth, height and width of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vfmalign.client.messages.features import Pooling
from vfmalign.core.domain.errors import BadOption, Exhausted
from vfmalign.core.domain.patches import Extent, Shape, weigh_patches
from vfmalign.imaging.preprocessing import PreparedStudy
from vfmalign.models.encoder import Encoder, pool_volume, whole_volumes
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import build_encoder, random_state


@dataclass(frozen=True, eq=False)
class PreparedInput:
    """Input of a study. The fields are those of `PreparedStudy`."""

    input_CDHW: Tensor
    slices: tuple[int, int]
    image: Extent


def check_layers(encoder: Encoder, layers: Sequence[str]) -> None:
    """Raises BadOption if the encoder does not have a layer, or if a layer is listed twice."""
    known = encoder.layer_channels()
    for layer in layers:
        if layer not in known:
            raise BadOption(
                f"the model has no layer {layer[:64]!r}", field="layers", remedy=f"choose from {', '.join(known)}"
            )
    if len(set(layers)) != len(layers):
        raise BadOption("a layer is listed twice", field="layers", remedy="list each layer once")


def extract(
    encoder: Encoder,
    input_NCDHW: Tensor,
    layers: Sequence[str],
    pooling: Pooling,
    slices_N2: Tensor | None = None,
) -> dict[str, Tensor]:
    """Extracts the features of prepared studies.

    Up to float32 rounding, a study's features do not depend on the batch. On a CPU, a forward pass processes at most
    `Encoder.studies_at_once` studies.

    Args:
        encoder: encoder in evaluation mode. The features are computed on the encoder's device.
        input_NCDHW: prepared studies, float32.
        layers: names of `Encoder.layer_channels`.
        pooling: `mean` over space without padded slices, or `none` for whole feature maps.
        slices_N2: index of the first slice and number of slices of each study (see `models.encoder`); None for whole
            volumes without padding.

    Returns:
        A float32 tensor on the CPU for each layer, in the order of `layers`. The tensor has the shape (N, C) with
        `mean` and (N, C, D, H, W) with `none`. The layer `pooled` always has the shape (N, C).

    Raises:
        BadOption: a layer is unknown.
        Exhausted: the batch does not fit into the device's memory.
    """
    check_layers(encoder, layers)
    device = next(encoder.parameters()).device
    size = encoder.studies_at_once if device.type == "cpu" else len(input_NCDHW)
    if slices_N2 is None:
        slices_N2 = whole_volumes(len(input_NCDHW), input_NCDHW.shape[2])
    batches = zip(torch.split(input_NCDHW, size), torch.split(slices_N2, size), strict=True)
    try:
        parts = [_forward(encoder, batch.to(device), layers, pooling, slices) for batch, slices in batches]
    except torch.OutOfMemoryError as error:
        raise Exhausted(
            f"{len(input_NCDHW)} studies of shape {list(input_NCDHW.shape[1:])} do not fit into the memory of {device}",
            remedy="set a smaller VFMALIGN_FEATURES__BATCH_SIZE, or use a larger device",
            reason="DEVICE_MEMORY",
        ) from error
    return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}


def extract_patches(
    encoder: Encoder,
    study: PreparedStudy | PreparedInput,
    layers: Sequence[str],
    patch_DHW: Shape,
    batch_size: int = 1,
) -> dict[str, Tensor]:
    """Extracts the features of a study whose input is larger than what the encoder reads at once.

    The features of the study are the mean of the features of its patches, with the weights of
    `patches.weigh_patches`. Raises the errors of `extract`.

    Args:
        encoder: as in `extract`.
        study: the prepared study.
        layers: as in `extract`.
        patch_DHW: size of a patch in voxels.
        batch_size: number of patches per forward pass on an accelerator.

    Returns:
        A float32 tensor (1, C) on the CPU for each layer, in the order of `layers`.
    """
    patches = list_patches(study, patch_DHW)
    weight_P = torch.tensor([weight for _, _, weight in patches], dtype=torch.float64)
    parts = []
    for first in range(0, len(patches), batch_size):
        batch = patches[first : first + batch_size]
        slices_N2 = torch.tensor([slices for _, slices, _ in batch])
        parts.append(extract(encoder, torch.stack([patch for patch, _, _ in batch]), layers, "mean", slices_N2))
    means = {layer: weight_P @ torch.cat([part[layer] for part in parts]).double() for layer in layers}
    return {layer: (mean_C / weight_P.sum()).float()[None] for layer, mean_C in means.items()}


def list_patches(study: PreparedStudy | PreparedInput, patch_DHW: Shape) -> list[tuple[Tensor, tuple[int, int], float]]:
    """Cuts the input of a study into patches. Returns each patch with its slices and its weight."""
    first, count = study.slices
    depth, height, width = study.input_CDHW.shape[1:]
    patches = []
    for (d, h, w), weight in weigh_patches((depth, height, width), patch_DHW, study.image):
        rows, columns = slice(h, h + patch_DHW[1]), slice(w, w + patch_DHW[2])
        patch_CDHW = study.input_CDHW[:, d : d + patch_DHW[0], rows, columns]
        patches.append((patch_CDHW, (first + d, count), weight))
    return patches


def _forward(
    encoder: Encoder, input_NCDHW: Tensor, layers: Sequence[str], pooling: Pooling, slices_N2: Tensor
) -> dict[str, Tensor]:
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), torch.autocast(input_NCDHW.device.type, enabled=False), exact:
        maps = encoder.feature_maps(input_NCDHW, slices_N2)
        if pooling == "mean":
            maps = {layer: pool_volume(encoder, maps[layer], slices_N2) for layer in layers}
        return {layer: maps[layer].float().cpu().contiguous() for layer in layers}


def warm_up(device: torch.device) -> None:
    """Runs the smallest encoder once, so that the first request does not wait for the device's libraries to load."""
    architecture = next(iter(ARCHITECTURES.values()))
    encoder = build_encoder(architecture, random_state(architecture, 0), device)
    input_NCDHW = torch.zeros(1, encoder.in_channels, *architecture.preprocessing.shape_dhw)
    extract(encoder, input_NCDHW, [architecture.primary_layer], "mean")
