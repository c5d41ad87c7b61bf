"""Streams of feature rows, read block by block from arrays, `.npy` files and stored feature sets.

You can read a stream any number of times. It returns the same rows each time. The stream checks that all values are
finite. Only the blocks in use are in memory.

Legend: N rows of a stream, R rows of a block, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.storage.feature_sets import Features, Manifest, read_part
from vfmalign.core.storage.store.object_store import ObjectStore

Block = TypeVar("Block")
FeatureArray = NDArray[np.floating]


class RowStream(Protocol):
    """N rows of C channels that can be read repeatedly. Do not write into blocks: they may be views of the source."""

    @property
    def rows(self) -> int:
        """N."""

    @property
    def channels(self) -> int:
        """C."""

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Yields all rows in order, as floating-point blocks [R, C] of `size` rows. The last block may be shorter."""

    def read(self, start: int, stop: int) -> Tensor:
        """Reads rows `start` to `stop − 1` as a floating-point block [R, C]."""


class ArrayRows:
    """Stream of an array or tensor in memory. Blocks are views of the array where possible.

    Args:
        features_NC: floating-point numbers, on any device.
        name: name of the sample in errors.

    Raises:
        BadTensor: the array does not have two non-empty axes or is not of a floating-point type.
    """

    def __init__(self, features_NC: Tensor | NDArray[np.generic], name: str = "x") -> None:
        floating = (
            features_NC.is_floating_point()
            if isinstance(features_NC, Tensor)
            else np.issubdtype(features_NC.dtype, np.floating)
        )
        _check_shape(tuple(features_NC.shape), floating, name)
        self._features_NC, self._name = features_NC, name
        self.rows, self.channels = int(features_NC.shape[0]), int(features_NC.shape[1])

    def blocks(self, size: int) -> Iterator[Tensor]:
        """See `RowStream`."""
        return _blocks(self, size)

    def read(self, start: int, stop: int) -> Tensor:
        """See `RowStream`."""
        _check_range(self, start, stop)
        block_RC = self._features_NC[start:stop]
        return _check_finite(block_RC if isinstance(block_RC, Tensor) else to_tensor(block_RC), start, self._name)


