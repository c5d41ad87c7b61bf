"""A task's input transforms: what an encoder sees instead of the clean study.

They run on prepared tensors, are deterministic, and are named in feature requests and manifests, so that the features
before and after fine-tuning see the same inputs. Adding one means one function and one entry.

Legend: C channels (modalities), D slices, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from vfmalign.core.errors import BadOption


def identity(volume_CDHW: Tensor) -> Tensor:
    """The study as it is."""
    return volume_CDHW


def downsample_2x(volume_CDHW: Tensor) -> Tensor:
    """Half the in-plane resolution, on the same grid: the input of the super-resolution task.

    Antialiased bilinear to half of H and W (rounded up), then bilinear back: a triangle filter removes what the coarse
    grid cannot hold, so that fine detail is lost rather than aliased.
    """
    height, width = volume_CDHW.shape[-2:]
    half = ((height + 1) // 2, (width + 1) // 2)
    small_CDHW = functional.interpolate(volume_CDHW, size=half, mode="bilinear", antialias=True)
    return functional.interpolate(small_CDHW, size=(height, width), mode="bilinear")


INPUT_TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"identity": identity, "downsample_2x": downsample_2x}


def input_transform(name: str) -> Callable[[Tensor], Tensor]:
    """The transform of that name.

    Raises:
        BadOption: there is none.
    """
    if name not in INPUT_TRANSFORMS:
        known = ", ".join(sorted(INPUT_TRANSFORMS))
        raise BadOption(f"unknown input transform {name!r}", field="input_transform", remedy=f"choose one of: {known}")
    return INPUT_TRANSFORMS[name]
