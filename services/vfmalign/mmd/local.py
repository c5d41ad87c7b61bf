"""Comparisons that run in this process, for the command line and batch jobs.

The samples are stored feature sets, `.npy` files or arrays.

The settings come from environment variables, as for a service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from vfmalign.client.messages.mmd import UNNAMED_LAYER, ComputeOptions, ComputeResponse
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT, TENANT_OF_KEYS, TenantName
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.settings import Settings, StoreSettings, parse
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.core.storage.arrays import NPY, read_npy
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.mmd.api import machine_memory_bytes
from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.compare import compare, compare_checked
from vfmalign.mmd.comparison.options import check_options
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.distributed import SINGLE_PROCESS, Communicator, local_device
from vfmalign.mmd.engine.row_streams import FeatureArray, NpyRows
from vfmalign.mmd.service import comparison_job
from vfmalign.mmd.service.feature_reader import FeatureReader, Stored
from vfmalign.mmd.settings import MmdOptions, to_compute_config

_URI = "s3://"
_MANIFEST = re.compile(r"features/([^/]+)/manifest\.json")
_MOST_GROWTH = 8  # bytes in memory per byte on disk: two float64 copies of float16


class ComparisonSettings(Settings):
    """Settings (environment variables) of a comparison without a server."""

    mmd: MmdOptions = MmdOptions()
    tenant: TenantName = Field(default=DEFAULT_TENANT, description=TENANT_OF_KEYS)


@dataclass(frozen=True)
class LocalComparison:
    """Comparison that is ready to run: its options and sizes were checked, and its samples were read."""

    samples: Sequence[Sample]
    options: ComputeOptions
    engine: ComputeConfig
    stages: Stages

    def run(self, communicator: Communicator = SINGLE_PROCESS) -> ComputeResponse:
        """Runs the comparison on all processes of the communicator. Raises the errors of `compare`."""
        x, y, *more = self.samples
        engine = replace(self.engine, device=local_device(self.engine.device), communicator=communicator)
        with self.stages.stage("compare"):
            result = compare_checked(x, y, more[0] if more else None, self.options, engine)
        return result.model_copy(update={"cost": comparison_job.to_cost(self.stages, engine.device)})


def prepare(places: Mapping[str, str], options: ComputeOptions, context: WorkContext = UNLIMITED) -> LocalComparison:
    """Checks a comparison and reads its samples.

    Args:
        places: where to read `x`, `y` and optionally `reference`: either paths of .npy files only, or stored feature
            sets only. The id or manifest URI of a set may be followed by `@` and the digest of the manifest.
        options: layers, estimator, kernel and test to use.
        context: deadline and cancellation.

    Raises:
        BadOption: a setting or option is invalid, or `places` mixes files and stored sets.
        TooLarge: the comparison does not fit into memory.
        VfmalignError: a sample cannot be read.
    """
    settings = parse(ComparisonSettings)
    engine = replace(to_compute_config(settings.mmd), context=context)
    if "memory_mib" not in settings.mmd.model_fields_set:
        engine = replace(engine, memory_bytes=machine_memory_bytes())
    check_options(options, has_reference="reference" in places)
    stages = Stages()
    with stages.stage("read"):
        if _are_stored(places):
            store = ObjectStore(parse(StoreSettings)).of_tenant(settings.tenant)
            samples = _read_stored(store, places, options, engine)
        else:
            samples = _read_files(places, options, engine)
    return LocalComparison(samples, options, engine, stages)


def compare_arrays(
    x: Mapping[str, FeatureArray],
    y: Mapping[str, FeatureArray],
    reference: Mapping[str, FeatureArray],
    options: ComputeOptions,
) -> ComputeResponse:
    """Compares arrays layer by layer. The memory limit is the machine's memory. Raises the errors of `compare`."""
    samples = Sample("x", x), Sample("y", y), Sample("reference", reference)
    return compare(*samples, options, ComputeConfig(memory_bytes=machine_memory_bytes()), measure_channels=False)


def _are_stored(places: Mapping[str, str]) -> bool:
    """Returns whether all samples are stored feature sets (true) or files (false).

    Raises:
        BadOption: files and stored sets are mixed. The error names the first stored set.
    """
    stored = [name for name, place in places.items() if not place.endswith(NPY)]
    if stored and len(stored) < len(places):
        raise BadOption(
            f"is a stored feature set, because its name does not end in {NPY}, but another sample is a file",
            field=stored[0],
            remedy="check the name; all samples must be .npy files, or all must be stored feature sets",
        )
    return bool(stored)


def _read_stored(
    store: ObjectStore, places: Mapping[str, str], options: ComputeOptions, engine: ComputeConfig
) -> list[Sample]:
    """Returns feature sets as arrays. If not all layers fit into memory, returns streams to read layer by layer.

    Raises:
        TooLarge: even a single layer does not fit into memory.
    """
    sources = []
    for name, place in places.items():
        feature_set, _, manifest_sha256 = place.partition("@")
        if feature_set.startswith(_URI):
            manifest = _MANIFEST.fullmatch(store.key(feature_set))
            if manifest is None:
                remedy = "give s3://…/features/…/manifest.json"
                raise BadOption("expected the URI of a feature set's manifest", field=name, remedy=remedy)
            feature_set = manifest[1]
        sources.append(Stored(name, feature_set, manifest_sha256))
    reader = FeatureReader(store)
    shapes = reader.shapes(sources)
    memory_budget.check_sizes(shapes, options, engine)
    return reader.read(sources, engine.context, by_layer=not memory_budget.fits(shapes, options, engine))


def _read_files(places: Mapping[str, str], options: ComputeOptions, engine: ComputeConfig) -> list[Sample]:
    """Returns .npy files as arrays. Returns large files as streams if random Fourier features are requested.

    Raises:
        TooLarge: the comparison does not fit into memory.
    """
    paths = {name: Path(place) for name, place in places.items()}
    if _MOST_GROWTH * sum(path.stat().st_size for path in paths.values() if path.is_file()) > engine.memory_bytes:
        streams = [Sample(name, {UNNAMED_LAYER: NpyRows(path, name)}) for name, path in paths.items()]
        memory_budget.check_samples_fit(streams, options, engine)
        if memory_budget.reads_blocks(options):
            return streams
    arrays = [Sample(name, {UNNAMED_LAYER: read_npy(path, name)}) for name, path in paths.items()]
    memory_budget.check_samples_fit(arrays, options, engine)
    return arrays