class NpyRows:
    """Stream of a `.npy` file. Each block maps the file anew, so that the pages of earlier blocks do not occupy memory.

    Args:
        path: path of the file. Pickled objects in the file are never loaded.
        name: name of the sample in errors. Errors do not contain `path`, because a path may identify a patient.

    Raises:
        BadTensor: the file is not a `.npy` file of floating-point numbers with two non-empty axes.
    """

    def __init__(self, path: Path, name: str = "x") -> None:
        self._path, self._name = path, name
        array_NC = self._map()
        _check_shape(array_NC.shape, np.issubdtype(array_NC.dtype, np.floating), name)
        self.rows, self.channels = int(array_NC.shape[0]), int(array_NC.shape[1])

    def blocks(self, size: int) -> Iterator[Tensor]:
        """See `RowStream`."""
        return _blocks(self, size)

    def read(self, start: int, stop: int) -> Tensor:
        """See `RowStream`."""
        _check_range(self, start, stop)
        return _check_finite(to_tensor(np.array(self._map()[start:stop], order="C")), start, self._name)

    def _map(self) -> NDArray[np.generic]:
        try:
            mapped: NDArray[np.generic] = np.load(self._path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            mapped = np.empty(0)
        if not isinstance(mapped, np.memmap):
            raise BadTensor(
                "cannot be read as a .npy file of numbers", field=self._name, remedy="save it with numpy.save"
            )
        return mapped


class StoredRows:
    """Stream of one layer of a stored feature set.

    Parts are verified by digest. The stream keeps the latest part in memory.

    A part is one object that contains all layers of some rows. Reading one layer therefore transfers all layers.

    Args:
        store: object storage that contains the feature set.
        manifest: manifest of the feature set. The constructor takes the sizes from the manifest and reads no features.
        layer: name of the layer.

    Raises:
        BadOption: the feature set does not contain this layer.
    """

    def __init__(self, store: ObjectStore, manifest: Manifest, layer: str) -> None:
        channels = {spec.name: spec.channels for spec in manifest.layers}
        self._name = f"feature set {manifest.request.feature_set_id()}"
        if layer not in channels:
            raise BadOption(
                f"`{self._name}` has no layer `{layer}`", field="layers", remedy=f"choose from {', '.join(channels)}"
            )
        self._store, self._manifest, self._layer = store, manifest, layer
        self.rows, self.channels = manifest.rows, channels[layer]
        self._last_part: tuple[int, Features] | None = None

    def blocks(self, size: int) -> Iterator[Tensor]:
        """See `RowStream`."""
        return _blocks(self, size)

    def read(self, start: int, stop: int) -> Tensor:
        """See `RowStream`.

        Raises:
            DataLoss: a part is missing, was changed, or does not match the manifest.
        """
        _check_range(self, start, stop)
        pieces = []
        for index, part in enumerate(self._manifest.parts):
            first, last = max(start, part.start_row), min(stop, part.start_row + part.rows)
            if first < last:
                pieces.append(self._part(index)[first - part.start_row : last - part.start_row])
        return _check_finite(to_tensor(np.concatenate(pieces)), start, self._name)

    def _part(self, index: int) -> Features:
        last = self._last_part  # local reference: another thread may replace the attribute
        if last is None or last[0] != index:
            last = self._last_part = None  # release the memory of one part before reading the next
            last = self._last_part = (index, read_part(self._store, self._manifest, index)[self._layer])
        return last[1]


def read_ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """Yields the blocks unchanged. A thread reads the next block while the caller processes the current block."""
    with Threads(1, "read-ahead") as pool:
        upcoming = pool.submit(next, blocks, None)
        while (block := upcoming.result()) is not None:
            upcoming = pool.submit(next, blocks, None)
            yield block


def read_rows(stream: RowStream, rows: Sequence[int]) -> Tensor:
    """Reads single rows in the given order, [R, C]. Ascending order is fastest."""
    return torch.cat([stream.read(0, 1)[:0], *(stream.read(row, row + 1) for row in rows)])


def to_stream(features: FeatureArray | RowStream, name: str) -> RowStream:
    """Converts an array to a stream; returns a stream unchanged."""
    return ArrayRows(features, name) if isinstance(features, np.ndarray) else features


def to_numpy(block_RC: Tensor) -> NDArray[Any]:
    """Converts a block to numpy. Types that numpy lacks (bfloat16, float8) become float32 without loss."""
    in_numpy = not block_RC.is_floating_point() or block_RC.dtype in (torch.float16, torch.float32, torch.float64)
    return np.asarray((block_RC if in_numpy else block_RC.float()).cpu().numpy())


def check_group_count(groups: Sequence[str], rows: int, name: str) -> None:
    """Raises BadTensor if the number of groups of the sample `name` differs from its number of rows."""
    if len(groups) != rows:
        raise BadTensor(
            f"expected one group per row, got {len(groups)} groups for {rows} rows",
            field=f"{name}.groups",
            remedy="send as many groups as rows",
        )


def check_compatible(x: RowStream, y: RowStream, *, paired: bool) -> None:
    """Checks that two streams can be compared.

    Raises:
        BadTensor: the streams have different numbers of channels, or paired samples have different numbers of rows.
    """
    if x.channels != y.channels:
        raise BadTensor(
            f"has {y.channels} channels, x has {x.channels}", field="y", remedy="compare features of the same layer"
        )
    if paired and x.rows != y.rows:
        raise BadTensor(
            f"paired samples need equal row counts, got {x.rows} and {y.rows}",
            field="y",
            remedy="send the same cases in the same order, or compare the samples as independent",
        )


def _blocks(stream: RowStream, size: int) -> Iterator[Tensor]:
    """Yields the blocks that `read` returns, one after another."""
    if size < 1:
        raise BadOption(f"expected blocks of at least one row, got {size}", field="size")
    return (stream.read(start, min(start + size, stream.rows)) for start in range(0, stream.rows, size))


def _check_range(stream: RowStream, start: int, stop: int) -> None:
    if not 0 <= start < stop <= stream.rows:
        raise BadOption(f"rows {start} to {stop} are out of range: the stream has {stream.rows} rows", field="rows")


def _check_shape(shape: tuple[int, ...], floating: bool, name: str) -> None:
    if len(shape) != 2 or 0 in shape:
        raise BadTensor(
            f"expected shape [rows, channels], got {list(shape)}", field=name, remedy="pool to one row per case"
        )
    if not floating:
        raise BadTensor("expected floating-point numbers", field=name, remedy="convert it to float32")


def to_tensor(block_RC: NDArray[np.generic]) -> Tensor:
    """Converts a block to a tensor.

    Copies the block only if its data type, byte order, strides or flags require a copy.
    """
    native = block_RC.dtype.newbyteorder("=")
    usable = native if native.itemsize <= 8 else np.dtype(np.float64)
    block_RC = block_RC.astype(usable, copy=False)
    # torch does not support negative strides, as in x[::-1].
    shareable = block_RC.flags.writeable and min(block_RC.strides) >= 0
    return torch.from_numpy(block_RC if shareable else block_RC.copy())


def _check_finite(block_RC: Tensor, start: int, name: str) -> Tensor:
    # A finite sum proves that all entries are finite, in a fraction of the time of checking each entry.
    if not bool(block_RC.sum().isfinite()):
        finite_R = block_RC.isfinite().all(dim=1)
        if not bool(finite_R.all()):
            row = start + int((~finite_R).nonzero()[0, 0])
            raise BadTensor(
                f"row {row} (from 0) contains NaN or infinity",
                field=name,
                remedy="leave out rows without valid features",
            )
    return block_RC
