"""Estimates the running statistics of random weights from the training cases, before the training freezes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.domain.patches import Shape
from vfmalign.models.encoder import Encoder
from vfmalign.models.running_statistics import estimate_statistics, split_batches
from vfmalign.training.data import PreparedCase, collate, list_patches


def estimate_from_cases(
    encoder: Encoder,
    train: Sequence[PreparedCase],
    patch_DHW: Shape | None,
    device: torch.device,
    check: Callable[[], None],
) -> None:
    """Estimates the running statistics of an encoder by one pass over the training cases.

    Args:
        encoder: encoder with random weights, in evaluation mode.
        train: the cases.
        patch_DHW: size of the patches that the encoder reads; None for whole inputs. Each case contributes one of its
            patches. The positions of the patches differ between cases.
        device: device of the encoder.
        check: called before each batch. Raises an error to stop.

    Raises:
        Exhausted: the device has too little memory.
    """
    if patch_DHW is not None:
        patches = [list_patches(case, patch_DHW) for case in train]
        train = [cut[number % len(cut)][0] for number, cut in enumerate(patches)]
    first = 0
    try:
        with estimate_statistics(encoder) as observe:
            for size in split_batches(len(train)):
                check()
                batch = collate(train[first : first + size], device)
                observe(batch.input_NCDHW, batch.slices_N2)
                first += size
    except torch.OutOfMemoryError as error:
        raise Exhausted(
            "the device has too little memory to estimate the statistics of random weights",
            remedy="use a larger device",
        ) from error
