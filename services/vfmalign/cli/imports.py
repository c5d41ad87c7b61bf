"""Imports datasets and models through the feature service. The user needs only a token."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from vfmalign.cli.target import Target
from vfmalign.client import AsyncClient
from vfmalign.client.messages.features import Dataset, Model
from vfmalign.client.messages.imports import PublishDatasetRequest, PublishModelRequest
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import NotFound, PreconditionFailed
from vfmalign.core.domain.models import Objective
from vfmalign.core.domain.record import canonical_json

if TYPE_CHECKING:
    from vfmalign.imaging.datasets.importer import DatasetToImport
    from vfmalign.imaging.phantoms.dataset import PhantomDataset
    from vfmalign.models.importer import ImportedModel


OnCases = Callable[[str, int, int], None]
"""Called as `on_cases(stage, done, total)`, in cases; stages are `generate`, `upload`, `verify` and `publish`."""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Ignores the progress."""


def import_dataset(target: Target, checked: DatasetToImport, on_cases: OnCases = ignore_progress) -> Dataset:
    """Uploads a checked dataset and publishes it. If an import was interrupted, the next call continues it.

    Raises:
        Conflict: the dataset exists with different content.
        VfmalignError: the upload or the publication failed.
    """
    # An import of the same content has the same id, so that earlier uploads are found again.
    import_id = f"dataset-{hashlib.sha256(to_stored_datalist(checked.dataset)).hexdigest()[:32]}"
    total = len(checked.discovered.cases)

    async def run(client: AsyncClient) -> Dataset:
        await _check_id_is_free(client, target, checked.dataset)
        for done, volumes in enumerate(checked.encode_cases(), start=1):
            await client.datasets.upload(import_id, volumes)
            on_cases("upload", done, total)
        return await _publish(client, import_id, checked.dataset, on_cases)

    return target.run(run)


def import_phantoms(target: Target, phantoms: PhantomDataset, on_cases: OnCases = ignore_progress) -> Dataset:
    """Generates phantoms, uploads them and publishes the dataset. Raises the same errors as `import_dataset`."""
    import_id = f"phantoms-{secrets.token_hex(16)}"

    async def run(client: AsyncClient) -> Dataset:
        for done, volumes in enumerate(phantoms.generate(), start=1):
            await client.datasets.upload(import_id, list(volumes.values()))
            on_cases("generate", done, phantoms.total)
        return await _publish(client, import_id, phantoms.to_manifest(), on_cases)

    return target.run(run)


async def _publish(client: AsyncClient, import_id: str, dataset: DatasetManifest, on_cases: OnCases) -> Dataset:
    (datalist_sha256,) = await client.datasets.upload(import_id, [to_stored_datalist(dataset)])
    request = PublishDatasetRequest(import_id=import_id, dataset_id=dataset.id, datalist_sha256=datalist_sha256)
    return await client.datasets.publish(
        request, lambda progress: on_cases(progress.phase, progress.done, progress.total)
    )


def to_stored_datalist(dataset: DatasetManifest) -> bytes:
    """Returns the bytes to store for a dataset. They are uploaded last."""
    from vfmalign.core.storage.datasets import to_datalist  # with the S3 client, which takes long to import

    return canonical_json(to_datalist(dataset))


async def _check_id_is_free(client: AsyncClient, target: Target, dataset: DatasetManifest) -> None:
    """Checks before the upload that no other dataset has this id, which the service would reject in the end."""
    try:
        stored = await client.features.get_dataset(dataset.id)
    except (NotFound, PreconditionFailed):
        return
    dataset.check_is_stored(stored.dataset_digest, target.get_command(f"dataset show {dataset.id}"))


def import_model(
    target: Target,
    model_id: str,
    imported: ImportedModel,
    *,
    objective: Objective,
    source: str,
    licence: str = "",
    primary_layer: str = "",
    declaration: str = "",
) -> Model:
    """Uploads a converted model and publishes it.

    Args:
        target: the deployment.
        model_id: id of the published model. If empty, the id is derived from the architecture and weights.
        imported: the model.
        objective: objective with which the weights were trained.
        source: origin of the weights.
        licence: SPDX id of their licence; empty if unknown.
        primary_layer: layer of the main result. If empty, the architecture's default applies.
        declaration: rules for DICOM; see `ModelCard`.

    Raises:
        Conflict: the id belongs to another model.
        VfmalignError: the upload or the publication failed.
    """
    from vfmalign.models.weights import to_safetensors

    weights = to_safetensors(imported.state)
    sha256 = hashlib.sha256(weights).hexdigest()
    request = PublishModelRequest.from_fields(
        import_id=f"model-{sha256[:32]}",
        model_id=model_id or f"{imported.architecture.partition(':')[0]}-{sha256[:8]}",
        weights_sha256=sha256,
        architecture=imported.architecture,
        preprocessing=imported.preprocessing,
        objective=objective,
        primary_layer=primary_layer,
        source=source,
        licence=licence,
        tensors=imported.tensors,
        declaration=declaration,
    )

    async def run(client: AsyncClient) -> Model:
        await client.models.upload(request.import_id, weights)
        return await client.models.publish(request)

    return target.run(run)
